"""Links that change while the fabric is up. Nothing here asserts a duration."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from unnoticed.errors import MachineError, PlanError
from unnoticed.topology import emulator
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec

pytestmark = pytest.mark.root

MS = 1_000_000


def answered(fabric, count=300):
    """How many of so many echo requests from c1 to control are answered."""
    argv = ["ping", "-q", "-n", "-i", "0.002", "-c", str(count), "-W", "1", fabric.places["control"].ipv4]
    output, _ = fabric.popen("c1", argv, stdout=subprocess.PIPE, text=True).communicate(timeout=60)
    return int(re.search(r"(\d+) received", output).group(1))


def fastest_ms(fabric):
    """The shortest round trip, by ping's clock: NTP may have that run slower than ours, by 500 ppm."""
    argv = ["ping", "-q", "-n", "-i", "0.01", "-c", "20", fabric.places["control"].ipv4]
    output, _ = fabric.popen("c1", argv, stdout=subprocess.PIPE, text=True).communicate(timeout=60)
    return float(re.search(r"= ([0-9.]+)/", output).group(1)) * 1.0005


def carrier(fabric, place, interface):
    pid = (fabric.places.get(place) or fabric.switches[place]).pid
    return Path(f"/proc/{pid}/root/sys/class/net/{interface}/carrier").read_text().strip()


@pytest.fixture
def no_netem(monkeypatch):
    monkeypatch.setattr(emulator, "try_netem", lambda: False)


def test_a_loss_comes_and_goes(run):
    later = LinkChange(link="c1>s1", loss_ppm=500_000)
    with Fabric(FabricSpec(shape="single", clients=1, later=(later,)), run_id=run.id) as fabric:
        assert answered(fabric) == 300
        fabric.change_link(later)
        assert 90 < answered(fabric) < 210
        [way] = [way for way in fabric.ways() if way.name == "c1>s1"]
        assert (way.asked.loss_ppm, way.means) == (500_000, "HTB, nftables")
        fabric.change_link(LinkChange(link="c1>s1", loss_ppm=1_000_000))
        assert answered(fabric, 50) == 0
        lost = fabric.lost_frames()["c1>s1"]
        fabric.restore_link("c1-s1")
        assert answered(fabric) == 300
        assert fabric.lost_frames()["c1>s1"] == lost  # counted since the start


def test_a_delay_comes_and_goes(run, no_netem):
    later = LinkChange(link="c1-s1", rate_bit_per_s=100_000_000, delay_ns=20 * MS)
    with Fabric(
        FabricSpec(shape="single", clients=1, rate_bit_per_s=100_000_000, later=(later,)), run_id=run.id
    ) as fabric:
        before = fastest_ms(fabric)
        fabric.change_link(later)
        assert fastest_ms(fabric) >= 40
        fabric.restore_link("c1-s1")
        assert fastest_ms(fabric) < 40
        assert before < 40


