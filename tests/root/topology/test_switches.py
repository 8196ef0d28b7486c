"""What switches and neighbours are asked to be is what they then are, and does what it is there for."""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import time

import pytest

from unnoticed.agents.announce import Announcer, frames_for
from unnoticed.errors import FabricError
from unnoticed.probes.namespace import inside_network_of
from unnoticed.topology.announcement_filter import COUNTER, TABLE
from unnoticed.topology.bridge import forwarding_port, set_gate
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.firewall import counted
from unnoticed.topology.namespaces import read_device, run_inside
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.nft import read_table
from unnoticed.topology.quietly import Topo
from unnoticed.topology.switch import BRIDGE, DISABLED, FORWARDING
from unnoticed.topology.switching import Switching

pytestmark = pytest.mark.root


def up(run, *, shape="tree", clients=1, **asked):
    switching = {name: asked.pop(name) for name in list(asked) if name in Switching.__dataclass_fields__}
    neighbours = {name: asked.pop(name) for name in list(asked) if name in Neighbours.__dataclass_fields__}
    spec = FabricSpec(
        shape=shape, clients=clients, switching=Switching(**switching), neighbours=Neighbours(**neighbours), **asked
    )
    return Fabric(spec, run_id=run.id)


def said(fabric, place, *argv):
    process = fabric.popen(place, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=30)
    return output


def answers(fabric, place, *, count=3):
    target = fabric.places["guest-a"].ipv4
    output = said(fabric, place, "ping", "-c", str(count), "-i", "0.1", "-W", "1", target)
    return int(re.search(r"(\d+) received", output)[1])


def entry(fabric, place):
    """What the neighbour table of a place has for the guest."""
    return said(fabric, place, "ip", "neighbour", "show", fabric.places["guest-a"].ipv4)


def forget(fabric, place):
    said(fabric, place, "ip", "neighbour", "flush", fabric.places["guest-a"].ipv4)


def move_the_guest(fabric):
    for host, state in (("a", DISABLED), ("b", FORWARDING)):
        run_inside([(fabric.places[host].pid, functools.partial(set_gate, state, where=host))])


def announce(fabric, guest="guest-b"):
    place = fabric.places[guest]
    with inside_network_of(place.pid):
        announcer = Announcer(place.interface)
    announcer.send(frames_for("garp", mac=place.mac, ipv4=place.ipv4))
    announcer.close()
    time.sleep(0.1)


def guest_is_toward(fabric, switch):
    place = fabric.switches[switch]
    return place.ports.get(forwarding_port(place.pid, fabric.places["guest-a"].mac))


def send_from(fabric, place, *, sources):
    """A frame from each of so many MAC addresses, to nobody."""
    with inside_network_of(fabric.places[place].pid):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind((fabric.places[place].interface, 0))
    for number in range(sources):
        sender.send(b"\xff" * 6 + b"\x02\x99\x00\x00" + number.to_bytes(2, "big") + b"\x88\xb5" + bytes(46))
    sender.close()
    time.sleep(0.1)


def learned(fabric, switch):
    """How many addresses a switch has learned."""
    output = said(fabric, switch, "bridge", "fdb", "show", "br", "br0")
    return sum("permanent" not in line and "self" not in line for line in output.splitlines())


def test_what_a_switch_learned_is_forgotten_when_it_has_aged(run):
    with up(run, ageing_ns=1_000_000_000) as fabric:
        assert guest_is_toward(fabric, "s1") == "s2"
        deadline = time.monotonic() + 20
        while guest_is_toward(fabric, "s1") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answers(fabric, "c1") == 3  # it is flooded


def test_a_silent_guest_that_moved_is_found_again_as_soon_as_the_tables_have_aged(run):
    with up(run, ageing_ns=1_000_000_000) as fabric:
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        deadline = time.monotonic() + 20
        while not answers(fabric, "c1", count=1):
            assert time.monotonic() < deadline


