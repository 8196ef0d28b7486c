"""A fabric with IPv6: everybody is there over both families, and nobody says a word of NDP that was not asked for."""

from __future__ import annotations

import functools
import re
import select
import socket
import subprocess
import time

import pytest

from unnoticed.agents.announce import Announcer, frames_for
from unnoticed.probes.namespace import inside_network_of
from unnoticed.topology.bridge import DISABLED, FORWARDING, forwarding_port, set_gate
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.firewall import counted
from unnoticed.topology.host import firewall_counters
from unnoticed.topology.namespaces import run_inside
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.nft import read_table
from unnoticed.topology.switching import Switching

pytestmark = pytest.mark.root

ETH_P_ALL = 3  # one protocol alone is only heard coming in


def up(run, *, shape="tree", neighbours=None, switching=None, **asked):
    spec = FabricSpec(
        shape=shape, ipv6=True, neighbours=neighbours or Neighbours(), switching=switching or Switching(), **asked
    )
    return Fabric(spec, run_id=run.id)


def said(fabric, place, *argv):
    process = fabric.popen(place, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=30)
    return output


def answers(fabric, place, *, count=3):
    target = fabric.places["guest-a"].ipv6
    output = said(fabric, place, "ping", "-6", "-c", str(count), "-i", "0.1", "-W", "1", target)
    return int(re.search(r"(\d+) received", output)[1])


def known_mac(fabric, place):
    output = said(fabric, place, "ip", "-6", "neighbour", "show", fabric.places["guest-a"].ipv6)
    found = re.search(r"lladdr (\S+)", output)
    return found[1] if found else None


def move_the_guest(fabric):
    for host, state in (("a", DISABLED), ("b", FORWARDING)):
        run_inside([(fabric.places[host].pid, functools.partial(set_gate, state, where=host))])


def announce(fabric, kinds, guest="guest-b"):
    place = fabric.places[guest]
    with inside_network_of(place.pid):
        announcer = Announcer(place.interface)
    announcer.send(frames_for(kinds, mac=place.mac, ipv4=place.ipv4, ipv6=place.ipv6))
    announcer.close()
    time.sleep(0.1)


def guest_is_toward(fabric, switch):
    place = fabric.switches[switch]
    return place.ports.get(forwarding_port(place.pid, fabric.places["guest-a"].mac))


def test_places_have_an_ipv6_address_beside_the_other_and_ports_of_bridges_have_none(run):
    with up(run, clients=2) as fabric:
        addresses = {name: place.ipv6 for name, place in fabric.places.items()}
        assert addresses["guest-a"] == addresses["guest-b"] == "fd77::64"
        assert (addresses["a"], addresses["control"], addresses["c2"]) == ("fd77::1", "fd77::3", "fd77::102")
        for name, place in fabric.places.items():
            shown = said(fabric, name, "ip", "-6", "-o", "address", "show", "dev", place.interface)
            assert f"{place.ipv6}/64 scope global nodad" in shown
            assert "tentative" not in shown
        for place, port in (("a", "guest"), ("s1", "s1-eth1"), ("s1", "br0")):
            assert said(fabric, place, "ip", "-6", "address", "show", "dev", port) == ""


def test_a_silent_guest_that_moved_says_nothing_of_ipv6_by_itself(run):
    """Neither solicitations of routers, nor of its own address, nor reports of multicast groups: for two seconds."""
    with up(run) as fabric:
        assert answers(fabric, "c1") == 3
        with inside_network_of(fabric.places["guest-b"].pid):
            listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listening.bind(("eth0", ETH_P_ALL))
        move_the_guest(fabric)
        heard, deadline = [], time.monotonic() + 2
        while select.select([listening], [], [], max(deadline - time.monotonic(), 0))[0]:
            frame, (_, _, kind, *_) = listening.recvfrom(200)
            heard += [frame.hex()] if kind == socket.PACKET_OUTGOING else []
        listening.close()
        assert heard == []
        assert guest_is_toward(fabric, "s1") == "s2"


@pytest.mark.parametrize("kinds", ["garp", "garp-reply", "rarp", "na"])
def test_any_announcement_teaches_the_switches_for_both_families(run, kinds):
    with up(run) as fabric:
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        assert answers(fabric, "c1", count=1) == 0
        announce(fabric, kinds)
        assert (guest_is_toward(fabric, "s1"), guest_is_toward(fabric, "s3")) == ("s3", "b")
        assert answers(fabric, "c1") == 3


def test_neighbours_learn_another_mac_from_what_announces_the_address_that_they_speak_to(run):
    with up(run, guest_mac="new") as fabric:
        old, new = fabric.places["guest-a"].mac, fabric.places["guest-b"].mac
        assert answers(fabric, "c1") == 3
        # Nor has a switch heard of the guest's other address: what was reported of multicast groups is forgotten.
        assert [forwarding_port(switch.pid, new) for switch in fabric.switches.values()] == [None] * 3
        move_the_guest(fabric)
        for kinds, known in (("garp", old), ("garp-reply", old), ("rarp", old), ("na", new)):
            announce(fabric, kinds)
            assert known_mac(fabric, "c1") == known, kinds
        assert answers(fabric, "c1") == 3


@pytest.mark.parametrize(("dropped", "found"), [("garp", 3), ("na", 0)])
def test_switches_drop_the_advertisements_that_they_are_asked_to_drop(run, dropped, found):
    with up(run, switching=Switching(drop_announcements=dropped)) as fabric:
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        announce(fabric, "na")
        assert answers(fabric, "c1") == found
        [table] = run_inside([(fabric.switches["s3"].pid, functools.partial(read_table, "bridge", "unnoticed"))])
        assert counted(table)["announcements"] == (found == 0)


def test_clients_behind_a_firewall_reach_the_guest_and_their_gateway_learns_where_it_is(run):
    with up(run, shape="firewall", guest_mac="new") as fabric:
        assert fabric.places["c1"].ipv6 == "fd77:0:0:1::101"
        assert answers(fabric, "c1") == 3
        move_the_guest(fabric)
        assert answers(fabric, "c1", count=1) == 0
        announce(fabric, "na")
        assert known_mac(fabric, "fw1") == fabric.places["guest-b"].mac
        assert answers(fabric, "c1") == 3
        ping = said(fabric, "guest-b", "ping", "-6", "-c", "1", "-W", "1", fabric.places["c1"].ipv6)
        assert "0 received" in ping
        [refused] = run_inside([(fabric.places["fw1"].pid, firewall_counters)])
        assert refused["refused"] >= 1


def test_neighbours_that_drop_announcements_drop_advertisements_and_those_that_accept_them_are_routers(run):
    with up(run, guest_mac="new", neighbours=Neighbours(drop_gratuitous_arp=True, at="hosts")) as fabric:
        assert answers(fabric, "c1") == 3
        announce(fabric, "na")
        assert known_mac(fabric, "c1") == fabric.places["guest-a"].mac
    for accepts in (False, True):
        with up(run, shape="router", neighbours=Neighbours(arp_accept=accepts)) as fabric:
            said(fabric, "r1", "ip", "-6", "neighbour", "flush", fabric.places["guest-a"].ipv6)
            announce(fabric, "na", guest="guest-a")
            assert (known_mac(fabric, "r1") == fabric.places["guest-a"].mac) is accepts
