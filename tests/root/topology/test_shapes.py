"""For each shape the one thing that it is there for."""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import time

import pytest
from pyroute2 import NFCTSocket

from unnoticed.agents.announce import Announcer, frames_for
from unnoticed.errors import MachineError
from unnoticed.probes.namespace import inside_network_of
from unnoticed.topology.bridge import forwarding_port, port_state, set_gate
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.host import firewall_counters
from unnoticed.topology.link import set_administrative
from unnoticed.topology.namespaces import run_inside, set_sysctl
from unnoticed.topology.switch import BLOCKING, DISABLED, FORWARDING

pytestmark = pytest.mark.root

PERIOD_S = 0.05


class Pings:
    """Echoes to the guest from one place, all the time. Times are of CLOCK_REALTIME."""

    def __init__(self, fabric, place):
        argv = ["ping", "-D", "-i", str(PERIOD_S), fabric.places["guest-a"].ipv4]
        self._process = fabric.popen(place, argv, stdout=subprocess.PIPE, text=True)
        self._first = self._process.stdout.readline()

    def stop(self):
        """When each answer came, and the numbers of the echoes that had one."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=10)
        found = re.findall(r"^\[([0-9.]+)\] .*icmp_seq=(\d+)", said, re.MULTILINE)
        return [float(when) for when, _ in found], [int(number) for _, number in found]


def cut(fabric, pairs, *, up=False):
    for pair in pairs:
        (ends,) = [link.ends for link in fabric.network.links if {end.node for end in link.ends} == set(pair)]
        set_administrative([end for end in ends if end.node in fabric.switches], up=up)


def spares(fabric):
    """The switch ports that block, and where they lead."""
    return {
        (name, toward): (switch.pid, port)
        for name, switch in fabric.switches.items()
        for port, toward in switch.ports.items()
        if port_state(switch.pid, port) == BLOCKING
    }


TREES = {
    # the shape, its only spare ports, what is cut, which spare takes over, who is cut off and who is not
    "ring": ([("s3", "s4")], [("s1", "s2")], ("s3", "s4"), "c4", "c2"),
    "leaf-spine": ([("spine2", "leaf2"), ("spine2", "leaf3")], [("spine1", "leaf1")], ("spine2", "leaf2"), "c2", "c1"),
}


@pytest.mark.parametrize("shape", ["ring", "leaf-spine"])
def test_the_tree_stands_again_after_a_cut_and_the_outage_is_its(run, shape):
    spared, cuts, taking_over, cut_off, beside_the_guest = TREES[shape]
    with Fabric(FabricSpec(shape=shape, clients=4), run_id=run.id) as fabric:
        before = spares(fabric)
        assert taking_over in before
        assert set(before) == set(spared)
        pid, port = before[taking_over]
        near, far = Pings(fabric, beside_the_guest), Pings(fabric, cut_off)
        time.sleep(0.5)
        cut_at = time.time()
        cut(fabric, cuts)
        while port_state(pid, port) != FORWARDING:
            assert time.time() < cut_at + 30, "the spare link never took over"
            time.sleep(0.005)
        forwards_at = time.time()
        while forwarding_port(fabric.switches[taking_over[0]].pid, fabric.places[cut_off].mac) != port:
            assert time.time() < forwards_at + 30, "the tables never learned the new way"
            time.sleep(0.05)
        time.sleep(0.5)
        answered_at, answered = far.stop()
        _, all_along = near.stop()
    assert sum(when < cut_at for when in answered_at) > 5
    assert [when for when in answered_at if cut_at + PERIOD_S < when < forwards_at - PERIOD_S] == []
    assert answered_at[-1] > forwards_at
    assert len(answered) < answered[-1] - answered[0] + 1  # what was lost, was lost for good
    assert len(all_along) == all_along[-1] - all_along[0] + 1  # and who is beside the guest lost nothing


def said(fabric, place, *argv):
    process = fabric.popen(place, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=30)
    return output


def answers(fabric, place, to="guest-a"):
    """How many of five echoes were answered."""
    output = said(fabric, place, "ping", "-c", "5", "-i", "0.1", "-W", "1", fabric.places[to].ipv4)
    return int(re.search(r"(\d+) received", output)[1])


def known_mac(fabric, place):
    """Which MAC the neighbour table of a place gives the guest."""
    found = re.search(r"lladdr (\S+)", said(fabric, place, "ip", "neighbour", "show", fabric.places["guest-a"].ipv4))
    return found[1] if found else None


def move_the_guest(fabric):
    for host, state in (("a", DISABLED), ("b", FORWARDING)):
        run_inside([(fabric.places[host].pid, functools.partial(set_gate, state, where=host))])


def announce(fabric):
    """A gratuitous ARP by the guest, at the destination."""
    guest = fabric.places["guest-b"]
    with inside_network_of(guest.pid):
        announcer = Announcer(guest.interface)
    announcer.send(frames_for("garp", mac=guest.mac, ipv4=guest.ipv4))
    announcer.close()


def test_a_gateway_sends_to_where_the_guest_was_until_it_is_announced(run):
    with Fabric(FabricSpec(shape="router", clients=1, guest_mac="new"), run_id=run.id) as fabric:
        old, new = fabric.places["guest-a"].mac, fabric.places["guest-b"].mac
        assert old != new
        assert answers(fabric, "c1") == 5
        assert known_mac(fabric, "r1") == old
        assert known_mac(fabric, "c1") is None  # it knows its gateway
        move_the_guest(fabric)
        assert answers(fabric, "c1") == 0
        assert known_mac(fabric, "r1") == old
        announce(fabric)
        assert answers(fabric, "c1") == 5
        assert known_mac(fabric, "r1") == new


def test_a_gateway_behind_which_a_guest_keeps_its_mac_knows_it_all_along_but_the_switches_do_not(run):
    with Fabric(FabricSpec(shape="router", clients=1), run_id=run.id) as fabric:
        assert answers(fabric, "c1") == 5
        move_the_guest(fabric)
        assert answers(fabric, "c1") == 0
        mac = fabric.places["guest-b"].mac
        assert known_mac(fabric, "r1") == mac
        core = fabric.switches["s1"]
        assert core.ports[forwarding_port(core.pid, mac)] == "s2"
        announce(fabric)
        assert answers(fabric, "c1") == 5
        assert core.ports[forwarding_port(core.pid, mac)] == "s3"


class Stream:
    """A TCP connection between two places."""

    def __init__(self, fabric, client, server, *, port):
        with inside_network_of(fabric.places[server].pid):
            self._listener = socket.create_server(("0.0.0.0", port))
        try:
            with inside_network_of(fabric.places[client].pid):
                self._client = socket.create_connection((fabric.places[server].ipv4, port), timeout=2)
        except TimeoutError:
            self._listener.close()
            raise
        self._server, _ = self._listener.accept()
        self._server.settimeout(2)

    def answers(self, text):
        self._client.sendall(text)
        return self._server.recv(100) == text

    def close(self):
        for each in (self._client, self._server, self._listener):
            each.close()


def refused(fabric):
    [found] = run_inside([(fabric.places["fw1"].pid, firewall_counters)])
    return found


def test_a_firewall_lets_clients_in_and_what_answers_them_and_nobody_else(run):
    with Fabric(FabricSpec(shape="firewall", clients=1), run_id=run.id) as fabric:
        stream = Stream(fabric, "c1", "guest-a", port=7000)
        assert stream.answers(b"one")
        assert refused(fabric) == {"refused": 0, "invalid": 0}
        with pytest.raises(TimeoutError):
            Stream(fabric, "guest-a", "c1", port=7001)
        assert answers(fabric, "guest-a", to="c1") == 0
        assert refused(fabric)["refused"] >= 6  # five echoes, and at least one SYN
        assert stream.answers(b"two")
        stream.close()


def test_a_firewall_takes_segments_of_a_connection_that_it_never_saw_begin_for_invalid(run):
    with Fabric(FabricSpec(shape="firewall", clients=1), run_id=run.id) as fabric:
        place = fabric.places["fw1"]
        before = Stream(fabric, "c1", "guest-a", port=7000)
        assert before.answers(b"one")

        def forget():
            set_sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
            with NFCTSocket() as conntrack:
                conntrack.flush()

        run_inside([(place.pid, forget)])  # as a firewall that was restarted, or another one that took over
        with pytest.raises(TimeoutError):
            before.answers(b"two")
        assert refused(fabric)["invalid"] > 0
        after = Stream(fabric, "c1", "guest-a", port=7001)
        assert after.answers(b"three")
        for stream in (before, after):
            stream.close()


def test_two_sites_are_as_far_apart_as_their_link_is_long(run):
    wan = LinkChange(link="site1-site2", delay_ns=15_000_000, rate_bit_per_s=100_000_000)
    try:
        with Fabric(FabricSpec(shape="two-sites", clients=2, links=(wan,)), run_id=run.id) as fabric:
            times = {}
            for client in ("c1", "c2"):
                ping = said(fabric, client, "ping", "-c", "9", "-i", "0.1", fabric.places["guest-a"].ipv4)
                times[client] = float(re.search(r"= ([\d.]+)/", ping)[1])  # the least, which no other load prolongs
    except MachineError as error:
        pytest.skip(str(error))
    assert times["c1"] < 15
    assert 30 <= times["c2"] < 30 + 15
