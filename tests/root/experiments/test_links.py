"""Measuring links of a real network; nothing here asserts a duration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from unnoticed.experiments.links.judging import differences
from unnoticed.experiments.links.measuring import measure
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.namespaces import run_batch, run_inside
from unnoticed.topology.runs import Run

pytestmark = pytest.mark.root


@pytest.fixture
def measured(tmp_path):
    """Measure the links of a network of one client after something was done to it: by direction, (asked, measured)."""

    def look(*changes, tamper=lambda _fabric: None, rates=False):
        spec = FabricSpec(shape="single", clients=1, rate_bit_per_s=50_000_000, queue_ns=20_000_000, links=changes)
        with Run(registry=tmp_path / "registry") as run, Fabric(spec, run_id=run.id) as fabric:
            tamper(fabric)
            found = measure(fabric.ways(), probes=1000, rates=rates)
        return {one.way.name: (one.way.asked, one.measured) for one in found}

    return look


def test_every_direction_of_every_link_is_measured_by_itself(measured):
    found = measured(LinkChange(link="c1>s1", loss_ppm=100_000))
    assert set(found) == {"a>s1", "s1>a", "b>s1", "s1>b", "c1>s1", "s1>c1", "control>s1", "s1>control"}
    lost = {name: one.lost for name, (_, one) in found.items()}
    assert 60 < lost.pop("c1>s1") < 140
    assert set(lost.values()) == {0}


def test_a_loss_that_nobody_asked_for_is_found(measured):
    def tamper(fabric):
        [passage] = [each for each in fabric.describe()["passages"] if each["sender"] == "c1"]
        [pid] = {end["pid"] for link in fabric.describe()["links"] for end in link["through"]}
        from unnoticed.topology.forwarding import Way, run_nft

        way = Way(inlet=passage["inlet"], outlet=passage["outlet"], loss_ppm=200_000)
        run_inside([(pid, lambda: run_nft(way.change_lines()))])

    asked, found = measured(LinkChange(link="c1>s1", loss_ppm=10_000), tamper=tamper)["c1>s1"]
    assert asked.loss_ppm == 10_000
    assert any("frames were lost, where" in each for each in differences(asked, found))


def test_a_rate_that_is_not_the_one_asked_for_is_found(measured):
    def tamper(fabric):
        [device] = [way.sender.interface for way in fabric.ways() if way.name == "s1>control"]
        change = f"class change dev {device} parent 1: classid 1:1 htb rate 10mbit ceil 10mbit burst 15k cburst 15k"
        run_inside([(fabric.switches["s1"].pid, lambda: run_batch(["tc"], [change]))])

    asked, found = measured(tamper=tamper, rates=True)["s1>control"]
    assert any("the rate is" in each for each in differences(asked, found))
    assert found.rate_bit_per_s < 15_000_000


def test_the_lab_verifies_the_links_of_a_plan_and_leaves_nothing(machine):
    before = machine()
    overrides = ["fabric.shape=single", "clients.count=1", "fabric.links.c1-s1.loss=1 %"]
    arguments = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "unnoticed", "lab", "demo", "--verify", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    links = json.loads(done.stdout)["links"]
    assert done.returncode == (1 if any(link["differences"] for link in links) else 0)
    assert {link["link"]: link["means"] for link in links}["c1>s1"] == "HTB, nftables"
    assert all(link["measured"]["sent"] == 2000 for link in links)
    assert machine.is_again(before)
