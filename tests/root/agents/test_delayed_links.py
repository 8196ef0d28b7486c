"""Whole migrations over links that delay and lose frames: by netem where the kernel has it, by the relay elsewhere."""

import pytest

from unnoticed.agents.tracking import available
from unnoticed.patience import patient
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.emulator import try_netem
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

pytestmark = pytest.mark.root

MS = 1_000_000


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    """Three switches; two milliseconds to each host; one frame in 500 is lost on the way to and from the client."""
    spec = FabricSpec(
        shape="tree",
        clients=1,
        rate_bit_per_s=100_000_000,
        links=(LinkChange(link="hosts-switches", delay_ns=2 * MS), LinkChange(link="c1-s1", loss_ppm=2000)),
    )
    run = Run(output=tmp_path_factory.mktemp("run"))
    run.begin()
    try:
        with Fabric(spec, run_id=run.id) as fabric:
            yield fabric
    finally:
        run.end()


def test_a_guest_moves_over_them_under_load_and_no_byte_is_wrong(stage):
    stage.boot(memory_bytes=32 << 20)
    client = stage.load(rate_hz=40, connections=4)
    for source, destination in (("a", "b"), ("b", "a")):
        report = stage.migrate(source, destination, policy="fixed-rounds", parameters={"rounds": 3}, verify=True)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        assert report["tracker"] == available()[0]
        stage.agents[destination].wait_reply("arrival", patient(10))
    described = stage.fabric.describe()["passages"]
    delaying = {each["means"] for each in described if each["direction"]["delay_ns"]}
    assert delaying == {"netem" if try_netem() else "relay"}
    losing = [f"{each['sender']}>{each['receiver']}" for each in described if each["direction"]["loss_ppm"]]
    lost = stage.fabric.lost_frames()
    assert sorted(losing) == ["c1>s1", "s1>c1"]
    assert all(lost[name] > 0 for name in losing)
    stage.check_guest("a", resumes=3)
    stage.check_unharmed(client)


def test_frames_are_held_across_several_switches_and_follow_the_guest(holding):
    holding.boot(memory_bytes=32 << 20)
    client = holding.load(rate_hz=200, connections=4)
    for source, destination in (("a", "b"), ("b", "a")):
        report = holding.migrate(source, destination)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        holding.agents[destination].wait_reply("arrival", patient(10))
    held = holding.events("held")
    assert [event["refused"] for event in held] == [0, 0]
    assert sum(event["frames"] for event in held) > 0
    holding.check_guest("a", resumes=3)
    holding.check_unharmed(client)
