"""Every retransmission counted and typed, against TCP_INFO, the namespaces' counters and the kernel's own account.

What happens to each frame is decided by the test (fixture `road`). The cause of each retransmission is what called
the tracepoint tcp_retransmit_skb: the retransmission timer, the loss probe's timer, or acknowledgements, and then in
which congestion state.
"""

import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from unnoticed.clock import now_ns, realtime_offset_ns
from unnoticed.probes.packets import parse
from unnoticed.probes.pcap import read_pcap
from unnoticed.probes.retransmits import count_retransmits
from unnoticed.probes.tcp_flows import address
from unnoticed.tcpinfo import TcpInfo, read_tcp_info

pytestmark = pytest.mark.root
TCP = socket.IPPROTO_TCP
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, SEND_QUEUE = 19, 20, 21, 2
DELAY_S = 0.003
KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One end's TCP_INFO."""

    flow: str
    info: TcpInfo
    time_ns: int


class Bench:
    """Connections from a to b, and their counters."""

    def __init__(self, road):
        self.road, self.relay = road, road.relay
        self.relay.fate = self.passing
        self.random = random.Random(7)
        self.pairs, self.names, self.readings = [], [], []
        with road.b.inside():
            self.server = socket.create_server((road.addresses["b"], 7), backlog=64)
        self.server.setblocking(False)

    def passing(self, frame):
        return [DELAY_S]

    def losing(self, there, back=0.0):
        return lambda frame: [] if self.random.random() < (there if frame.there else back) else [DELAY_S]

    def connect(self, count=1, *, control=b"cubic", isn=None):
        """`count` pairs of (client, peer)."""
        clients = []
        for _ in range(count):
            with self.road.a.inside():
                client = socket.socket()
            if isn is not None:  # a write sequence that is set is the initial one
                client.setsockopt(TCP, TCP_REPAIR, 1)
                client.setsockopt(TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
                client.setsockopt(TCP, TCP_QUEUE_SEQ, struct.pack("=I", isn))
                client.setsockopt(TCP, TCP_REPAIR, 0)
            client.setblocking(False)
            client.connect_ex((self.road.addresses["b"], 7))
            clients.append(client)
        peers, limit = {}, time.monotonic() + 30
        with selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            while len(peers) < count:
                assert time.monotonic() < limit, "the connections did not come"
                if selector.select(0.5):
                    peer, name = self.server.accept()
                    peers[name] = peer
        made = [(client, peers[client.getsockname()]) for client in clients]
        for end in (end for pair in made for end in pair):
            end.settimeout(60)
            end.setsockopt(TCP, socket.TCP_CONGESTION, control)
            end.setsockopt(TCP, socket.TCP_NODELAY, 1)
        self.pairs += made
        self.names += [("{}:{}".format(*a.getsockname()), "{}:{}".format(*b.getsockname())) for a, b in made]
        return made if count > 1 else made[0]

    def upload(self, pairs, size):
        """All clients at once send `size` bytes, and all of them arrive."""
        threads = [threading.Thread(target=client.sendall, args=(bytes(size),)) for client, _ in pairs]
        threads += [threading.Thread(target=swallow, args=(peer, size)) for _, peer in pairs]
        for thread in threads:
            thread.start()
        return threads

    def requests(self, pair, *, count, size=4000, every_s=0.0):
        client, peer = pair
        for _ in range(count):
            client.sendall(bytes(100))
            swallow(peer, 100)
            peer.sendall(bytes(size))
            swallow(client, size)
            time.sleep(every_s)

    def finish(self):
        """Wait until all is acknowledged; read the counters; close."""
        ends = [end for pair in self.pairs for end in pair]
        limit = time.monotonic() + 60
        while any(read_tcp_info(end).unacked for end in ends):
            assert time.monotonic() < limit
            time.sleep(0.05)
        time.sleep(0.3)
        self.relay.fate = self.passing
        for pair, names in zip(self.pairs, self.names, strict=True):
            for end, flow in zip(pair, (">".join(names), ">".join(reversed(names))), strict=True):
                self.readings.append(Reading(flow=flow, info=read_tcp_info(end), time_ns=now_ns()))
        self.close()
        time.sleep(0.3)

    def close(self):
        for end in (end for pair in self.pairs for end in pair):
            end.close()
        self.server.close()


def swallow(one, count):
    while count:
        data = one.recv(min(count, 1 << 18))
        assert data
        count -= len(data)


def join(threads):
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    play: object
    offloads: str = "on"
    settings: dict = field(default_factory=dict)
    least: int = 1  # retransmitted segments, for the scenario to be one
    causes: tuple = ()  # that must be among the kernel's


SCENARIOS = {}


def scenario(name, **more):
    def add(play):
        SCENARIOS[name] = Scenario(play=play, **more)
        return play

    return add


@scenario("nothing-is-lost", least=0)
@scenario("nothing-is-lost-offloads-off", least=0, offloads="off")
def _(bench):
    pairs = bench.connect(3)
    join(bench.upload(pairs[:1], 3000 * KIB))
    bench.requests(pairs[1], count=20)


@scenario("random-loss", causes=("fast",))
@scenario("random-loss-offloads-off", offloads="off", causes=("fast",))
@scenario("random-loss-without-timestamps", offloads="off", settings={"tcp_timestamps": 0}, causes=("fast",))
@scenario("random-loss-without-sack", offloads="off", settings={"tcp_sack": 0})
@scenario("random-loss-without-sack-and-timestamps", settings={"tcp_sack": 0, "tcp_timestamps": 0})
def _(bench):
    pairs = bench.connect(4)
    bench.relay.fate = bench.losing(0.03, 0.02)
    threads = bench.upload(pairs[:3], 1200 * KIB)
    bench.requests(pairs[3], count=60)
    join(threads)


@scenario("random-loss-bbr", offloads="off", causes=("fast",))
def _(bench):
    pairs = bench.connect(3, control=b"bbr")
    bench.relay.fate = bench.losing(0.05, 0.02)
    join(bench.upload(pairs, 1200 * KIB))


@scenario("heavy-loss", causes=("fast", "rto"))
@scenario("heavy-loss-offloads-off", offloads="off", causes=("fast", "rto"))
def _(bench):
    pairs = bench.connect(6)
    bench.relay.fate = bench.losing(0.12, 0.12)
    threads = bench.upload(pairs[:3], 300 * KIB)
    for pair in pairs[3:]:
        bench.requests(pair, count=15)
    join(threads)


def cut(bench, *, length_s, there=True, back=True):
    """The path is cut in the midst of two uploads and of requests: from a segment with data on."""
    pairs = bench.connect(3)
    begin, passed_bytes = [], [0]

    def fate(frame):
        passed_bytes[0] += frame.payload
        if not begin and frame.there and frame.payload and passed_bytes[0] > 2000 * KIB:
            begin.append(frame.time_ns)
        within = begin and frame.time_ns < begin[0] + length_s * 1e9
        return [] if within and (there if frame.there else back) else [DELAY_S]

    bench.relay.fate = fate
    threads = bench.upload(pairs[:2], 4000 * KIB)
    bench.requests(pairs[2], count=40, every_s=0.01)
    join(threads)


for _length_s in (0.02, 0.1, 0.4, 1.5):
    for _offloads in ("on", "off"):
        scenario(f"cut-of-{_length_s}s-offloads-{_offloads}", offloads=_offloads)(
            lambda bench, length_s=_length_s: cut(bench, length_s=length_s)
        )
scenario("cut-of-the-data", offloads="off", causes=("rto",))(lambda bench: cut(bench, length_s=0.7, back=False))
scenario("cut-of-the-acknowledgements", offloads="off", causes=("rto",))(
    lambda bench: cut(bench, length_s=0.6, there=False)
)


@scenario("reordering", offloads="off", least=0)
@scenario("reordering-without-sack", offloads="off", least=0, settings={"tcp_sack": 0})
def _(bench):
    pairs = bench.connect(2)
    bench.relay.fate = lambda frame: [DELAY_S + (0.006 if bench.random.random() < 0.03 else 0)]
    join(bench.upload(pairs, 1500 * KIB))


@scenario("reordering-and-loss", offloads="off", causes=("fast",))
def _(bench):
    pairs = bench.connect(3)
    lossy = bench.losing(0.02)
    bench.relay.fate = lambda frame: [s + (0.005 if bench.random.random() < 0.05 else 0) for s in lossy(frame)]
    join(bench.upload(pairs, 1200 * KIB))


@scenario("frames-doubled", offloads="off", least=0)
def _(bench):
    pairs = bench.connect(2)
    bench.relay.fate = lambda frame: [DELAY_S] * (2 if bench.random.random() < 0.05 else 1)
    join(bench.upload(pairs, 1500 * KIB))


@scenario("delay-spikes", offloads="off", causes=("rto",))
@scenario("delay-spikes-without-timestamps", offloads="off", causes=("rto",), settings={"tcp_timestamps": 0})
def _(bench):
    pairs = bench.connect(3)
    threads = bench.upload(pairs[:2], 3000 * KIB)
    threads.append(threading.Thread(target=bench.requests, args=(pairs[2],), kwargs={"count": 60, "every_s": 0.02}))
    threads[-1].start()
    for _ in range(2):
        time.sleep(0.15)
        begin = time.monotonic()
        # What comes meanwhile waits until the end of it, in order.
        bench.relay.fate = lambda frame, end=begin + 0.45: [max(DELAY_S, end - time.monotonic())]
        time.sleep(0.45)
        bench.relay.fate = bench.passing
        time.sleep(0.3)
    join(threads)


@scenario("zero-window", least=0)
@scenario("zero-window-offloads-off", least=0, offloads="off")
def _(bench):
    client, peer = bench.connect()
    thread = threading.Thread(target=client.sendall, args=(bytes(12000 * KIB),))
    thread.start()
    time.sleep(2.5)  # nobody reads
    swallow(peer, 12000 * KIB)
    join([thread])


@scenario("zero-window-with-a-cut", least=0)
def _(bench):
    client, peer = bench.connect()
    thread = threading.Thread(target=client.sendall, args=(bytes(12000 * KIB),))
    thread.start()
    time.sleep(1.0)
    bench.relay.fate = lambda frame: []
    time.sleep(1.5)
    bench.relay.fate = bench.passing
    time.sleep(1.0)
    swallow(peer, 12000 * KIB)
    join([thread])


def keep_alive(bench):
    pair = bench.connect()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(TCP, socket.TCP_KEEPIDLE, 1)
        end.setsockopt(TCP, socket.TCP_KEEPINTVL, 1)
    bench.requests(pair, count=3)
    return pair


@scenario("keep-alive", least=0)
def _(bench):
    keep_alive(bench)
    time.sleep(3.5)


@scenario("keep-alive-with-a-cut")
def _(bench):
    pair = keep_alive(bench)
    bench.relay.fate = lambda frame: []
    time.sleep(3.5)
    bench.relay.fate = bench.passing
    time.sleep(1.2)
    bench.relay.fate = lambda frame: [] if frame.there else [DELAY_S]
    pair[0].sendall(bytes(100))
    time.sleep(1)
    bench.relay.fate = bench.passing
    swallow(pair[1], 100)


@scenario("sequence-numbers-wrap", offloads="off", causes=("fast",))
@scenario("sequence-numbers-wrap-in-super-frames", causes=("fast",))
def _(bench):
    pair = bench.connect(isn=2**32 - 400_000)
    bench.relay.fate = bench.losing(0.05)
    join(bench.upload([pair], 1500 * KIB))


@scenario("syns-lost", causes=("rto",))
def _(bench):
    seen = Counter()

    def fate(frame):
        seen[frame.there, frame.ports, frame.syn] += 1
        return [] if frame.syn and seen[frame.there, frame.ports, True] <= 1 else [DELAY_S]

    bench.relay.fate = fate
    pairs = bench.connect(4)
    bench.requests(pairs[0], count=2)


@scenario("fins-lost")
def _(bench):
    pairs = bench.connect(2)
    seen = Counter()

    def fate(frame):
        seen[frame.there, frame.ports] += frame.fin
        return [] if frame.fin and seen[frame.there, frame.ports] <= 2 else [DELAY_S]

    bench.requests(pairs[0], count=2)
    bench.relay.fate = fate
    pairs[0][0].shutdown(socket.SHUT_WR)
    pairs[1][1].sendall(bytes(5000))
    pairs[1][1].shutdown(socket.SHUT_WR)
    time.sleep(1.5)
    for client, peer in pairs:
        client.shutdown(socket.SHUT_WR)
        peer.shutdown(socket.SHUT_WR)
    time.sleep(1.5)


def tails(bench, *, lost_of_each):
    """Responses of ten segments, whose last ones are lost `lost_of_each` times over."""
    pairs = bench.connect(2)
    state = {"ends": 0, "lost": Counter()}

    def fate(frame):
        if not frame.there and frame.payload and state["ends"]:
            at = (frame.sequence - state["isn"]) % 2**32
            if at >= state["ends"] - 3 * 1448:
                state["lost"][at] += 1
                if state["lost"][at] <= lost_of_each:
                    return []
        return [DELAY_S]

    bench.requests(pairs[0], count=5, size=14480)
    first = next(f for f, _ in bench.relay.passed if not f.there and f.payload and f.ports[1] == port(pairs[0][0]))
    bench.relay.fate = fate
    for k in range(5, 11):
        state.update(isn=first.sequence, ends=(k + 1) * 14480, lost=Counter())
        bench.requests(pairs[0], count=1, size=14480, every_s=0.05)


def port(one):
    return one.getsockname()[1]


scenario("tails-lost", offloads="off", causes=("tlp",))(lambda bench: tails(bench, lost_of_each=1))
scenario("tails-and-their-probes-lost", offloads="off", causes=("rto",))(lambda bench: tails(bench, lost_of_each=2))


@scenario("retransmissions-lost", offloads="off", causes=("fast",))
def _(bench):
    pairs = bench.connect(2)
    seen = Counter()

    def fate(frame):
        if frame.there and frame.payload:
            key = frame.ports, frame.sequence
            seen[key] += 1
            # Of some segments, the first retransmission too.
            if frame.sequence // 1448 % 37 == 5 and seen[key] <= 1 + frame.sequence % 2:
                return []
        return [DELAY_S]

    bench.relay.fate = fate
    join(bench.upload(pairs, 1500 * KIB))


def counted(tmp_path, road):
    """The results by flow name, each from the capture at its sender."""
    offset_ns, found = realtime_offset_ns(), {}
    for point, local in road.addresses.items():
        packets = parse(read_pcap(tmp_path / f"{point}.pcap"), offset_ns=offset_ns)
        for result in count_retransmits(packets, senders=[address(local)]):
            found[result.flow.name] = result
    return found


def compared(result, told):
    """(segments whose type is the kernel's cause, the others: each with what the kernel tells of it).

    A frame belongs to the first of the kernel's events that is not earlier: that is written when the frame is sent.
    """
    same, differing, index = 0, [], 0
    for row in result.rows:
        while index < len(told) and told[index].time_ns + 999 < row.time_ns:
            index += 1
        one = told[index] if index < len(told) else None
        if one is not None and one.cause == row.type:
            same += row.segments
        else:
            differing.append((row, one))
    return same, differing


@pytest.fixture(scope="module")
def agreement():
    """By scenario: how many types were the kernel's, of how many."""
    return {}


@pytest.mark.parametrize("name", SCENARIOS)
def test_counts_and_types_are_the_kernels(road, observe, kernel_trace, tmp_path, agreement, name):  # noqa: PLR0917  # fixtures
    played = SCENARIOS[name]
    road.offloads(played.offloads)
    road.set(tcp_no_metrics_save=1, **played.settings)
    trace = kernel_trace(road.network)
    points = [
        {"name": point, "pid": end.pid, "interface": "eth0", "file": str(tmp_path / f"{point}.pcap")}
        for point, end in road.ends.items()
    ]
    settings = {
        "points": points,
        "switches": [],
        "guest_macs": ["02:77:00:00:00:64"],
        "events": str(tmp_path / "events"),
    }
    observer = observe(settings)
    bench = Bench(road)
    try:
        played.play(bench)
        bench.finish()
    finally:
        bench.close()
    assert observer.stop()["problems"] == []
    told = trace.told()
    results = counted(tmp_path, road)

    kernel = {reading.flow: reading.info.total_retrans for reading in bench.readings}
    assert {r.flow: results[r.flow].until(r.time_ns).retransmits for r in bench.readings} == kernel
    assert sum(kernel.values()) >= played.least
    for point, end in road.ends.items():
        ours = sum(r.retransmits for r in results.values() if r.flow.local == address(road.addresses[point]))
        assert [ours] == end.snmp("RetransSegs")

    assert {one.cause for rows in told.values() for one in rows} >= set(played.causes)
    if all(reading.info.total_rto >= 0 for reading in bench.readings):  # Linux 6.7 or newer
        held = {r.flow: results[r.flow].timeouts_held(r.info.total_rto, time_ns=r.time_ns) for r in bench.readings}
        assert sum(map(abs, held.values())) <= 0.03 * sum(reading.info.total_rto for reading in bench.readings) + 1, (
            held
        )
    same, total, wrong = 0, 0, []
    for flow, result in results.items():
        right, differing = compared(result, told.get(flow, []))
        assert all(one for _, one in differing), "the kernel does not tell of each"
        same, total = same + right, total + result.retransmits
        wrong += differing
    print(f"{name}: {same} of {total} types are the kernel's", *wrong, sep="\n  ")
    agreement[name] = same, total
    assert same >= 0.97 * total or len(wrong) <= 2


def test_of_all_types_together_97_of_a_hundred_are_the_kernels(agreement):
    same, total = map(sum, zip(*agreement.values(), strict=True))
    assert same >= 0.97 * total, agreement
