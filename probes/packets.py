"""Frames as a columnar table: one numpy array per header field, filled without per-packet work.

Ethernet with up to two VLAN tags, ARP, IPv4, TCP, UDP. Formats: RFC 826, 791, 768, 9293,
7323 (timestamps), 2018 (SACK). IPv6 comes later: its rows get another layer-3 window in `parse`, and wider address
columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.probes.pcap import Frames

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
_ETHERTYPE_TAGS = (0x8100, 0x88A8)
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
UDP_PAYLOAD_BYTES = 24

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Packets:
    """n packets in capture order; arrays of shape (n,) unless said. A field that a packet lacks is 0."""

    time_ns: I64  # CLOCK_MONOTONIC, if `parse` was given the offset
    length: U32  # of the frame on the wire (or of the GSO super-frame)
    source_mac: U64
    destination_mac: U64
    ethertype: U16  # behind the VLAN tags
    source: U32  # IPv4 address; ARP: sender
    destination: U32  # IPv4 address; ARP: target
    protocol: U8
    ip_id: U16
    source_port: U16
    destination_port: U16
    payload: I64  # bytes behind the TCP or UDP header, by the IP length (0 there: by the frame's)
    sequence: U32
    acknowledgement: U32
    flags: U8
    window: U16  # as sent, not scaled
    options: U8  # bytes of TCP options
    mss: U16  # the MSS option, which only SYNs have
    window_scale: U8  # the option's value plus 1, which only SYNs have
    sack_permitted: Bool
    timestamps: Bool  # has the timestamps option
    sack_count: U8  # SACK blocks
    sack: U32  # (n, 4, 2): left and right edge of each block
    udp_payload: U8  # (n, UDP_PAYLOAD_BYTES): what UDP carries, as far as captured
    arp_operation: U16  # 1 request, 2 reply
    arp_sender_mac: U64
    arp_target_mac: U64
    whole: Bool  # the headers up to TCP or UDP, options included, were captured

    def __len__(self) -> int:
        return len(self.time_ns)

    def select(self, rows: Bool | I64) -> Packets:
        """The packets of a mask, or of row numbers in their order."""
        return Packets(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def announcements(self, address: int) -> Bool:
        """Mask of the ARP announcements of an IPv4 address: sender and target are both it (RFC 5227)."""
        own = (self.source == address) & (self.destination == address)
        mask: Bool = (self.ethertype == ETHERTYPE_ARP) & (self.arp_operation > 0) & own
        return mask


def merge(tables: Iterable[Packets]) -> Packets:
    """Several captures of one clock in time order; the order within each capture stays as it was.

    Stamps within a capture can be out of order by microseconds (two processors); the order of capture is what the
    sender did, so each table is sorted by the latest stamp so far.
    """
    parts = list(tables)
    joined = Packets(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Packets)}
    )
    key = np.concatenate([np.maximum.accumulate(part.time_ns) if len(part) else part.time_ns for part in parts])
    return joined.select(np.argsort(key, kind="stable"))


_IPV4 = np.dtype(
    {
        "names": ["version", "length", "id", "fragment", "protocol", "source", "destination"],
        "formats": ["u1", ">u2", ">u2", ">u2", "u1", ">u4", ">u4"],
        "offsets": [0, 2, 4, 6, 9, 12, 16],
        "itemsize": 20,
    }
)
_TCP = np.dtype(
    {
        "names": ["source", "destination", "sequence", "acknowledgement", "offset", "flags", "window"],
        "formats": [">u2", ">u2", ">u4", ">u4", "u1", "u1", ">u2"],
        "offsets": [0, 2, 4, 8, 12, 13, 14],
        "itemsize": 60,
    }
)
_UDP = np.dtype(
    {
        "names": ["source", "destination", "length", "payload"],
        "formats": [">u2", ">u2", ">u2", f"({UDP_PAYLOAD_BYTES},)u1"],
        "offsets": [0, 2, 4, 8],
        "itemsize": 8 + UDP_PAYLOAD_BYTES,
    }
)
_ARP = np.dtype(
    {
        "names": ["hardware", "operation", "sender_mac", "sender", "target_mac", "target"],
        "formats": [">u2", ">u2", ("u1", 6), ">u4", ("u1", 6), ">u4"],
        "offsets": [0, 6, 8, 14, 18, 24],
        "itemsize": 28,
    }
)


def _windows(data: U8, rows: I64, starts: I64, layout: np.dtype[np.void]) -> tuple[npt.NDArray[Any], U8]:
    """From each of `rows` of the matrix `data`, the bytes from `starts` on: seen as `layout`, and as a matrix.

    Both, because numpy leaves out the gaps between fields when it copies a structured array.

    What lies behind a row's end is read from the next row: the caller must know what was captured.
    """
    flat = np.concatenate([data.ravel(), np.zeros(layout.itemsize, np.uint8)])
    found = np.lib.stride_tricks.sliding_window_view(flat, layout.itemsize)[rows * data.shape[1] + starts]
    found = np.ascontiguousarray(found)
    return found.view(layout)[:, 0], found


def _mac(six: U8) -> U64:
    """(n, 6) bytes as integers."""
    wide = np.zeros((len(six), 8), np.uint8)
    wide[:, 2:] = six
    return wide.view(">u8")[:, 0].astype(np.uint64)


def parse(frames: Frames, *, offset_ns: int = 0) -> Packets:
    """The table of `frames`. `offset_ns` (CLOCK_REALTIME less CLOCK_MONOTONIC) is taken off every stamp.

    `frames.data` should be at least 96 bytes wide: whatever is behind it counts as not captured.
    """
    count, width = frames.data.shape
    data = frames.data
    captured = np.minimum(frames.captured, width).astype(np.int64)

    def column(kind: Any, *shape: int) -> Any:
        return np.zeros((count, *shape), kind)

    out: dict[str, Any] = {
        "source_mac": _mac(data[:, 6:12]),
        "destination_mac": _mac(data[:, 0:6]),
        "ethertype": np.ascontiguousarray(data[:, 12:14]).view(">u2")[:, 0].astype(np.uint16),
    }
    for name in ("source", "destination", "sequence", "acknowledgement"):
        out[name] = column(np.uint32)
    for name in ("ip_id", "source_port", "destination_port", "window", "mss", "arp_operation"):
        out[name] = column(np.uint16)
    for name in ("protocol", "flags", "options", "window_scale", "sack_count"):
        out[name] = column(np.uint8)
    for name in ("sack_permitted", "timestamps", "whole"):
        out[name] = column(np.bool_)
    for name in ("arp_sender_mac", "arp_target_mac"):
        out[name] = column(np.uint64)
    out["payload"] = column(np.int64)
    out["sack"] = column(np.uint32, 4, 2)
    out["udp_payload"] = column(np.uint8, UDP_PAYLOAD_BYTES)

    layer3 = np.full(count, 14, np.int64)
    for _ in range(2):
        tagged = np.flatnonzero(np.isin(out["ethertype"], _ETHERTYPE_TAGS) & (captured >= layer3 + 4))
        if len(tagged):
            inner = data[tagged[:, None], layer3[tagged, None] + np.arange(2, 4)]
            out["ethertype"][tagged] = np.ascontiguousarray(inner).view(">u2")[:, 0]
            layer3[tagged] += 4

    _parse_arp(out, data, np.flatnonzero((out["ethertype"] == ETHERTYPE_ARP) & (captured >= layer3 + 28)), layer3)
    ipv4 = np.flatnonzero((out["ethertype"] == ETHERTYPE_IPV4) & (captured >= layer3 + 20))
    ip, _ = _windows(data, ipv4, layer3[ipv4], _IPV4)
    out["source"][ipv4] = ip["source"]
    out["destination"][ipv4] = ip["destination"]
    out["protocol"][ipv4] = ip["protocol"]
    out["ip_id"][ipv4] = ip["id"]
    header = (ip["version"] & 0x0F).astype(np.int64) * 4
    total = ip["length"].astype(np.int64)
    # A super-frame of 64 KiB or more says 0; the frame's own length tells then (BIG TCP).
    total = np.where(total == 0, frames.length[ipv4].astype(np.int64) - layer3[ipv4], total)
    layer4 = layer3[ipv4] + header
    first = ((ip["fragment"] & 0x1FFF) == 0) & (header >= 20)  # a later fragment has no ports
    left = total - header
    for protocol, parser in ((PROTOCOL_TCP, _parse_tcp), (PROTOCOL_UDP, _parse_udp)):
        chosen = np.flatnonzero((ip["protocol"] == protocol) & first)
        parser(out, data, ipv4[chosen], start=layer4[chosen], left=left[chosen], captured=captured)
    return Packets(time_ns=frames.time_ns - np.int64(offset_ns), length=frames.length, **out)


def _parse_arp(out: dict[str, Any], data: U8, rows: I64, layer3: I64) -> None:
    arp, _ = _windows(data, rows, layer3[rows], _ARP)
    out["source"][rows] = arp["sender"]
    out["destination"][rows] = arp["target"]
    out["arp_operation"][rows] = arp["operation"]
    out["arp_sender_mac"][rows] = _mac(arp["sender_mac"])
    out["arp_target_mac"][rows] = _mac(arp["target_mac"])
    out["whole"][rows] = True


def _parse_udp(out: dict[str, Any], data: U8, rows: I64, *, start: I64, left: I64, captured: I64) -> None:
    there = captured[rows] >= start + 8
    rows, start, left = rows[there], start[there], left[there]
    udp, _ = _windows(data, rows, start, _UDP)
    out["source_port"][rows] = udp["source"]
    out["destination_port"][rows] = udp["destination"]
    out["payload"][rows] = np.maximum(left - 8, 0)
    carried = np.minimum(captured[rows] - start - 8, left - 8)[:, None] > np.arange(UDP_PAYLOAD_BYTES)
    out["udp_payload"][rows] = np.where(carried, udp["payload"], 0)
    out["whole"][rows] = True


def _parse_tcp(out: dict[str, Any], data: U8, rows: I64, *, start: I64, left: I64, captured: I64) -> None:
    there = captured[rows] >= start + 20
    rows, start, left = rows[there], start[there], left[there]
    tcp, headers = _windows(data, rows, start, _TCP)
    header = (tcp["offset"] >> 4).astype(np.int64) * 4
    out["source_port"][rows] = tcp["source"]
    out["destination_port"][rows] = tcp["destination"]
    out["sequence"][rows] = tcp["sequence"]
    out["acknowledgement"][rows] = tcp["acknowledgement"]
    out["flags"][rows] = tcp["flags"]
    out["window"][rows] = tcp["window"]
    out["payload"][rows] = np.maximum(left - header, 0)
    out["options"][rows] = np.maximum(header - 20, 0)
    whole = (header >= 20) & (captured[rows] >= start + header)
    out["whole"][rows] = whole
    plain = np.frombuffer(b"\x01\x01\x08\x0a", ">u4")[0]
    lead = np.ascontiguousarray(headers[:, 20:24]).view(">u4")[:, 0]
    usual = whole & (header == 32) & (lead == plain)  # two NOPs and timestamps: most segments of most connections
    out["timestamps"][rows[usual]] = True
    rest = np.flatnonzero(whole & ~usual & (header > 20))
    _parse_options(out, rows[rest], headers[rest], header[rest])


def _parse_options(out: dict[str, Any], rows: I64, headers: U8, end: I64) -> None:
    """Walk the options of all headers at once, one option per turn. `headers` is (m, 60); options end at `end`."""
    at = np.full(len(rows), 20, np.int64)
    headers = np.concatenate([headers, np.zeros((len(rows), 40), np.uint8)], axis=1)  # a false length stays inside
    active = np.arange(len(rows))
    for _ in range(40):
        active = active[at[active] < end[active]]
        kind = headers[active, at[active]]
        active, kind = active[kind != 0], kind[kind != 0]
        if len(active) == 0:
            return
        size = np.where(kind == 1, 1, headers[active, at[active] + 1]).astype(np.int64)
        sound = (size >= np.where(kind == 1, 1, 2)) & (at[active] + size <= end[active])
        active, kind, size = active[sound], kind[sound], size[sound]
        for option in np.unique(kind):
            mine = active[kind == option]
            place = at[mine]
            if option == 2:
                out["mss"][rows[mine]] = headers[mine, place + 2].astype(np.uint16) << 8 | headers[mine, place + 3]
            elif option == 3:
                out["window_scale"][rows[mine]] = headers[mine, place + 2] + 1
            elif option == 4:
                out["sack_permitted"][rows[mine]] = True
            elif option == 5:
                blocks = np.minimum((size[kind == option] - 2) // 8, 4)
                edges = headers[mine[:, None], place[:, None] + 2 + np.arange(32)].copy().view(">u4").reshape(-1, 4, 2)
                out["sack_count"][rows[mine]] = blocks
                out["sack"][rows[mine]] = np.where((np.arange(4) < blocks[:, None])[:, :, None], edges, 0)
            elif option == 8:
                out["timestamps"][rows[mine]] = True
        at[active] += size
