"""A guest moves in every mode, under every policy, over IPv4 and over IPv6; frames are dropped or held by turns."""

import itertools
from typing import get_args

import pytest

from unnoticed.agents.policy_catalogue import catalogue
from unnoticed.experiments.planning.settings import ROUNDLESS, MigrationSettings

pytestmark = pytest.mark.root

MODES = get_args(MigrationSettings.model_fields["mode"].annotation)
WAYS = [
    *((mode, "none") for mode in ROUNDLESS),
    *itertools.product((mode for mode in MODES if mode not in ROUNDLESS), catalogue().policies),
]
GAPS = itertools.cycle(get_args(MigrationSettings.model_fields["gap"].annotation))


@pytest.fixture(scope="module", params=[("ipv4", "zipf"), ("ipv6", "bursts")], ids="-".join)
def travelling(request, make_stage, tmp_path_factory):
    """A guest under load that goes to and fro; in the end nobody was harmed."""
    ip, pattern = request.param
    made = make_stage(tmp_path_factory.mktemp(ip), hold=True, ip=ip)
    try:
        made.boot(memory_bytes=32 << 20, working_set_bytes=2 << 20, dirty_bytes_per_s=4 << 20, pattern=pattern)
        client = made.load(rate_hz=200, connections=4)
        made.at = "a"
        yield made
        made.check_unharmed(client)
        ended = {event["remote"].rsplit(":", 1)[0] for event in made.events("socket") if event["who"] == "c1"}
        assert ended == {{"ipv4": "10.77.0.100", "ipv6": "[fd77::64]"}[ip]}
        assert not made.events("trouble") + made.events("connection-lost")
    finally:
        made.close()


@pytest.mark.parametrize(("mode", "policy", "gap"), [(*way, next(GAPS)) for way in WAYS])
def test_a_guest_under_load_moves_and_is_whole(travelling, mode, policy, gap):
    source, destination = travelling.at, "b" if travelling.at == "a" else "a"
    report = travelling.migrate(source, destination, mode=mode, policy=policy, gap=gap, parameters={})
    if report["outcome"] == "gave-up":  # as some policies do on a machine that is too busy
        assert f"the {policy} policy sees no end" in report["reason"]
        travelling.check_guest(source)
        return
    assert (report["outcome"], report["reason"]) == ("completed", "")
    assert report["connections"] >= 6
    travelling.agents[destination].wait_reply("arrival", 20)
    travelling.at = destination
    travelling.check_guest(destination)
