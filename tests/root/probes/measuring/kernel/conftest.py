"""Real TCP over a path whose every frame a test decides on, and what the sending kernel says of each retransmission."""

import errno
import heapq
import ipaddress
import os
import random
import re
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from unnoticed.clock import now_ns

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
VNET_BYTES = 10  # struct virtio_net_hdr: checksums and super-frames pass as they are


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A TCP frame at the relay."""

    there: bool  # from a to b
    number: int  # among the TCP frames of its direction, from 0
    sequence: int
    payload: int
    flags: int
    ip_id: int
    ports: tuple[int, int]
    time_ns: int

    @property
    def syn(self):
        return bool(self.flags & 2)

    @property
    def fin(self):
        return bool(self.flags & 1)


def frame_of(data, *, there, number):
    """None if it is not TCP over IPv4."""
    ip = VNET_BYTES + 14
    if len(data) < ip + 40 or data[ip - 2 : ip] != b"\x08\x00" or data[ip + 9] != socket.IPPROTO_TCP:
        return None
    tcp = ip + (data[ip] & 15) * 4
    total, ip_id = struct.unpack_from(">HH", data, ip + 2)
    source, destination, sequence = struct.unpack_from(">HHI", data, tcp)
    payload = (total or len(data) - ip) - (tcp - ip) - (data[tcp + 12] >> 4) * 4
    return Frame(
        there=there,
        number=number,
        sequence=sequence,
        payload=payload,
        flags=data[tcp + 13],
        ip_id=ip_id,
        ports=(source, destination),
        time_ns=now_ns(),
    )


class Relay:
    """Passes frames between two interfaces of a namespace: each TCP frame after the delays that `fate` returns.

    No delay drops it, two double it. `passed` has every TCP frame with its delays, in order of arrival.
    """

    def __init__(self, namespace, ports):
        self.fate = lambda frame: [0.002]
        self.passed = []
        self._over = False
        self._sockets = []
        with namespace.inside():
            for port in ports:
                one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                one.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
                one.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
                one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
                one.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 64 << 20)
                one.setblocking(False)
                one.bind((port, ETH_P_ALL))
                self._sockets.append(one)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        waiting, order, numbers = [], 0, [0, 0]
        while not self._over:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                try:
                    waiting[0][2].send(waiting[0][3])
                except OSError as error:  # the path behind is full
                    if error.errno not in {errno.ENOBUFS, errno.EAGAIN}:
                        raise
                    time.sleep(0.001)
                    break
                heapq.heappop(waiting)
            wait_s = min(max(waiting[0][0] - now, 0), 0.05) if waiting else 0.05
            for one in select.select(self._sockets, [], [], wait_s)[0]:
                side = self._sockets.index(one)
                data = one.recv(1 << 17)
                now = time.monotonic()
                frame = frame_of(data, there=side == 0, number=numbers[side])
                delays = [0.0]
                if frame is not None:
                    numbers[side] += 1
                    delays = self.fate(frame)
                    self.passed.append((frame, delays))
                for delay_s in delays:
                    order += 1
                    heapq.heappush(waiting, (now + delay_s, order, self._sockets[1 - side], data))

    def close(self):
        self._over = True
        self._thread.join()
        for one in self._sockets:
            one.close()


@dataclass(frozen=True, kw_only=True)
class Told:
    """One retransmission as the kernel tells it (tracepoints tcp_retransmit_skb, tcp_retransmit_synack)."""

    time_ns: int  # CLOCK_MONOTONIC, to the microsecond
    cause: str  # rto, fast, tlp
    state: int | None  # TCP_CA_..., as last set; None: never set
    stack: tuple[str, ...]  # innermost function first; empty where the kernel could not tell it


class KernelTrace:
    """The retransmissions of all connections with an address in `network`, from construction on.

    A trace instance of its own, in a tracefs that is mounted in a mount namespace of its own.
    """

    def __init__(self, network):
        self._network = ipaddress.ip_network(network)
        at = "/sys/kernel/tracing"  # many systems have mounted it, and do not mount it twice
        mount = f"mountpoint -q {at} || mount -t tracefs tracefs {at} || exit 1; echo up; exec sleep 600"
        self._holder = subprocess.Popen(["unshare", "-m", "sh", "-c", mount], stdout=subprocess.PIPE)
        assert self._holder.stdout.readline() == b"up\n", "tracefs cannot be mounted"
        self._root = Path(f"/proc/{self._holder.pid}/root/sys/kernel/tracing/instances/unnoticed-{os.getpid()}")
        self._root.mkdir()
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", "16384")
        self._write("events/tcp/tcp_retransmit_skb/trigger", "stacktrace")
        for event in EVENTS:
            self._write(f"events/{event}/enable", "1")

    def _write(self, file, text):
        (self._root / file).write_text(text)

    def told(self):
        """All so far, by flow name as in the results, in their order."""
        self._write("tracing_on", "0")
        told = Account(self._network)
        with (self._root / "trace").open() as lines:
            for line in lines:
                told.read(line)
        return told.flows()

    def close(self):
        self._write("tracing_on", "0")
        for event in EVENTS:
            self._write(f"events/{event}/enable", "0")
        self._write("events/tcp/tcp_retransmit_skb/trigger", "!stacktrace")
        self._root.rmdir()
        self._holder.stdout.close()
        self._holder.kill()
        self._holder.wait()


EVENTS = (
    "tcp/tcp_retransmit_skb",
    "tcp/tcp_retransmit_synack",
    "tcp/tcp_cong_state_set",
    "timer/timer_expire_entry",
    "timer/timer_expire_exit",
)
TCP_CA_OPEN, TCP_CA_DISORDER, TCP_CA_CWR, TCP_CA_RECOVERY, TCP_CA_LOSS = range(5)
_LINE = re.compile(r"^.*?\[(\d+)\].*?\s(\d+)\.(\d{6}): (\S+)(.*)$")
_FIELD = re.compile(r"(\w+)=(\S+)")


class Account:
    """Reads the lines of a trace."""

    def __init__(self, network):
        self._network = network
        self._found, self._states = {}, {}
        self._last, self._stack = {}, []  # by processor: the stack of the last event; where to put its lines
        self._timer = {}  # by processor: the flows that entered TCP_CA_Loss since tcp_write_timer began; None: outside

    def read(self, line):
        if line.startswith(" => "):
            self._stack.append(line[4:].split("+")[0].strip())
            return
        match = _LINE.match(line)
        if match is None:
            return
        assert "LOST" not in line, line
        processor, event = match[1], match[4].rstrip(":")
        if event == "<stack":
            self._stack = self._last.get(processor, [])
        elif event == "timer_expire_entry":
            self._timer[processor] = set() if "function=tcp_write_timer" in line else None
        elif event == "timer_expire_exit":
            self._timer[processor] = None
        elif event.startswith("tcp_"):
            stack = self._last[processor] = []
            time_ns = int(match[2]) * 1_000_000_000 + int(match[3]) * 1000
            self._read_event(event, dict(_FIELD.findall(match[5])), time_ns, self._timer.get(processor), stack)

    def _read_event(self, event, fields, time_ns, timer, stack):
        if fields["family"] != "AF_INET" or ipaddress.ip_address(fields["saddr"]) not in self._network:
            return
        flow = "{saddr}:{sport}>{daddr}:{dport}".format(**fields)
        if event == "tcp_cong_state_set":
            self._states[flow] = int(fields["cong_state"])
            if timer is not None and self._states[flow] == TCP_CA_LOSS:
                timer.add(flow)
        elif fields.get("err", "0") == "0":
            state = self._states.get(flow, TCP_CA_OPEN)
            if event == "tcp_retransmit_synack":
                by_timer = "rto"
            elif timer is None or state == TCP_CA_RECOVERY:
                by_timer = None
            else:  # the retransmission timer declares all as lost before; the loss probe's does not
                by_timer = "rto" if flow in timer or state == TCP_CA_LOSS else "tlp"
            self._found.setdefault(flow, []).append((time_ns, by_timer, state, stack))

    def flows(self):
        return {flow: [self._told(*row) for row in rows] for flow, rows in self._found.items()}

    @staticmethod
    def _told(time_ns, by_timer, state, stack):
        """What made the kernel send it: a timer, or else acknowledgements, and then the state says after what."""
        cause = by_timer or ("rto" if state == TCP_CA_LOSS else "fast")
        if stack:
            timers = {"tcp_retransmit_timer": "rto", "tcp_send_loss_probe": "tlp"}
            of_stack = next((timers[name] for name in stack if name in timers), None)
            assert of_stack == by_timer or by_timer in {None, "rto"}, (by_timer, state, stack)
            cause = of_stack or ("rto" if state == TCP_CA_LOSS else "fast")
        return Told(time_ns=time_ns, cause=cause, state=state, stack=tuple(stack))


@pytest.fixture
def kernel_trace():
    """Trace retransmissions: `kernel_trace("10.9.0.0/24")`."""
    made = []

    def start(network):
        made.append(KernelTrace(network))
        return made[-1]

    yield start
    for trace in made:
        trace.close()


@dataclass(frozen=True, kw_only=True)
class Road:
    """Two namespaces, `a` and `b`, with a relay between."""

    a: object
    b: object
    relay: Relay
    addresses: dict[str, str]
    network: str

    @property
    def ends(self):
        return {"a": self.a, "b": self.b}

    def offloads(self, on):
        for end in self.ends.values():
            end.run("ethtool", "-K", "eth0", *(word for name in ("tso", "gso", "gro") for word in (name, on)))

    def set(self, **settings):
        """Settings under /proc/sys/net/ipv4, at both ends."""
        for end in self.ends.values():
            with end.inside():
                for name, value in settings.items():
                    Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))


@pytest.fixture
def road(namespaces):
    """A road between 10.x.y.1 and 10.x.y.2; numbers by chance, so that a trace of the kernel's knows ours."""
    a, b, middle = namespaces(3)
    network = f"10.{random.randrange(128, 250)}.{random.randrange(256)}"
    addresses = {"a": f"{network}.1", "b": f"{network}.2"}
    for (name, address), end in zip(addresses.items(), (a, b), strict=True):
        middle.run("ip", "link", "add", "dev", f"to-{name}", "type", "veth", "peer", "eth0", "netns", str(end.pid))
        middle.run("ip", "link", "set", "dev", f"to-{name}", "up")
        end.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        end.run("ip", "link", "set", "dev", "eth0", "up")
    relay = Relay(middle, ["to-a", "to-b"])
    yield Road(a=a, b=b, relay=relay, addresses=addresses, network=f"{network}.0/24")
    relay.close()
