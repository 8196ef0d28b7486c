from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unnoticed.errors import FabricError, MachineError
from unnoticed.probes.namespace import inside_network_of
from unnoticed.topology import fabric as fabric_module
from unnoticed.topology import runs
from unnoticed.topology.fabric import Fabric, FabricSpec, check_machine
from unnoticed.topology.shaping import Shaping

pytestmark = pytest.mark.root

ETH_P_ALL = 3


def said(fabric, place, *argv):
    process = fabric.popen(place, argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output


def test_a_fabric_that_was_up_leaves_nothing_and_host_wide_settings_alone(run, traces, processes_of):
    before = traces()
    with Fabric(FabricSpec(shape="tree", clients=4), run_id=run.id) as fabric:
        assert len(processes_of(fabric.id)) == 12
        assert traces() == before
        shells = [Path(f"/proc/{place.pid}") for place in (*fabric.places.values(), *fabric.switches.values())]
    assert traces() == before
    assert processes_of(run.id) == {}
    assert not any(shell.exists() for shell in shells)
    assert fabric.places == {}
    fabric.stop()


@pytest.mark.parametrize("shape", ["single", "tree", "ring", "leaf-spine"])
def test_places_and_switches_are_named_and_addressed_as_agreed(run, shape):
    with Fabric(FabricSpec(shape=shape, clients=2), run_id=run.id) as fabric:
        assert set(fabric.places) == {"a", "b", "guest-a", "guest-b", "control", "c1", "c2"}
        assert fabric.clients == ("c1", "c2")
        places = {name: (place.interface, place.ipv4, place.mac) for name, place in fabric.places.items()}
        assert places["a"] == ("br0", "10.77.0.1", "02:77:00:00:00:01")
        assert places["c2"] == ("c2-eth0", "10.77.1.2", "02:77:00:00:01:02")
        assert places["guest-a"] == places["guest-b"] == ("eth0", "10.77.0.100", "02:77:00:00:00:64")
        beside = {"single": ("s1", "s1"), "tree": ("s2", "s1"), "ring": ("s2", "s1"), "leaf-spine": ("leaf1", "leaf3")}
        assert set(fabric.host_bridges["a"].ports.values()) == {"guest-a", beside[shape][0]}
        assert fabric.host_bridges["b"].ports["guest"] == "guest-b"
        assert "control" in fabric.switches[beside[shape][1]].ports.values()
        for name, (interface, ipv4, mac) in places.items():
            (link,) = json.loads(said(fabric, name, "ip", "-j", "address", "show", "dev", interface))
            assert (link["address"], link["addr_info"][0]["local"], link["mtu"]) == (mac, ipv4, 1500)
            assert len(link["addr_info"]) == 1  # and no IPv6


def test_what_is_described_is_what_was_read_back_and_fits_into_json(fabric):
    description = json.loads(json.dumps(fabric.describe()))
    assert description["gates"] == {"a": 3, "b": 0}
    shaped = [link for link in description["links"] if link["asked"]]
    plain = [link for link in description["links"] if not link["asked"]]
    assert len(shaped) == 7
    assert {end["interface"] for link in plain for end in link["ends"]} == {"eth0", "guest"}
    for end in (end for link in shaped for end in link["ends"]):
        assert (end["read"]["rate_bit_per_s"], end["read"]["limit_bytes"]) == (1_000_000_000, 1_250_000)


def test_every_veth_steers_its_flows_and_every_name_is_in_its_own_namespace(fabric):
    for link in fabric.describe()["links"]:
        for end in link["ends"]:
            place = end["node"]
            output = said(fabric, place, "sh", "-c", f"cat /sys/class/net/{end['interface']}/queues/rx-*/rps_cpus")
            assert int(output.replace(",", ""), 16) == sum(1 << cpu for cpu in os.sched_getaffinity(0))


def test_a_process_is_what_was_asked_for_and_carries_the_marks_even_with_an_environment_of_its_own(fabric):
    script = "import os; print(os.getpid(), os.environ['UNNOTICED_RUN'], os.environ.get('HOME'), os.environ.get('X'))"
    process = fabric.popen("c1", [sys.executable, "-c", script], env={"X": "1"}, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=30)
    assert output.split() == [str(process.pid), fabric.run_id, "None", "1"]


def test_stop_ends_what_still_runs_in_the_fabric(run, processes_of):
    with Fabric(FabricSpec(shape="single"), run_id=run.id) as fabric:
        command = "trap '' HUP TERM; echo there; setsid sleep 1000 & sleep 1000"
        stubborn = fabric.popen("s1", ["sh", "-c", command], stdout=subprocess.PIPE)
        assert stubborn.stdout.readline() == b"there\n"
        stubborn.stdout.close()
    assert stubborn.wait(5) == -9
    assert processes_of(run.id) == {}


def test_an_unknown_place_is_refused_with_those_there_are(fabric):
    with pytest.raises(FabricError, match="no place 'c9'; it has a, b, control"):
        fabric.popen("c9", ["true"])


def test_a_failed_start_leaves_nothing(run, traces, processes_of, monkeypatch):
    before = traces()
    right = Shaping.lines
    monkeypatch.setattr(
        Shaping,
        "lines",
        lambda self, device: [line.replace("rate 1000000000bit", "rate 9Mbit") for line in right(self, device)],
    )
    fabric = Fabric(FabricSpec(), run_id=run.id)
    with pytest.raises(FabricError, match="is not what was asked for: rate_bit_per_s is 9000000 instead of 1000000000"):
        fabric.start()
    assert processes_of(run.id) == {}
    assert traces() == before
    monkeypatch.undo()
    with fabric:
        assert fabric.gate("a") == 3


def test_an_interrupt_while_starting_leaves_nothing(run, processes_of, monkeypatch):
    from unnoticed.topology.network import Network

    def interrupt(self):
        assert processes_of(run.id)
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "add_guests", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Fabric(FabricSpec(), run_id=run.id).start()
    assert processes_of(run.id) == {}


def test_a_command_that_fails_is_in_the_error_with_what_it_said(run, processes_of, monkeypatch):
    monkeypatch.setattr(Shaping, "lines", lambda self, device: [f"qdisc add dev {device} root no-such-qdisc"])
    with pytest.raises(FabricError, match=r"`tc qdisc add dev \S+ root no-such-qdisc` failed: .*unknown"):
        Fabric(FabricSpec(), run_id=run.id).start()
    assert processes_of(run.id) == {}


@pytest.fixture
def mnexec(tmp_path, monkeypatch):
    def replace(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "mnexec").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "mnexec").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    check_machine.cache_clear()
    yield replace
    check_machine.cache_clear()


