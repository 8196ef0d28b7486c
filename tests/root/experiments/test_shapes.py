"""Runs of the whole product on other networks than the tree: stock shapes, and the user's own."""

from __future__ import annotations

import subprocess

import pytest
from tests.root.experiments.conftest import UNNOTICED

from unnoticed.results.store import RunFolder

pytestmark = pytest.mark.root

OWN = """from mininet.topo import Topo


class MyTopo(Topo):
    def build(self):
        left, right = self.addSwitch("s1"), self.addSwitch("s2")
        self.addLink(left, right)
        for number in (1, 2, 3):
            self.addLink(self.addHost(f"h{number}"), left)
        self.addLink(self.addHost("h4"), right)
"""


def said_of(run):
    """The tables of a run, whose one trial must have gone well."""
    assert run.wait() == 0, run.stderr()
    tables = RunFolder(run.out).load()
    (trial,) = tables.trials.to_dict("records")
    assert trial["outcome"] == "completed"
    assert trial["integrity"]
    assert trial["captures_complete"]
    assert trial["resets"] == 0
    return tables


@pytest.mark.parametrize(
    ("shape", "ip"),
    [("ring", "ipv4"), ("leaf-spine", "ipv4"), ("two-sites", "ipv4"), ("router", "ipv4"), ("firewall", "ipv6")],
)
def test_a_guest_migrates_on_every_shape(start_run, shape, ip):
    options = ("--set", f"fabric.shape={shape}", "--set", "clients.count=2", "--set", f"clients.ip={ip}")
    tables = said_of(start_run("run", *options))
    assert tables.flows["remote"].str.startswith("[fd77:").all() == (ip == "ipv6")


@pytest.mark.parametrize("ip", ["ipv4", "ipv6"])
def test_a_gateway_that_must_learn_another_mac_is_seen_to_learn_it_from_the_announcement(start_run, ip):
    options = ("--set", "fabric.shape=router", "--set", "guest.mac=new", "--set", f"clients.ip={ip}")
    tables = said_of(start_run("run", *options))
    learned = {row["switch"]: row for row in tables.relearned.to_dict("records")}
    assert learned["r1"]["port"] == "02:77:00:00:00:65"
    assert learned["r1"]["cause"] == "announcement"
    assert learned["s1"]["cause"] == "announcement"


def test_without_an_announcement_no_client_of_a_gateway_hears_of_a_guest_that_has_another_mac(start_run):
    options = ("fabric.shape=router", "guest.mac=new", "migration.announce=none", "phases.cool_down=1 s")
    tables = said_of(start_run("run", *(word for option in options for word in ("--set", option))))
    (trial,) = tables.trials.to_dict("records")
    assert "r1" not in set(tables.relearned["switch"])
    assert trial["perceived_ns"] >= 1_000_000_000  # it was not over when the bench ended it


def test_a_topology_of_the_users_own_runs_from_a_file_beside_the_plan(start_run, small_plan):
    (small_plan.parent / "lab.py").write_text(OWN)
    small_plan.write_text(small_plan.read_text().replace("count = 1\n", ""))
    roles = ("--set", "fabric.source=h1", "--set", "fabric.destination=h4")
    tables = said_of(start_run("run", "--set", "fabric.shape=lab.py:MyTopo", *roles))
    assert set(tables.flows["client"]) == {"h2", "h3"}
    assert set(tables.relearned["switch"]) == {"s1", "s2"}


def test_a_role_that_no_host_can_play_ends_it_before_it_begins(small_plan):
    (small_plan.parent / "lab.py").write_text(OWN)
    command = [*UNNOTICED, "run", str(small_plan), "--set", "fabric.shape=lab.py:MyTopo", "--set", "fabric.source=h1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("fabric.destination: the topology ")
    assert 'MyTopo has no host "b" to be the destination; its hosts are h1, h2, h3, h4: name one of them' in sentence
