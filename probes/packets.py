"""Frames as a columnar table: one numpy array per header field, filled by one compiled loop.

Ethernet, Linux cooked, raw IP and loopback frames; VLAN tags, ARP, IPv4 and IPv6 with their extension headers, TCP,
UDP, ICMP echo. The formats are named in `header_kernels`.

Addresses are 128 bits in two columns: the lower half and `..._high`. An IPv4 address is its 32 bits. No IPv6 address
that a host can have looks like one: those of 0.0.0.0/8 are no hosts' (RFC 1122), and ::a.b.c.d is no more (RFC 4291).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unnoticed.probes.capture_file import LINKTYPE_ETHERNET, Records, open_capture
from unnoticed.probes.columns import I64 as I64
from unnoticed.probes.columns import U8, U16, U32, U64
from unnoticed.probes.columns import Bool as Bool
from unnoticed.probes.pcap import Frames

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_ARP = 0x0806
ETHERTYPE_RARP = 0x8035
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ICMPV6 = 58
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
UDP_PAYLOAD_BYTES = 24
ECHO_REQUEST, ECHO_ANSWER = 1, 2
FIRST_FRAGMENT, LATER_FRAGMENT = 1, 2


@dataclass(frozen=True, kw_only=True)
class Packets:
    """n packets in capture order; arrays of shape (n,) unless said. A field that a packet lacks is 0."""

    time_ns: I64  # CLOCK_MONOTONIC, if `parse` was given the offset
    length: U32  # of the frame on the wire (or of the GSO super-frame)
    interface: U32  # a number for each interface of a file that has several
    direction: U8  # capture_file.INBOUND, OUTBOUND, or 0: not known
    source_mac: U64
    destination_mac: U64
    ethertype: U16  # behind the VLAN tags; 0: not understood
    source: U64  # lower half of the address; ARP: sender
    source_high: U64  # upper half; 0 for IPv4
    destination: U64  # ARP: target
    destination_high: U64
    protocol: U8  # behind the IPv6 extension headers
    ip_id: U16
    fragment: U8  # 0 not one, FIRST_FRAGMENT, LATER_FRAGMENT
    source_port: U16
    destination_port: U16
    payload: I64  # bytes behind the TCP, UDP or echo header, by the IP length (0 there: by the frame's)
    sequence: U32
    acknowledgement: U32
    flags: U8
    window: U16  # as sent, not scaled
    options: U8  # bytes of TCP options
    mss: U16  # the MSS option, which only SYNs have
    window_scale: U8  # the option's value plus 1, which only SYNs have
    sack_permitted: Bool
    timestamps: Bool  # has the timestamps option
    timestamp: U32  # its value, in a unit of the sender's
    timestamp_echo: U32  # the other end's value that it echoes
    sack_count: U8  # SACK blocks
    sack: U32  # (n, 4, 2): left and right edge of each block
    udp_payload: U8  # (n, UDP_PAYLOAD_BYTES): what UDP carries, as far as captured
    echo: U8  # ICMP and ICMPv6: ECHO_REQUEST, ECHO_ANSWER
    echo_identifier: U16
    echo_sequence: U16
    arp_operation: U16  # 1 request, 2 reply
    arp_sender_mac: U64
    arp_target_mac: U64
    whole: Bool  # the headers up to TCP or UDP, options included, were captured
    options_cut: Bool  # the TCP header was captured, its options were not, or not all

    def __len__(self) -> int:
        return len(self.time_ns)

    def select(self, rows: Bool | I64) -> Packets:
        """The packets of a mask, or of row numbers in their order."""
        return Packets(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def sent_by(self, address: int) -> Bool:
        """Mask of the packets whose source is an address, as `address` gives it."""
        mask: Bool = (self.source == np.uint64(address & _LOW)) & (self.source_high == np.uint64(address >> 64))
        return mask

    def sent_to(self, address: int) -> Bool:
        """Mask of the packets to an address."""
        low, high = np.uint64(address & _LOW), np.uint64(address >> 64)
        mask: Bool = (self.destination == low) & (self.destination_high == high)
        return mask

    def announcements(self) -> Bool:
        """Mask of the frames that announce where somebody is.

        ARP whose sender and target are one (RFC 5227), RARP (RFC 903), and what ICMPv6 says to all nodes, which is
        neighbour advertisements that nobody asked for (RFC 4861, section 7.2.6), and a router's.
        """
        own = (self.arp_operation > 0) & (self.source == self.destination)
        to_all = self.sent_to(_ALL_NODES) & (self.protocol == PROTOCOL_ICMPV6)
        mask: Bool = own | (self.ethertype == ETHERTYPE_RARP) | to_all
        return mask


_LOW = (1 << 64) - 1
_ALL_NODES = int(ipaddress.IPv6Address("ff02::1"))


def address(text: str) -> int:
    """An IPv4 or IPv6 address as one integer: `source` of the table, and `source_high` from bit 64 on."""
    return int(ipaddress.ip_address(text.strip("[]")))


def address_name(value: int) -> str:
    """The text of an address that is one integer."""
    return str(ipaddress.IPv4Address(value) if _is_ipv4(value) else ipaddress.IPv6Address(value))


def endpoint_name(value: int, port: int) -> str:
    """E.g. "10.77.1.1:40000", or "[fd00::1]:40000"."""
    return f"{address_name(value)}:{port}" if _is_ipv4(value) else f"[{address_name(value)}]:{port}"


def _is_ipv4(value: int) -> bool:
    return 1 << 24 <= value < 1 << 32


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


def read_packets(path: Path, *, offset_ns: int = 0, truncated: Literal["raise", "flag"] = "raise") -> Packets:
    """The table of a capture file. Raises RecordError as `open_capture` does."""
    return parse(open_capture(path, truncated=truncated), offset_ns=offset_ns)


# The columns in the order in which `parse_headers` takes them, behind those that `Records` has.
_PARSED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "source_mac": (np.uint64, ()),
    "destination_mac": (np.uint64, ()),
    "ethertype": (np.uint16, ()),
    "source": (np.uint64, ()),
    "source_high": (np.uint64, ()),
    "destination": (np.uint64, ()),
    "destination_high": (np.uint64, ()),
    "protocol": (np.uint8, ()),
    "ip_id": (np.uint16, ()),
    "fragment": (np.uint8, ()),
    "source_port": (np.uint16, ()),
    "destination_port": (np.uint16, ()),
    "payload": (np.int64, ()),
    "sequence": (np.uint32, ()),
    "acknowledgement": (np.uint32, ()),
    "flags": (np.uint8, ()),
    "window": (np.uint16, ()),
    "options": (np.uint8, ()),
    "mss": (np.uint16, ()),
    "window_scale": (np.uint8, ()),
    "sack_permitted": (np.bool_, ()),
    "timestamps": (np.bool_, ()),
    "timestamp": (np.uint32, ()),
    "timestamp_echo": (np.uint32, ()),
    "sack_count": (np.uint8, ()),
    "sack": (np.uint32, (4, 2)),
    "udp_payload": (np.uint8, (UDP_PAYLOAD_BYTES,)),
    "echo": (np.uint8, ()),
    "echo_identifier": (np.uint16, ()),
    "echo_sequence": (np.uint16, ()),
    "arp_operation": (np.uint16, ()),
    "arp_sender_mac": (np.uint64, ()),
    "arp_target_mac": (np.uint64, ()),
    "whole": (np.bool_, ()),
    "options_cut": (np.bool_, ()),
}


def parse(records: Records | Frames, *, offset_ns: int = 0) -> Packets:
    """The table of what was captured. `offset_ns` (CLOCK_REALTIME less CLOCK_MONOTONIC) is taken off every stamp.

    Of each frame at least 114 bytes should be there (of IPv4 94): a TCP header with all options. What is not counts as
    not captured.
    """
    from unnoticed.probes.header_kernels import parse_headers

    found = records if isinstance(records, Records) else _records_of(records)
    count = len(found)
    # Memory that is zero and was never written to takes no room: columns that a capture does not fill cost nothing.
    columns = {name: np.zeros((count, *shape), kind) for name, (kind, shape) in _PARSED.items()}
    direction, interface = found.direction.copy(), found.interface.copy()
    parse_headers(
        found.buffer,
        found.start,
        found.captured,
        found.length,
        found.link,
        direction,
        interface,
        *(columns[name] for name in _PARSED),
    )
    return Packets(
        time_ns=found.time_ns - np.int64(offset_ns),
        length=found.length,
        direction=direction,
        interface=interface,
        **columns,
    )


def _records_of(frames: Frames) -> Records:
    """Frames that are in memory, as if they stood in a file one after the other."""
    count, width = frames.data.shape
    buffer: U8 = np.ascontiguousarray(frames.data).reshape(-1).view()
    buffer.flags.writeable = False
    return Records(
        buffer=buffer,
        start=np.arange(count, dtype=np.int64) * width,
        time_ns=frames.time_ns,
        captured=np.minimum(frames.captured, width).astype(np.uint32),
        length=frames.length,
        link=np.full(count, LINKTYPE_ETHERNET, np.uint16),
        interface=np.zeros(count, np.uint32),
        direction=np.zeros(count, np.uint8),
    )
