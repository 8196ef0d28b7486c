"""The raw records that a bench leaves of a trial, read back and put on the one clock."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unnoticed.errors import RecordError
from unnoticed.events import Event, read_events
from unnoticed.experiments.planning.settings import Settings
from unnoticed.probes.packets import PROTOCOL_TCP, PROTOCOL_UDP, Packets, merge, read_packets
from unnoticed.probes.records import REQUEST_ARRAYS, RequestRecords, read_probes, read_requests
from unnoticed.probes.samples import Samples, probe_samples, samples
from unnoticed.probes.tcp_flows import address
from unnoticed.workload import PROBE_PORT

PROBE_PERIOD_NS = 1_000_000
GUEST_STREAM, CONTROL_STREAM = 0, 1
NO_REQUESTS = RequestRecords(**{name: np.empty(0, dtype) for name, dtype in REQUEST_ARRAYS.items()})
_CLOCK_MOVED_NS = 50_000  # capture stamps would be off by this much
_TO_MANY = np.uint64(1 << 40)  # the bit of a MAC address that tells groups from single receivers


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What the source's agent said of the migration."""

    outcome: str
    reason: str
    start_ns: int
    end_ns: int
    paused_ns: int | None
    resumed_ns: int | None
    bytes_sent: int
    rounds: int
    rto_min_ns: int | None
    tracker: str | None
    codec: str | None
    completed_ns: int | None = None  # the destination had all pages
    turned_ns: int | None = None  # where frames are held: the switches are told to bring them to the destination

    @property
    def cutover_ns(self) -> int | None:
        """When the guest's clients may begin to feel the cutover: the pause, or before it, when frames are held."""
        if self.paused_ns is None or self.turned_ns is None:
            return self.paused_ns
        return min(self.paused_ns, self.turned_ns)

    @property
    def completed(self) -> bool:
        return self.outcome == "completed"

    @property
    def blackout_ns(self) -> int | None:
        if self.paused_ns is None or self.resumed_ns is None:
            return None
        return self.resumed_ns - self.paused_ns


