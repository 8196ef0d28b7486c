"""Loss on links: how many frames, counted where they are sent, where they are dropped, and where they arrive."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from unnoticed.errors import FabricError, PlanError
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.forwarding import Way
from unnoticed.topology.quietly import Topo

pytestmark = pytest.mark.root

FRAMES = 20_000
_OTHER_FRAMES = 3  # that may be lost besides: a kernel asks now and then whether a neighbour is still there


def echoes(fabric, place, target, count=FRAMES):
    """Send so many echo requests as fast as the answers come; (sent, answered)."""
    argv = ["ping", "-q", "-n", "-f", "-c", str(count), "-W", "1", fabric.places[target].ipv4]
    process = fabric.popen(place, argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=60)
    sent, answered = re.search(r"(\d+) packets transmitted, (\d+) received", output).groups()
    return int(sent), int(answered)


def test_a_link_loses_the_share_asked_for_in_the_direction_asked_for_and_counts_each(run):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="c1>s1", loss_ppm=20_000),))
    with Fabric(spec, run_id=run.id) as fabric:
        before = fabric.lost_frames()
        sent, answered = echoes(fabric, "c1", "control")
        lost = {way: count - before[way] for way, count in fabric.lost_frames().items()}
        [link] = [link for link in fabric.describe()["links"] if link["through"]]
    assert lost["s1>c1"] == 0
    assert 0 <= lost["c1>s1"] - (sent - answered) <= _OTHER_FRAMES
    # 99.99 % of a binomial distribution lies within four standard deviations
    assert abs(lost["c1>s1"] - 0.02 * sent) < 4 * (sent * 0.02 * 0.98) ** 0.5
    assert [end["node"] for end in link["ends"]] == ["c1", "s1"]


class TwiceLinked(Topo):
    """Two links between two switches, of which one is slow and lossy."""

    def build(self):
        for switch in ("s1", "s2"):
            self.addSwitch(switch)
        self.addLink("s1", "s2", bw=10, loss=5)
        self.addLink("s1", "s2", bw=100)
        for host, switch in (("a", "s1"), ("b", "s2"), ("c1", "s2")):
            self.addLink(self.addHost(host), switch)


def test_each_of_two_links_between_two_switches_is_what_it_was_asked_to_be(run):
    with Fabric(FabricSpec(clients=1), run_id=run.id, topo=TwiceLinked()) as fabric:
        described = fabric.describe()
    trunks = [link for link in described["links"] if {end["node"] for end in link["ends"]} == {"s1", "s2"}]
    read = [[end["read"]["rate_bit_per_s"] for end in link["ends"]] for link in trunks]
    assert read == [[10_000_000] * 2, [100_000_000] * 2]
    assert [len(link["through"]) for link in trunks] == [2, 0]
    assert [each["direction"]["loss_ppm"] for each in described["passages"]] == [50_000] * 2


def test_what_is_lost_was_sent_at_one_end_and_did_not_arrive_at_the_other(run):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="c1-s1", loss_ppm=100_000),))
    with Fabric(spec, run_id=run.id) as fabric:
        [link] = [link for link in fabric.describe()["links"] if link["through"]]

        def look():
            counts = dict(fabric.lost_frames())
            for end in link["ends"]:
                folder = Path(f"/proc/{end['pid']}/root/sys/class/net/{end['interface']}/statistics")
                counts |= {(end["node"], way): int((folder / f"{way}_packets").read_text()) for way in ("tx", "rx")}
            return counts

        before = look()
        sent, answered = echoes(fabric, "c1", "control", 2000)
        new = {what: count - before[what] for what, count in look().items()}
    assert sent > answered
    assert new["c1", "tx"] == new["s1", "rx"] + new["c1>s1"]
    assert new["s1", "tx"] == new["c1", "rx"] + new["s1>c1"]
    assert min(new["c1>s1"], new["s1>c1"]) > 0


def test_frames_of_a_fabric_with_losses_are_no_larger_than_the_mtu(run):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="c1-s1", loss_ppm=1),))
    receive = "import socket; s = socket.create_server(('', 5000)); c = s.accept()[0]\nwhile c.recv(1 << 20): pass"
    send = (
        "import socket, time\n"
        "for _ in range(100):\n"
        "    try: s = socket.create_connection(('{}', 5000)); break\n"
        "    except ConnectionRefusedError: time.sleep(0.05)\n"
        "s.sendall(bytes(5_000_000)); s.shutdown(1); s.recv(1)"
    )
    with Fabric(spec, run_id=run.id) as fabric:
        statistics = f"/proc/{fabric.switches['s1'].pid}/root/sys/class/net/s1-eth4/statistics"
        assert fabric.switches["s1"].ports["s1-eth4"] == "c1"

        def received():
            return [int(Path(f"{statistics}/rx_{what}").read_text()) for what in ("packets", "bytes")]

        frames_before, bytes_before = received()
        server = fabric.popen("control", ["python3", "-c", receive])
        client = fabric.popen("c1", ["python3", "-c", send.format(fabric.places["control"].ipv4)])
        assert (client.wait(30), server.wait(30)) == (0, 0)
        frames, size = (now - before for now, before in zip(received(), (frames_before, bytes_before), strict=True))
    assert size > 5_000_000
    assert size / frames <= 1514


def test_a_link_that_the_fabric_does_not_have_is_told_before_anything_is_built(run, processes_of):
    spec = FabricSpec(shape="single", clients=1, links=(LinkChange(link="s1-s2", loss_ppm=1),))
    with pytest.raises(PlanError, match=r"has no link 's1-s2'; its links are a-s1, b-s1, c1-s1, control-s1\."):
        Fabric(spec, run_id=run.id).start()
    assert processes_of(run.id) == {}


def test_a_loss_that_is_not_the_one_asked_for_fails_the_start(run, processes_of, monkeypatch):
    right = Way.rules
    monkeypatch.setattr(Way, "rules", lambda way: [rule.replace("< 5000", "< 6000") for rule in right(way)])
    with pytest.raises(FabricError, match="Links are not what was asked for"):
        Fabric(FabricSpec(shape="single", loss_ppm=5000), run_id=run.id).start()
    assert processes_of(run.id) == {}


def test_all_links_may_lose_frames_and_everybody_still_reaches_everybody(run, traces):
    before = traces()
    with Fabric(FabricSpec(shape="tree", clients=3, loss_ppm=10_000), run_id=run.id) as fabric:
        passages = fabric.describe()["passages"]
        assert len(passages) == 2 * 8
        assert {passage["means"] for passage in passages} == {"nftables"}
        assert fabric.check_reachability() > 0
    assert traces() == before
