"""Links whose delay is the kernel's own (sch_netem). Nothing here has an upper bound on a time.

Migrations over such links: tests/root/agents/test_delayed_links.py.
"""

import re
import subprocess

import pytest

from unnoticed.topology.direction import LinkChange
from unnoticed.topology.emulator import try_netem
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

pytestmark = pytest.mark.root

MS = 1_000_000


@pytest.fixture
def run(tmp_path):
    with Run(registry=tmp_path / "registry") as run:
        yield run


def echoes(fabric, count, interval_s):
    """Echo requests from the client to the control server: how many were sent, the round trips in ms."""
    argv = ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", "5", fabric.places["control"].ipv4]
    process = fabric.popen("c1", argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=600)
    return int(re.search(r"(\d+) packets transmitted", output)[1]), [
        float(time) for time in re.findall(r"time=([\d.]+)", output)
    ]


def delaying(described):
    """What implements the passages that delay frames."""
    return {each["means"] for each in described["passages"] if each["direction"]["delay_ns"]}


def test_this_kernel_has_it():
    assert try_netem()


def test_every_frame_of_a_link_waits_as_long_as_asked_in_each_direction(run):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="c1-s1", delay_ns=20 * MS),))
    with Fabric(spec, run_id=run.id) as fabric:
        assert delaying(fabric.describe()) == {"netem"}
        sent, times_ms = echoes(fabric, 50, 0.1)
    assert len(times_ms) == sent == 50
    assert min(times_ms) >= 40


def test_a_link_that_delays_and_loses_does_both(run):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="c1>s1", delay_ns=5 * MS, loss_ppm=200_000),))
    with Fabric(spec, run_id=run.id) as fabric:
        before = fabric.lost_frames()["c1>s1"]
        sent, times_ms = echoes(fabric, 400, 0.02)
        lost = fabric.lost_frames()["c1>s1"] - before
    # Of the frames lost, a few may be ARP's. 99.99 % of a binomial distribution lies within four standard deviations.
    assert sent - len(times_ms) <= lost <= sent - len(times_ms) + 5
    assert abs(sent - len(times_ms) - 0.2 * sent) < 4 * (sent * 0.2 * 0.8) ** 0.5
    assert min(times_ms) >= 5
