"""For each shape the one thing that it is there for."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from unnoticed.topology.bridge import BLOCKING, FORWARDING, forwarding_port, port_state
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.link import set_administrative

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
