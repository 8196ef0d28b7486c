"""Switches that are Open vSwitch's, on the kernel's datapath: what each setting makes of them, and whole migrations."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from tests.root.agents.conftest import Stage
from tests.root.experiments.conftest import small_plan, start_run, wait_until  # noqa: F401  # fixtures
from tests.root.experiments.test_crash import clean

from unnoticed.agents.announce import Announcer, frames_for
from unnoticed.errors import FabricError
from unnoticed.experiments.doctor.capabilities import CAPABILITIES, find
from unnoticed.patience import patient
from unnoticed.probes.namespace import inside_network_of
from unnoticed.probes.table_poller import TablePoller
from unnoticed.topology.bridge import set_gate
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.link import set_administrative
from unnoticed.topology.namespaces import run_inside
from unnoticed.topology.runs import REGISTRY, Run
from unnoticed.topology.switch import BLOCKING, DISABLED, FORWARDING
from unnoticed.topology.switching import Switching

pytestmark = pytest.mark.root

S = 1_000_000_000


@contextmanager
def up(tmp_path, shape="tree", **switching):
    spec = FabricSpec(shape=shape, clients=2, switching=Switching(kind="ovs", **switching))
    with (
        Run(registry=tmp_path / "registry") as run,
        Fabric(spec, run_id=run.id, registry=tmp_path / "registry") as fabric,
    ):
        yield fabric


def answers(fabric, count=3):
    argv = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", "5", fabric.places["guest-a"].ipv4]
    process = fabric.popen("c1", argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=patient(60))
    return int(re.search(r"(\d+) received", output)[1])


def move_the_guest(fabric):
    for host, state in (("a", DISABLED), ("b", FORWARDING)):
        run_inside([(fabric.places[host].pid, functools.partial(set_gate, state, where=host))])


def announce(fabric):
    place = fabric.places["guest-b"]
    with inside_network_of(place.pid):
        announcer = Announcer(place.interface)
    announcer.send(frames_for("garp", mac=place.mac, ipv4=place.ipv4))
    announcer.close()
    time.sleep(patient(0.1))


def polls(fabric, switch):
    """What a poller saw re-learned, until it has seen something."""
    place = fabric.switches[switch]
    macs = [fabric.places["guest-a"].mac]
    return TablePoller(switch, control=place.control, ports=place.numbers, macs=macs)


def wait_for(condition):
    deadline = time.monotonic() + patient(60)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_doctor_finds_it():
    found = find(next(entry for entry in CAPABILITIES if entry.name == "Open vSwitch"))
    assert found.works, found.detail


def test_a_switch_of_it_follows_the_announcement_and_is_seen_to(tmp_path):
    with up(tmp_path) as fabric:
        assert fabric.guest_port("s1") == "s1-eth1"
        poller = polls(fabric, "s1")
        assert poller.port == "s1-eth1"
        move_the_guest(fabric)
        announce(fabric)
        seen = []
        wait_for(lambda: seen.extend(poller.receive()) or seen)
        poller.close()
        assert [(one.previous, one.port) for one in seen] == [("s1-eth1", "s1-eth2")]
        assert fabric.switches["s1"].ports["s1-eth2"] == "s3"
        assert fabric.guest_port("s1") == "s1-eth2"
        assert answers(fabric) == 3
        folder = tmp_path / "registry" / fabric.run_id / fabric.id
        assert (folder / "s1" / "conf.db").exists()
    assert not folder.exists()


def test_one_that_drops_announcements_learns_nothing_from_them(tmp_path):
    with up(tmp_path, shape="single", drop_announcements="garp") as fabric:
        before = fabric.guest_port("s1")
        move_the_guest(fabric)
        announce(fabric)
        assert fabric.guest_port("s1") == before


def test_one_that_does_not_learn_is_a_hub(tmp_path):
    with up(tmp_path, shape="single", learning=False) as fabric:
        assert answers(fabric) == 3
        assert fabric.guest_port("s1") is None
        move_the_guest(fabric)
        assert answers(fabric) == 3


def test_it_forgets_whom_it_does_not_hear(tmp_path):
    with up(tmp_path, shape="single", ageing_ns=15 * S) as fabric:
        assert fabric.guest_port("s1") is not None
        wait_for(lambda: fabric.guest_port("s1") is None)


@pytest.mark.parametrize("stp", [None, "rapid"])
def test_its_spanning_tree_stands_and_stands_again_after_a_cut(tmp_path, stp):
    with up(tmp_path, shape="ring", stp=stp) as fabric:
        switches = {switch.name: switch for switch in fabric.network.switches}

        def blocked():
            states = {name: switch.port_states() for name, switch in switches.items()}
            return {
                (name, port) for name, ports in states.items() for port, state in ports.items() if state == BLOCKING
            }

        spare = blocked()
        assert [{name, fabric.switches[name].ports[port]} for name, port in spare] == [{"s3", "s4"}]
        (ends,) = [link.ends for link in fabric.network.links if {end.node for end in link.ends} == {"s1", "s2"}]
        set_administrative(ends, up=False)
        wait_for(lambda: all(switches[name].port_states()[port] == FORWARDING for name, port in spare))
        wait_for(lambda: answers(fabric, count=1) == 1)


def test_a_daemon_that_died_is_told(tmp_path):
    with up(tmp_path, shape="single") as fabric:
        poller = polls(fabric, "s1")
        fabric.network["s1"].end()
        with pytest.raises(Exception, match="does not answer any more"):
            wait_for(poller.receive)
        poller.close()
        with pytest.raises(FabricError, match="s1: Open vSwitch"):
            fabric.guest_port("s1")


def test_a_guest_migrates_over_it_to_and_fro_and_the_core_is_seen_to_re_learn(tmp_path):
    # With agents and a load alone: a whole run's probes, a thousand per second, are too many for an emulated machine.
    with up(tmp_path) as fabric, contextlib.closing(Stage(fabric, tmp_path)) as stage:
        stage.boot(memory_bytes=32 << 20, dirty_bytes_per_s=1 << 20)
        client = stage.load(rate_hz=20, connections=4, connect_hz=0)
        toward = {"a": "s1-eth1", "b": "s1-eth2"}
        for source, destination in (("a", "b"), ("b", "a")):
            wait_for(lambda port=toward[source]: fabric.guest_port("s1") == port)
            with contextlib.closing(polls(fabric, "s1")) as poller:
                report = stage.migrate(source, destination, policy="fixed-rounds", parameters={"rounds": 2})
                assert (report["outcome"], report["reason"]) == ("completed", "")
                stage.agents[destination].wait_reply("arrival", patient(10))
                seen = []
                wait_for(lambda seen=seen, poller=poller: seen.extend(poller.receive()) or seen)
            assert (seen[0].previous, seen[0].port) == (toward[source], toward[destination])
        stage.check_guest("a", resumes=3)
        stage.check_unharmed(client)


def test_a_run_over_it_that_is_killed_leaves_nothing_after_clean(start_run):  # noqa: F811
    run = start_run("run", "--set", "fabric.switch.kind=ovs")
    wait_until(lambda: run.is_registered, what="the run registered", timeout_s=patient(60))
    daemons = lambda: [each for each in run.processes() if each.name == "ovs-vswitchd"]  # noqa: E731
    wait_until(daemons, what="its daemons", timeout_s=patient(60))
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    clean()
    assert run.processes() == []
    assert not (REGISTRY / run.id).exists()
