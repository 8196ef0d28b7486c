"""The load of the fake bench: what every connection and probe of one client does around a migration of known truth."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.experiments.fake.frames import ACK, FIN, PSH, ROW, RST, SYN, TCP, UDP, Rows
from unnoticed.experiments.fake.model import DELAY_NS, MS, RTO_NS, S, Truth
from unnoticed.experiments.planning.settings import Settings
from unnoticed.workload import MAGIC, PROBE, Kind

SEGMENT_BYTES = 1448
BULK_BIT_PER_S = 4_000_000  # what a fake bulk flow really sends: few frames, whatever the plan asks for
_WINDOW = 10  # segments in flight when the path is cut
_GREETING_NS = 20 * MS
_WORDS = {Kind.REQUEST: "request", Kind.DOWNLOAD: "download", Kind.UPLOAD: "upload", Kind.CONNECT: "connect"}

# workload, connection, sequence, intended_ns, sent_ns, answered_ns, right
Request = tuple[int, int, int, int, int, int, bool]


@dataclass(kw_only=True)
class Connection:
    """One TCP connection: its frames, in the order of making, and what the kernels at both ends counted."""

    client: int
    port: int
    kind: Kind
    number: int
    truth: Truth
    client_retransmits: int = 0
    guest_retransmits: int = 0
    client_bytes: int = 0  # payload sent, each byte once
    guest_bytes: int = 0
    closed_ns: int = 0
    was_reset: bool = False
    frames: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def word(self) -> str:
        return _WORDS[self.kind]

    def lost(self, sent_ns: int) -> bool:
        """Whether what a client sends now is lost on its way to the guest."""
        cut = self.truth.tcp_cut
        return cut is not None and cut[0] <= sent_ns + DELAY_NS < cut[1]

    def send(self, sent_ns: int, length: int, *, by_client: bool, flags: int = ACK, at: int | None = None) -> bool:
        """Send one segment; `at` repeats the bytes at that position. Gives whether it arrives."""
        mine, theirs = (self.client_bytes, self.guest_bytes) if by_client else (self.guest_bytes, self.client_bytes)
        start = mine if at is None else at
        base = 1000 if by_client else 5000
        other = 5000 if by_client else 1000
        hello = 0 if flags & SYN else 1
        lost = by_client and self.lost(sent_ns)
        late_ns = self.truth.arrives(sent_ns) - sent_ns - DELAY_NS if by_client else 0
        sequence, acknowledged = (base + hello + start) % 2**32, (other + 1 + theirs) % 2**32
        if flags == SYN:
            acknowledged = 0
        self.frames.append(
            (
                *(sent_ns, by_client, lost, False, self.client, TCP, self.port),
                *(sequence, acknowledged, flags, length, b"", late_ns),
            )
        )
        if at is None:
            if by_client:
                self.client_bytes += length
            else:
                self.guest_bytes += length
        return not lost

    def repeat(self, sent_ns: int, length: int, *, at: int, flags: int = ACK | PSH) -> int:
        """Repeat a lost segment of the client on its timer's ladder until it arrives; gives when that one was sent."""
        wait = RTO_NS if not flags & SYN else S
        while True:
            sent_ns += wait
            self.client_retransmits += 1
            if self.send(sent_ns, length, by_client=True, flags=flags, at=at):
                return sent_ns
            wait *= 2

    def open(self, sent_ns: int) -> int:
        """The handshake and the Hello; gives when the guest has it."""
        if not self.send(sent_ns, 0, by_client=True, flags=SYN):
            sent_ns = self.repeat(sent_ns, 0, at=0, flags=SYN)
        arrived_ns = self.truth.arrives(sent_ns)
        self.send(arrived_ns, 0, by_client=False, flags=SYN | ACK)
        sent_ns = arrived_ns + DELAY_NS
        self.send(sent_ns, 0, by_client=True)
        if not self.send(sent_ns, 16, by_client=True, flags=ACK | PSH):
            sent_ns = self.repeat(sent_ns, 16, at=0)
        return self.truth.arrives(sent_ns)

    def close(self, sent_ns: int) -> None:
        """FIN from the client, FIN from the guest, ACK; no FIN is ever repeated, since nothing is cut then."""
        self.send(sent_ns, 0, by_client=True, flags=FIN | ACK)
        self.send(sent_ns + DELAY_NS, 0, by_client=False, flags=FIN | ACK)
        self.closed_ns = sent_ns + 2 * DELAY_NS

    def reset(self, sent_ns: int) -> None:
        """A RST from the guest."""
        self.send(sent_ns, 0, by_client=False, flags=RST)
        self.was_reset, self.closed_ns = True, sent_ns + DELAY_NS

    def rows(self) -> Rows:
        return np.array(self.frames, dtype=ROW)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Everything that one client did. `requests` and `probes` are the arrays of its record files."""

    connections: list[Connection]
    rows: Rows
    requests: dict[str, npt.NDArray[Any]]
    probes: dict[str, npt.NDArray[Any]]


def load_of(settings: Settings, *, client: int, truth: Truth, seed: str, reset: bool = False) -> Load:
    """The load of client number `client` (from 1). With `reset`, its first connection meets a RST at the resume."""
    luck = random.Random(f"{seed}/{client}")
    loads = settings.clients
    connections: list[Connection] = []
    requests: list[Request] = []
    start, stop = truth.trial_start_ns + 10 * MS, truth.trial_end_ns - 300 * MS

    def connection(kind: Kind) -> Connection:
        number = client * 1000 + len(connections)
        made = Connection(client=client, port=40_000 + len(connections), kind=kind, number=number, truth=truth)
        connections.append(made)
        return made

    if loads.request_response is not None:
        count = loads.request_response.connections
        for place in range(count):
            period = count * S // loads.request_response.rate_hz
            first = start + _GREETING_NS + place * period // count
            flow = connection(Kind.REQUEST)
            flow.open(start + place * MS // 10)
            cut_short = truth.resumed_ns if reset and place == 0 else None
            requests += _request_flow(flow, first=first, period=period, stop=stop, reset_ns=cut_short)
    for bulk, kind in ((loads.download, Kind.DOWNLOAD), (loads.upload, Kind.UPLOAD)):
        for _ in range(bulk.connections if bulk is not None else 0):
            flow = connection(kind)
            began = flow.open(start + luck.randrange(5 * MS)) + _GREETING_NS
            asked = (bulk.rate_bit_per_s if bulk is not None else None) or BULK_BIT_PER_S
            period = SEGMENT_BYTES * 8 * S // min(asked, BULK_BIT_PER_S)
            (_download if kind is Kind.DOWNLOAD else _upload)(flow, first=began, period=period, stop=stop)
    if loads.connect is not None:
        period = S // loads.connect.rate_hz
        for sequence, intended in enumerate(range(start + _GREETING_NS, stop - S, period), start=1):
            flow = connection(Kind.CONNECT)
            arrived = flow.open(intended)
            flow.send(arrived, 32, by_client=False, flags=ACK | PSH)
            flow.close(arrived + DELAY_NS)
            requests.append((Kind.CONNECT, flow.number, sequence, intended, intended, arrived + DELAY_NS, True))
    probes, probe_rows = _probes(client=client, truth=truth)
    names = ("workload", "connection", "sequence", "intended_ns", "sent_ns", "answered_ns", "right")
    types = ("u1", "u8", "i8", "i8", "i8", "i8", "?")
    columns = list(zip(*requests, strict=True)) if requests else [()] * len(names)
    arrays = {name: np.array(column, dtype=dtype) for name, dtype, column in zip(names, types, columns, strict=True)}
    rows = np.concatenate([*(flow.rows() for flow in connections), probe_rows])
    return Load(connections=connections, rows=rows, requests=arrays, probes=probes)


def _request_flow(flow: Connection, *, first: int, period: int, stop: int, reset_ns: int | None) -> list[Request]:
    rows: list[Request] = []
    sequence, intended = 0, first
    while intended < stop:
        if reset_ns is not None and intended > reset_ns:
            flow.reset(reset_ns + DELAY_NS)
            return rows
        sequence += 1
        due = [intended]
        start = flow.client_bytes
        arrives = flow.send(intended, 16, by_client=True, flags=ACK | PSH)
        sent = intended
        if not arrives:
            sent = flow.repeat(intended, 16, at=start)
            while intended + period < min(sent + 2 * DELAY_NS, stop):  # these wait in the client's send queue
                intended += period
                due.append(intended)
        arrived = flow.truth.arrives(sent)
        flow.send(arrived, 32, by_client=False, flags=ACK | PSH)
        answered = arrived + DELAY_NS
        rows.append((Kind.REQUEST, flow.number, sequence, due[0], due[0], answered, True))
        if len(due) > 1:
            flow.send(answered, 16 * (len(due) - 1), by_client=True, flags=ACK | PSH)
            flow.send(answered + DELAY_NS, 32 * (len(due) - 1), by_client=False, flags=ACK | PSH)
        for waited in due[1:]:
            sequence += 1
            rows.append((Kind.REQUEST, flow.number, sequence, waited, waited, answered + 2 * DELAY_NS, True))
        intended += period
    flow.close(stop + 10 * MS)
    return rows


def _download(flow: Connection, *, first: int, period: int, stop: int) -> None:
    """The guest sends at a rate, and not while it is paused; what it has sent before arrives."""
    at = first
    while at < stop:
        if flow.lost(at):
            assert flow.truth.tcp_cut is not None
            at = flow.truth.tcp_cut[1] + DELAY_NS
        at = flow.truth.arrives(at - DELAY_NS)  # nor while its frames are held
        flow.send(at, SEGMENT_BYTES, by_client=False)
        flow.send(at + DELAY_NS, 0, by_client=True)
        at += period
    flow.close(stop + 10 * MS)


def _upload(flow: Connection, *, first: int, period: int, stop: int) -> None:
    """The client sends at a rate; at a cut it fills its window, and repeats all of it once its timer gets through."""
    at = first
    while at < stop:
        position = flow.client_bytes
        if flow.send(at, SEGMENT_BYTES, by_client=True):
            flow.send(flow.truth.arrives(at), 0, by_client=False)
            at += period
            continue
        in_flight = [position]
        sent = at
        while len(in_flight) < _WINDOW and flow.lost(sent + period) and sent + period < at + RTO_NS:
            sent += period
            in_flight.append(flow.client_bytes)
            flow.send(sent, SEGMENT_BYTES, by_client=True)
        through = flow.repeat(at, SEGMENT_BYTES, at=position, flags=ACK)
        flow.send(through + DELAY_NS, 0, by_client=False)
        for offset, again in enumerate(in_flight[1:], start=1):
            flow.client_retransmits += 1
            flow.send(through + offset * DELAY_NS * 2, SEGMENT_BYTES, by_client=True, at=again)
        at = through + len(in_flight) * DELAY_NS * 2 + period
    flow.close(stop + 10 * MS)


def _probes(*, client: int, truth: Truth) -> tuple[dict[str, npt.NDArray[Any]], Rows]:
    """Two probes at 1 kHz, to the guest (stream 0) and to the control server (stream 1), and their echoes."""
    intended = np.arange(truth.trial_start_ns + 10 * MS, truth.trial_end_ns - 100 * MS, MS, dtype=np.int64)
    intended += client * MS // 16  # clients are not in step
    count = len(intended)
    cut = truth.probe_cut or (0, 0)
    arrays: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("stream", "sequence", "sent_ns", "answered_ns")}
    frames = []
    for stream in (0, 1):
        lost = (intended + DELAY_NS >= cut[0]) & (intended + DELAY_NS < cut[1]) & (stream == 0)
        sequence = np.arange(count, dtype=np.int64)
        payload = np.zeros(count, dtype=np.dtype([("magic", "<u4"), ("stream", "<u4"), ("seq", "<u8"), ("at", "<u8")]))
        assert payload.dtype.itemsize == PROBE.size
        payload["magic"], payload["stream"], payload["seq"], payload["at"] = MAGIC, stream, sequence, intended
        out = np.zeros(count, dtype=ROW)
        out["sent_ns"], out["from_client"], out["lost"], out["control"] = intended, True, lost, stream == 1
        out["client"], out["protocol"], out["client_port"] = client, UDP, 50_000 + stream
        out["payload_bytes"], out["payload"] = PROBE.size, payload.view("V24")
        if stream == 0 and truth.held is not None:
            waits = (intended + DELAY_NS >= truth.held[0]) & (intended + DELAY_NS < truth.held[1])
            out["late_ns"] = np.where(waits, truth.held[1] - intended - DELAY_NS, 0)
        back = out[~lost].copy()
        back["sent_ns"] += DELAY_NS + back["late_ns"]
        back["late_ns"] = 0
        back["from_client"] = False
        frames += [out, back]
        arrays["stream"].append(np.full(count, stream, dtype=np.uint32))
        arrays["sequence"].append(sequence)
        arrays["sent_ns"].append(intended)
        arrays["answered_ns"].append(np.where(lost, 0, intended + out["late_ns"] + 2 * DELAY_NS))
    probes = {name: np.concatenate(parts) for name, parts in arrays.items()}
    probes["intended_ns"] = probes["sent_ns"].copy()
    return probes, np.concatenate(frames)