def test_a_mnexec_that_fails_is_told_before_mininet_waits_for_it(run, mnexec):
    mnexec("echo unshare: Operation not permitted; exit 1")
    with pytest.raises(MachineError, match=r"\(unshare: Operation not permitted\): a container needs to be privileged"):
        Fabric(FabricSpec(), run_id=run.id).start()


def test_a_mnexec_that_hangs_is_told_too(run, mnexec, monkeypatch):
    mnexec("exec sleep 100")
    monkeypatch.setattr(fabric_module, "_MNEXEC_TIMEOUT_S", 0.2)
    with pytest.raises(MachineError, match="did not make a namespace"):
        Fabric(FabricSpec(), run_id=run.id).start()


def test_many_clients_are_no_trouble(run, traces):
    before = traces()
    with Fabric(FabricSpec(shape="tree", clients=60), run_id=run.id) as fabric:
        assert fabric.places["c60"].ipv4 == "10.77.1.60"
    assert traces() == before


@pytest.mark.slow
def test_two_hundred_namespaces_are_no_trouble(run, traces):
    before = traces()
    with Fabric(FabricSpec(shape="tree", clients=192), run_id=run.id) as fabric:
        places = (*fabric.places.values(), *fabric.switches.values())
        assert len({os.readlink(f"/proc/{place.pid}/ns/net") for place in places}) == 200  # noqa: PTH115
        assert fabric.check_reachability() >= 0
    assert traces() == before


def open_ear(fabric, place):
    """A socket that hears every frame at a place or at a switch."""
    with inside_network_of((fabric.places.get(place) or fabric.switches[place]).pid):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ear.setblocking(False)
    return ear


def heard(ear):
    """The frames that an ear has heard."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield ear.recv(2048)


def shout(fabric, tag):
    """A broadcast with a tag from every host."""
    for place in fabric.places.values():
        with inside_network_of(place.pid):
            mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        mouth.bind((place.interface, 0))
        mouth.send(b"\xff" * 6 + bytes.fromhex(place.mac.replace(":", "")) + b"\x88\xb5" + tag.ljust(46, b"."))
        mouth.close()


def test_two_fabrics_that_are_alike_hear_only_themselves_and_one_that_is_killed_takes_nothing_with_it(
    fabric, tmp_path, processes_of
):
    with runs.Run(registry=tmp_path / "other") as other_run:
        other = Fabric(fabric.spec, run_id=other_run.id)
        other.start()
        assert [place.ipv4 for place in other.places.values()] == [place.ipv4 for place in fabric.places.values()]
        ears = {
            (each.id, name): open_ear(each, name) for each in (fabric, other) for name in (*each.places, *each.switches)
        }
        for each in (fabric, other):
            shout(each, each.id.encode())
        time.sleep(0.2)
        for (whose, name), ear in ears.items():
            own, foreign = (fabric, other) if whose == fabric.id else (other, fabric)
            frames = list(heard(ear))
            assert any(own.id.encode() in frame for frame in frames), name
            assert not any(foreign.id.encode() in frame for frame in frames), name
            ear.close()
        for process in processes_of(other.id).values():
            os.kill(process.pid, signal.SIGKILL)
        assert fabric.check_reachability() >= 0
        other.stop()
        assert fabric.check_reachability() >= 0
