"""Frames of the fake bench: rows of a numpy table, and the classic pcap bytes made of them in one sweep."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

SNAP = 96
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP, 1)  # nanosecond magic, Ethernet
TCP, UDP = 6, 17
SYN, FIN, PSH, ACK, RST = 0x02, 0x01, 0x08, 0x10, 0x04

# `sent_ns` by the sender's clock; `late_ns`: how much longer than others it took; `lost` frames are seen at the sender
# only; `client` from 1; `control`: not the guest.
ROW = np.dtype(
    [
        ("sent_ns", "i8"),
        ("from_client", "?"),
        ("lost", "?"),
        ("control", "?"),
        ("client", "i4"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("sequence", "u4"),
        ("acknowledged", "u4"),
        ("flags", "u1"),
        ("payload_bytes", "i4"),
        ("payload", "V24"),
        ("late_ns", "i8"),
    ]
)
Rows = npt.NDArray[Any]

_ETHERNET = [("dst", "u1", 6), ("src", "u1", 6), ("ether", ">u2")]
_IPV4 = [("ihl", "u1"), ("tos", "u1"), ("total", ">u2"), ("id", ">u2"), ("frag", ">u2"), ("ttl", "u1")]
_IPV4 += [("protocol", "u1"), ("sum", ">u2"), ("source", ">u4"), ("destination", ">u4")]
_RECORD = [("seconds", "<u4"), ("nanoseconds", "<u4"), ("captured", "<u4"), ("length", "<u4")]
_PORTS = [("source_port", ">u2"), ("destination_port", ">u2")]
_TCP = [*_PORTS, ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"), ("window", ">u2")]
_TCP += [("tcp_sum", ">u2"), ("urgent", ">u2")]
_UDP = [*_PORTS, ("udp_length", ">u2"), ("udp_sum", ">u2")]

GUEST_IPV4 = 0x0A4D0064  # 10.77.0.100
CONTROL_IPV4 = 0x0A4D0003
_GUEST_MAC = (0x02, 0x77, 0, 0, 0, 0x64)
_MSS_OPTION = bytes((2, 4, 1460 >> 8, 1460 & 0xFF))


def client_ipv4(client: int) -> int:
    """10.77.1.1 for c1, and so on."""
    return 0x0A4D0100 + client


def pcap(rows: Rows, *, at_client: bool, one_way_ns: int, realtime_offset_ns: int) -> bytes:
    """A capture of these rows, as seen at the clients or at the guest, in order of time.

    Senders see what they send when they send it; receivers see it `one_way_ns` (and what it was late) later, unless it
    was lost.
    """
    sender = rows["from_client"] == at_client
    rows = rows[sender | ~rows["lost"]]
    seen = rows["sent_ns"] + np.where(rows["from_client"] == at_client, 0, one_way_ns + rows["late_ns"])
    order = np.argsort(seen, kind="stable")
    rows, stamps = rows[order], seen[order] + realtime_offset_ns
    # Records are of five widths; each width is made as one array of bytes, and all are put into order at the end.
    pieces = np.empty(len(rows), dtype=object)
    syn = (rows["flags"] & SYN) != 0
    for is_tcp, has_options in ((True, True), (True, False), (False, False)):
        chosen = (rows["protocol"] == TCP) == is_tcp
        chosen &= syn == has_options
        header = 58 if has_options else 54 if is_tcp else 42
        for room in np.unique(np.minimum(rows["payload_bytes"][chosen], SNAP - header)):
            these = chosen & (np.minimum(rows["payload_bytes"], SNAP - header) == room)
            data = _records(rows[these], stamps[these], is_tcp=is_tcp, has_options=has_options, room=int(room))
            pieces[these] = np.array(data, dtype=object)
    return PCAP_HEADER + b"".join(pieces.tolist())


def _records(rows: Rows, stamps: npt.NDArray[Any], *, is_tcp: bool, has_options: bool, room: int) -> list[bytes]:
    layout: list[Any] = [*_RECORD, *_ETHERNET, *_IPV4, *(_TCP if is_tcp else _UDP)]
    if has_options:
        layout.append(("options", "V4"))
    if room:
        layout.append(("payload", "u1", room))
    out = np.zeros(len(rows), dtype=np.dtype(layout))
    transport = (24 if has_options else 20) if is_tcp else 8
    length = 14 + 20 + transport + rows["payload_bytes"]
    out["seconds"], out["nanoseconds"] = np.divmod(stamps, 10**9)
    out["captured"], out["length"] = 14 + 20 + transport + room, length
    to_peer = rows["from_client"]
    client_mac = np.zeros((len(rows), 6), dtype=np.uint8)
    client_mac[:, 0], client_mac[:, 1], client_mac[:, 4], client_mac[:, 5] = 2, 0x77, 1, rows["client"]
    peer_mac = np.tile(np.array(_GUEST_MAC, dtype=np.uint8), (len(rows), 1))
    peer_mac[rows["control"], 5] = 3
    out["dst"] = np.where(to_peer[:, None], peer_mac, client_mac)
    out["src"] = np.where(to_peer[:, None], client_mac, peer_mac)
    out["ether"], out["ihl"], out["ttl"], out["frag"] = 0x0800, 0x45, 64, 0x4000
    out["total"], out["protocol"] = length - 14, rows["protocol"]
    client, peer = 0x0A4D0100 + rows["client"], np.where(rows["control"], CONTROL_IPV4, GUEST_IPV4)
    out["source"], out["destination"] = np.where(to_peer, client, peer), np.where(to_peer, peer, client)
    peer_port = 7000 if is_tcp else 7001
    out["source_port"] = np.where(to_peer, rows["client_port"], peer_port)
    out["destination_port"] = np.where(to_peer, peer_port, rows["client_port"])
    if is_tcp:
        out["seq"], out["ack"], out["flags"], out["window"] = (
            rows["sequence"],
            rows["acknowledged"],
            rows["flags"],
            65535,
        )
        out["offset"] = transport // 4 << 4
    else:
        out["udp_length"] = 8 + rows["payload_bytes"]
    if has_options:
        out["options"] = np.void(_MSS_OPTION)
    if room:
        raw = np.zeros((len(rows), room), dtype=np.uint8)
        known = np.frombuffer(rows["payload"].tobytes(), dtype=np.uint8).reshape(len(rows), 24)
        raw[:, : min(24, room)] = known[:, : min(24, room)]
        out["payload"] = raw
    size = out.dtype.itemsize
    data = out.tobytes()
    return [data[start : start + size] for start in range(0, len(data), size)]