def test_a_rate_changes_and_is_read_back(run):
    with Fabric(FabricSpec(shape="single", clients=1), run_id=run.id) as fabric:
        fabric.change_link(LinkChange(link="c1>s1", rate_bit_per_s=10_000_000, queue_ns=100 * MS))
        shown = subprocess.run(
            ["nsenter", "-t", str(fabric.places["c1"].pid), "-n", "tc", "class", "show", "dev", "c1-eth0"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "rate 10Mbit ceil 10Mbit" in shown
        asked = {way.name: way.asked.rate_bit_per_s for way in fabric.ways()}
        assert (asked["c1>s1"], asked["s1>c1"]) == (10_000_000, 1_000_000_000)


def test_a_cut_takes_the_carrier_from_both_ends_and_a_restored_link_carries_again(run):
    with Fabric(FabricSpec(shape="single", clients=1), run_id=run.id) as fabric:
        fabric.cut_link("c1-s1")
        assert carrier(fabric, "c1", "c1-eth0") == "0"
        assert answered(fabric, 20) == 0
        fabric.restore_link("c1-s1")
        assert carrier(fabric, "c1", "c1-eth0") == "1"
        assert fabric.check_reachability() > 0


def test_a_host_keeps_its_carrier_where_the_cut_was_foreseen_and_the_switch_does_not(run):
    with Fabric(FabricSpec(shape="single", clients=1, cut_later=("c1-s1",)), run_id=run.id) as fabric:
        [port] = [port for port, node in fabric.switches["s1"].ports.items() if node == "c1"]
        statistics = Path(f"/proc/{fabric.places['c1'].pid}/root/sys/class/net/c1-eth0/statistics/tx_packets")
        fabric.cut_link("c1-s1")
        assert (carrier(fabric, "c1", "c1-eth0"), carrier(fabric, "s1", port)) == ("1", "0")
        before = int(statistics.read_text())
        assert answered(fabric, 20) == 0
        assert int(statistics.read_text()) - before >= 20  # it sends, and sees that it does
        fabric.restore_link("c1-s1")
        assert carrier(fabric, "s1", port) == "1"
        assert fabric.check_reachability() > 0


def test_a_cut_between_switches_is_felt_at_both_ends(run):
    with Fabric(FabricSpec(shape="tree", clients=1, adjustable=True), run_id=run.id) as fabric:
        [link] = [link for link in fabric.describe()["links"] if {end["node"] for end in link["ends"]} == {"s1", "s2"}]
        ends = [(end["node"], end["interface"]) for end in link["ends"]]
        fabric.cut_link("s1-s2")
        assert [carrier(fabric, *end) for end in ends] == ["0", "0"]
        fabric.restore_link("s1-s2")
        assert [carrier(fabric, *end) for end in ends] == ["1", "1"]


def test_a_relay_survives_a_cut(run, no_netem):
    change = LinkChange(link="c1-s1", delay_ns=MS)
    spec = FabricSpec(shape="single", clients=1, rate_bit_per_s=100_000_000, links=(change,))
    with Fabric(spec, run_id=run.id) as fabric:
        fabric.cut_link("c1-s1")
        assert answered(fabric, 10) == 0
        fabric.restore_link("c1-s1")
        assert fabric.check_reachability() > 0


def test_an_adjustable_link_can_be_asked_for_a_delay_that_nobody_foresaw(run, no_netem, processes_of):
    spec = FabricSpec(shape="single", clients=1, rate_bit_per_s=100_000_000, adjustable=True)
    with Fabric(spec, run_id=run.id) as fabric:
        fabric.change_link(LinkChange(link="c1-s1", delay_ns=15 * MS))
        assert fastest_ms(fabric) >= 30
        assert {way.means for way in fabric.ways() if "c1" in way.name} == {"HTB, relay"}
        fabric.change_link(LinkChange(link="a-s1", delay_ns=MS))
        assert fabric.check_reachability() > 0
    assert processes_of(run.id) == {}


def test_a_link_that_was_not_made_for_it_refuses_a_loss(run):
    with Fabric(FabricSpec(shape="single", clients=1), run_id=run.id) as fabric:
        with pytest.raises(PlanError, match=r"made to hold a rate and nothing more: .* fabric\.schedule"):
            fabric.change_link(LinkChange(link="c1-s1", loss_ppm=1))
        with pytest.raises(PlanError, match="has no link 's1-s9'"):
            fabric.cut_link("s1-s9")


def test_a_change_that_nothing_here_can_make_is_refused_at_the_start(run, no_netem, processes_of):
    spec = FabricSpec(shape="single", rate_bit_per_s=None, later=(LinkChange(link="c1-s1", delay_ns=MS),))
    with pytest.raises(MachineError, match="Links faster than 1 Gbit/s"):
        Fabric(spec, run_id=run.id).start()
    assert processes_of(run.id) == {}