def test_switches_that_do_not_learn_are_hubs_and_a_guest_is_found_wherever_it_moves(run):
    with up(run, learning=False) as fabric:
        assert learned(fabric, "s1") == 0
        move_the_guest(fabric)
        assert answers(fabric, "c1") == 3


@pytest.mark.since_kernel("6.7")
def test_a_switch_that_may_learn_only_so_much_learns_no_more_but_moves_what_it_knows(run):
    with up(run, learning_limit=20) as fabric:
        send_from(fabric, "c1", sources=100)
        assert learned(fabric, "s1") == 20
        assert guest_is_toward(fabric, "s1") == "s2"
        move_the_guest(fabric)
        announce(fabric)
        assert guest_is_toward(fabric, "s1") == "s3"
    with up(run) as fabric:
        send_from(fabric, "c1", sources=100)
        assert learned(fabric, "s1") > 100


class Rooted(Topo):
    """A switch that is to be the root of the tree, come what may."""

    def build(self):
        self.addSwitch("s1", prio=0, stp=True)
        for host in ("a", "b", "c1"):
            self.addLink(self.addHost(host), "s1")


def test_a_switch_may_have_the_lowest_priority_of_all(run):
    with Fabric(FabricSpec(clients=1), run_id=run.id, topo=Rooted()) as fabric:
        assert read_device(fabric.switches["s1"].pid, BRIDGE, "bridge/priority") == "0"


@pytest.mark.parametrize(("dropped", "found"), [("none", 3), ("rarp", 3), ("garp", 0), ("all", 0)])
def test_switches_drop_the_announcements_that_they_are_asked_to_drop(run, dropped, found):
    with up(run, drop_announcements=dropped) as fabric:
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        announce(fabric)
        assert answers(fabric, "c1") == found
        assert guest_is_toward(fabric, "s3") == ("b" if found else "s1")
        if dropped != "none":
            [table] = run_inside([(fabric.switches["s3"].pid, functools.partial(read_table, "bridge", TABLE))])
            assert counted(table)[COUNTER] == (found == 0)


@pytest.mark.parametrize("accepts", [False, True])
def test_an_entry_is_made_of_an_announcement_where_it_is_accepted_and_only_there(run, accepts):
    with up(run, shape="router", arp_accept=accepts, at="routers") as fabric:
        for place in ("r1", "control"):
            forget(fabric, place)
        announce(fabric, "guest-a")
        assert (fabric.places["guest-a"].mac in entry(fabric, "r1")) is accepts
        assert fabric.places["guest-a"].mac not in entry(fabric, "control")


def test_a_neighbour_that_drops_gratuitous_arp_does_not_learn_another_mac(run):
    with up(run, drop_gratuitous_arp=True, at="hosts", guest_mac="new") as fabric:
        old, new = fabric.places["guest-a"].mac, fabric.places["guest-b"].mac
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        announce(fabric)
        assert old in entry(fabric, "c1")
        assert answers(fabric, "c1") == 0
        assert new not in entry(fabric, "c1")


def test_whoever_knows_the_guest_for_good_does_not_ask_and_does_not_learn(run):
    with up(run, shape="router", static=True) as fabric:
        assert "PERMANENT" in entry(fabric, "r1")
        assert "PERMANENT" in entry(fabric, "control")
        assert entry(fabric, "c1") == ""  # it speaks to its gateway
        assert answers(fabric, "c1") == 3
    with up(run, static=True, at="hosts", guest_mac="new") as fabric:
        assert "PERMANENT" in entry(fabric, "c1")
        move_the_guest(fabric)
        announce(fabric)
        assert answers(fabric, "c1") == 0


def test_a_setting_that_did_not_take_is_told(run, monkeypatch):
    from unnoticed.topology import bridge

    right = bridge.filter_lines
    monkeypatch.setattr(bridge, "filter_lines", lambda dropped, guest: right(dropped, guest=guest)[:-1])
    with pytest.raises(FabricError, match=r"The filter of s\d is not what was asked for: the rules are \[\]"):
        up(run, drop_announcements="garp").start()