class RawRecords:
    """The records in a trial's folder. Everything is read when it is first asked for; raises RecordError."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings

    @cached_property
    def clients(self) -> list[str]:
        """The clients that drew load, in natural order: as the fabric's record names them, if there was a fabric."""
        named = self._fabric.get("clients")
        return named or [f"c{number}" for number in range(1, self.settings.clients.count + 1)]

    @cached_property
    def _fabric(self) -> dict[str, Any]:
        """What the fabric said of itself; nothing where there was none."""
        try:
            said = json.loads((self.folder / "fabric.json").read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.folder.name}: fabric.json cannot be read ({error}).") from error
        return dict(said)

    @cached_property
    def events(self) -> list[Event]:
        """All events, in order of time."""
        return sorted(read_events(self.folder / "events.jsonl"), key=lambda event: int(event["time_ns"]))

    def named(self, *names: str) -> Iterator[Event]:
        """The events of these names."""
        return (event for event in self.events if event["event"] in names)

    @cached_property
    def migration(self) -> Migration:
        """The one migration of the trial."""
        found = list(self.named("migration"))
        if len(found) != 1:
            raise RecordError(f"{self.folder.name}: events.jsonl tells of {len(found)} migrations instead of one.")
        fields: dict[str, Any] = {name: found[0].get(name) for name in Migration.__dataclass_fields__}
        if self.settings.migration.gap == "hold":
            fields["turned_ns"] = min((int(event["time_ns"]) for event in self.named("announced")), default=None)
        return Migration(**fields)

    @cached_property
    def clock_moved_ns(self) -> int:
        """How far CLOCK_REALTIME and CLOCK_MONOTONIC drifted apart between start and stop."""
        first, *_, last = self._offsets
        return abs(last - first)

    @property
    def clock_is_steady(self) -> bool:
        return self.clock_moved_ns <= _CLOCK_MOVED_NS

    def phase_ns(self, name: str) -> int:
        """When a phase began."""
        for event in self.named("phase"):
            if event["phase"] == name:
                return int(event["time_ns"])
        raise RecordError(f"{self.folder.name}: events.jsonl tells of no phase {name!r}.")

    @property
    def relearned(self) -> Iterator[Event]:
        """When a switch that knew the guest at one port learned it at another."""
        return (event for event in self.named("relearned") if event.get("previous") is not None)

    @cached_property
    def captures(self) -> list[Event]:
        """The observer's account of each capture."""
        return list(self.named("capture"))

    def packets(self, point: str) -> Packets:
        """The capture of a point, in CLOCK_MONOTONIC. Raises RecordError unless it holds what the observer wrote.

        Of a client's and the guest's without what is none of theirs: switches that do not know where somebody is send
        his frames to everybody, and a capture sees them.
        """
        if point not in self._packets:
            file = self.folder / "captures" / f"{point}.pcap"
            try:
                packets = read_packets(file, offset_ns=self._offset_ns)
            except OSError as error:
                raise RecordError(f"{file} cannot be read ({error.strerror}).") from error
            written = sum(int(event["frames"]) for event in self.captures if event["point"] == point)
            if len(packets) != written:
                raise RecordError(f"{file} holds {len(packets)} frames; the observer wrote {written}.")
            self._packets[point] = self._meant_for(point, packets)
        return self._packets[point]

    def has_capture(self, point: str) -> bool:
        return (self.folder / "captures" / f"{point}.pcap").exists()

    @cached_property
    def guest_packets(self) -> Packets:
        """What the guest sent and received, at whichever host, in order of time."""
        return merge([self._alive("a"), self._alive("b")])

    def probe(self, client: str, stream: int) -> Samples:
        """A client's probe train, with the kernel's stamps."""
        return probe_samples(self.packets(client), stream=stream, period_ns=PROBE_PERIOD_NS)

    def prober(self, client: str, stream: int) -> Samples:
        """The same with the prober's own times: when it meant to send, and when it did, before any queue."""
        records = read_probes(self.folder / f"{client}.probe.npz")
        chosen = records.stream == stream
        return samples(
            intended_ns=records.intended_ns[chosen],
            sent_ns=records.sent_ns[chosen],
            answered_ns=records.answered_ns[chosen],
            period_ns=PROBE_PERIOD_NS,
        )

    def requests(self, client: str) -> RequestRecords:
        """A client's requests and connection attempts; none where the plan asks for neither."""
        load = self.settings.clients
        if load.request_response is None and load.connect is None:
            return NO_REQUESTS
        return read_requests(self.folder / f"{client}.requests.npz")

    def client_address(self, client: str) -> int:
        """A client's address, of the family that it uses, from the packets it sent."""
        packets = self.packets(client)
        sent = np.flatnonzero((packets.protocol == PROTOCOL_UDP) & (packets.destination_port == PROBE_PORT))
        if len(sent) == 0:
            raise RecordError(f"{self.folder.name}: client {client} sent no probe.")
        return int(packets.source_high[sent[0]]) << 64 | int(packets.source[sent[0]])

    def _meant_for(self, point: str, packets: Packets) -> Packets:
        place = self._fabric.get("places", {}).get(point)
        if place is None or point not in {*self.clients, "guest-a", "guest-b"}:
            return packets
        mac = np.uint64(int(str(place["mac"]).replace(":", ""), 16))
        is_to_many = (packets.destination_mac & _TO_MANY) != 0
        meant = (packets.source_mac == mac) | (packets.destination_mac == mac) | is_to_many
        return packets if meant.all() else packets.select(meant)

    def _alive(self, place: str) -> Packets:
        """The capture of the guest's port at a host, without what sockets sent there that had left it before.

        A dumped socket is closed some time later. Its timers run until then, even in repair mode; what they send ends
        at the closed gate. It is none of the connection's, which lives elsewhere, nor in the counters of the dump.
        """
        packets = self.packets(f"guest-{place}")
        left: dict[int, dict[int, int]] = defaultdict(dict)  # by receiver and ports: when its connection was dumped
        for event in self.named("socket"):
            if event["reason"] == "dump" and event["who"] == f"agent-{place}":
                receiver, ports = _key_of_flow(event)
                left[receiver][ports] = int(event["time_ns"])
        is_ghost = np.zeros(len(packets), np.bool_)
        for receiver, dumped in left.items():
            to_it = np.flatnonzero((packets.protocol == PROTOCOL_TCP) & packets.sent_to(receiver))
            names = np.array(sorted(dumped), np.uint32)
            times = np.array([dumped[int(name)] for name in names], np.int64)
            of_packets = (packets.destination_port[to_it].astype(np.uint32) << 16) + packets.source_port[to_it]
            at = np.minimum(np.searchsorted(names, of_packets), len(names) - 1)
            is_ghost[to_it] = (names[at] == of_packets) & (packets.time_ns[to_it] > times[at])
        return packets.select(~is_ghost) if is_ghost.any() else packets

    @property
    def _offsets(self) -> list[int]:
        offsets = [int(event["offset_ns"]) for event in self.named("clock")]
        if len(offsets) < 2:
            raise RecordError(
                f"{self.folder.name}: events.jsonl has {len(offsets)} clock samples; start and stop are due."
            )
        return offsets

    @cached_property
    def _offset_ns(self) -> int:
        return sum(self._offsets) // len(self._offsets)

    @cached_property
    def _packets(self) -> dict[str, Packets]:
        return {}


def _key_of_flow(reading: Mapping[str, Any]) -> tuple[int, int]:
    """The receiver's address, and its port and the sender's as one number, of a reading taken at the sender."""
    remote, remote_port = str(reading["remote"]).rsplit(":", 1)
    return address(remote), (int(remote_port) << 16) + int(str(reading["local"]).rsplit(":", 1)[1])


def socket_events(raw: RawRecords, *, of_clients: bool) -> Iterator[Mapping[str, Any]]:
    """Readings of connections: the clients' own, or those of the guest and its agents."""
    for event in raw.named("socket"):
        if (str(event["who"]) in raw.clients) == of_clients:
            yield event


def guest_address(readings: Mapping[str, Any]) -> int:
    """The guest's address, from a client's reading."""
    return address(str(readings["remote"]).rsplit(":", 1)[0])
