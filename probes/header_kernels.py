"""Frames to columns: one compiled loop over the frames, from the link header to the TCP options.

Formats: IEEE 802.1Q, IEEE 802.3 with SNAP (RFC 1042), Linux cooked captures (tcpdump.org/linktypes), PPPoE (RFC 2516),
RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 792 and 4443 (ICMP echo), 768 (UDP), 9293 (TCP), 7323 (timestamps), 2018 (SACK).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoticed.compiled import compiled
from unnoticed.probes.capture_file import (
    LINKTYPE_ETHERNET,
    LINKTYPE_IPV4,
    LINKTYPE_IPV6,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_LINUX_SLL2,
    LINKTYPE_LOOP,
    LINKTYPE_NULL,
    LINKTYPE_RAW,
)
from unnoticed.probes.columns import I64, U8, U16, U32

_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_UDP_PAYLOAD_BYTES = 24
_MOST_TAGS = 4
_MOST_EXTENSIONS = 12


@compiled
def _u16(data: U8, at: int) -> Any:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@compiled
def _u32(data: U8, at: int) -> Any:
    return (
        (np.int64(data[at]) << 24)
        | (np.int64(data[at + 1]) << 16)
        | (np.int64(data[at + 2]) << 8)
        | np.int64(data[at + 3])
    )


@compiled
def _u48(data: U8, at: int) -> Any:
    return (_u32(data, at) << 16) | _u16(data, at + 4)


@compiled
def _u64(data: U8, at: int) -> Any:
    return (np.uint64(_u32(data, at)) << np.uint64(32)) | np.uint64(_u32(data, at + 4))


@compiled
def _link_header(data: U8, at: int, end: int, link: int) -> tuple[int, int]:
    """(ethertype, where layer 3 starts); an ethertype of 0 for what is not understood or not captured."""
    if link == LINKTYPE_ETHERNET:
        if at + 14 > end:
            return 0, at
        kind, at = _u16(data, at + 12), at + 14
        if kind < 0x0600 and at + 8 <= end and _u32(data, at) == 0xAAAA0300 and _u16(data, at + 4) == 0:
            kind, at = _u16(data, at + 6), at + 8
    elif link == LINKTYPE_LINUX_SLL:
        if at + 16 > end:
            return 0, at
        kind, at = _u16(data, at + 14), at + 16
    elif link == LINKTYPE_LINUX_SLL2:
        if at + 20 > end:
            return 0, at
        kind, at = _u16(data, at), at + 20
    elif link == LINKTYPE_RAW or link == LINKTYPE_IPV4 or link == LINKTYPE_IPV6:
        if at >= end:
            return 0, at
        version = data[at] >> 4
        return (_IPV4 if version == 4 else _IPV6 if version == 6 else 0), at
    elif link == LINKTYPE_NULL or link == LINKTYPE_LOOP:
        if at + 4 > end:
            return 0, at
        # The address family, in the byte order of the machine that captured: one of its ends is zero.
        family = data[at] | data[at + 3]
        v6 = family == 10 or family == 24 or family == 28 or family == 30
        return (_IPV4 if family == 2 else _IPV6 if v6 else 0), at + 4
    else:
        return 0, at
    for _ in range(_MOST_TAGS):
        if (kind == 0x8100 or kind == 0x88A8 or kind == 0x9100) and at + 4 <= end:
            kind, at = _u16(data, at + 2), at + 4
        else:
            break
    if kind == 0x8864 and at + 8 <= end:
        protocol = _u16(data, at + 6)
        kind = _IPV4 if protocol == 0x0021 else _IPV6 if protocol == 0x0057 else kind
        at += 8
    return kind, at


@compiled
def _options(
    data: U8,
    at: int,
    end: int,
    i: int,
    mss: U16,
    scale: U8,
    permitted: U8,
    stamps: U8,
    stamp: U32,
    echo: U32,
    count: U8,
    sack: U32,
) -> None:
    """The TCP options from `at` to `end`. One with a false length ends them."""
    while at < end:
        kind = data[at]
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        if at + 2 > end:
            return
        size: Any = np.int64(data[at + 1])
        if size < 2 or at + size > end:
            return
        if kind == 2 and size >= 4:
            mss[i] = _u16(data, at + 2)
        elif kind == 3 and size >= 3:
            scale[i] = (data[at + 2] & 0x7F) + 1
        elif kind == 4:
            permitted[i] = True
        elif kind == 5:
            blocks: Any = min((size - 2) // 8, 4)
            count[i] = blocks
            for k in range(blocks):
                sack[i, k, 0] = _u32(data, at + 2 + 8 * k)
                sack[i, k, 1] = _u32(data, at + 6 + 8 * k)
        elif kind == 8 and size >= 10:
            stamps[i] = True
            stamp[i], echo[i] = _u32(data, at + 2), _u32(data, at + 6)
        at += size


@compiled
def parse_headers(
    data: U8,
    start: I64,
    captured: U32,
    wire: U32,
    links: U16,
    direction: U8,
    interface: U32,
    source_mac: Any,
    destination_mac: Any,
    ethertype: U16,
    source: Any,
    source_high: Any,
    destination: Any,
    destination_high: Any,
    protocol: U8,
    ip_id: U16,
    fragment: U8,
    source_port: U16,
    destination_port: U16,
    payload: I64,
    sequence: U32,
    acknowledgement: U32,
    flags: U8,
    window: U16,
    options: U8,
    mss: U16,
    window_scale: U8,
    sack_permitted: Any,
    timestamps: Any,
    timestamp: U32,
    timestamp_echo: U32,
    sack_count: U8,
    sack: U32,
    udp_payload: U8,
    echo: U8,
    echo_identifier: U16,
    echo_sequence: U16,
    arp_operation: U16,
    arp_sender_mac: Any,
    arp_target_mac: Any,
    whole: Any,
    options_cut: Any,
) -> None:
    """Fill the columns, which must be zero, from the frames that start at `start`."""
    for i in range(len(start)):
        begin = start[i]
        end = begin + np.int64(captured[i])
        link = links[i]
        kind, at = _link_header(data, begin, end, link)
        ethertype[i] = kind
        if link == LINKTYPE_ETHERNET:
            if begin + 14 <= end:
                destination_mac[i] = _u48(data, begin)
                source_mac[i] = _u48(data, begin + 6)
        elif link == LINKTYPE_LINUX_SLL:
            if begin + 16 <= end:
                direction[i] = 2 if _u16(data, begin) == 4 else 1
                if _u16(data, begin + 4) == 6:
                    source_mac[i] = _u48(data, begin + 6)
        elif link == LINKTYPE_LINUX_SLL2 and begin + 20 <= end:
            direction[i] = 2 if data[begin + 10] == 4 else 1
            interface[i] = (interface[i] << 24) | (_u32(data, begin + 4) & 0xFFFFFF)
            if data[begin + 11] == 6:
                source_mac[i] = _u48(data, begin + 12)
        if kind == _IPV4:
            if at + 20 > end:
                continue
            header = np.int64(data[at] & 0x0F) * 4
            total = _u16(data, at + 2)
            # A super-frame of 64 KiB or more says 0; the frame's own length tells then (BIG TCP).
            if total == 0:
                total = np.int64(wire[i]) - (at - begin)
            ip_id[i] = _u16(data, at + 4)
            pieces = _u16(data, at + 6)
            upper = data[at + 9]
            source[i] = _u32(data, at + 12)
            destination[i] = _u32(data, at + 16)
            protocol[i] = upper
            if pieces & 0x3FFF != 0:
                fragment[i] = 1 if pieces & 0x1FFF == 0 else 2
            if header < 20 or pieces & 0x1FFF != 0:  # a later fragment has no ports
                continue
            left = total - header
            at += header
        elif kind == _IPV6:
            if at + 40 > end:
                continue
            left = _u16(data, at + 4)
            if left == 0:  # a jumbogram (RFC 2675), or a super-frame
                left = max(np.int64(wire[i]) - (at - begin) - 40, 0)
            source_high[i] = _u64(data, at + 8)
            source[i] = _u64(data, at + 16)
            destination_high[i] = _u64(data, at + 24)
            destination[i] = _u64(data, at + 32)
            upper = data[at + 6]
            at += 40
            reached = True
            for _ in range(_MOST_EXTENSIONS):
                if upper in (0, 43, 60, 135, 139, 140, 253, 254):  # RFC 6564's form, as IANA lists them
                    size = np.int64(8)
                    if at + 2 <= end:
                        size = (np.int64(data[at + 1]) + 1) * 8
                elif upper == 44:
                    size = np.int64(8)
                elif upper == 51:
                    size = np.int64(8)
                    if at + 2 <= end:
                        size = (np.int64(data[at + 1]) + 2) * 4
                else:
                    break
                if at + 8 > end:
                    reached = False
                    break
                if upper == 44:
                    pieces = _u16(data, at + 2)
                    if pieces & 0xFFF9 != 0:
                        fragment[i] = 1 if pieces & 0xFFF8 == 0 else 2
                upper = data[at]
                left -= size
                at += size
                if fragment[i] == 2:
                    break
            protocol[i] = upper
            if not reached or fragment[i] == 2 or left < 0:
                continue
        elif kind == _ARP:
            if at + 28 <= end:
                arp_operation[i] = _u16(data, at + 6)
                arp_sender_mac[i] = _u48(data, at + 8)
                source[i] = _u32(data, at + 14)
                arp_target_mac[i] = _u48(data, at + 18)
                destination[i] = _u32(data, at + 24)
                whole[i] = True
            continue
        else:
            continue
        if upper == _TCP:
            if at + 20 > end:
                continue
            header = np.int64(data[at + 12] >> 4) * 4
            source_port[i] = _u16(data, at)
            destination_port[i] = _u16(data, at + 2)
            sequence[i] = _u32(data, at + 4)
            acknowledgement[i] = _u32(data, at + 8)
            flags[i] = data[at + 13]
            window[i] = _u16(data, at + 14)
            payload[i] = max(left - header, 0)
            if header < 20:
                continue
            options[i] = header - 20
            stop = at + header
            if stop > end:
                options_cut[i] = True
                stop = end
            else:
                whole[i] = True
            if header == 32 and stop == at + 32 and _u32(data, at + 20) == 0x0101080A:
                timestamps[i] = True  # two NOPs and timestamps: most segments of most connections
                timestamp[i], timestamp_echo[i] = _u32(data, at + 24), _u32(data, at + 28)
            elif header > 20:
                _options(
                    data,
                    at + 20,
                    stop,
                    i,
                    mss,
                    window_scale,
                    sack_permitted,
                    timestamps,
                    timestamp,
                    timestamp_echo,
                    sack_count,
                    sack,
                )
        elif upper == _UDP:
            if at + 8 > end:
                continue
            source_port[i] = _u16(data, at)
            destination_port[i] = _u16(data, at + 2)
            payload[i] = max(left - 8, 0)
            for k in range(min(end - at - 8, left - 8, _UDP_PAYLOAD_BYTES)):
                udp_payload[i, k] = data[at + 8 + k]
            whole[i] = True
        elif upper == _ICMP or upper == _ICMPV6:
            if at + 8 > end:
                continue
            what = data[at]
            # 1 a request, 2 an answer
            if upper == _ICMP:
                echo[i] = 1 if what == 8 else 2 if what == 0 else 0
            else:
                echo[i] = 1 if what == 128 else 2 if what == 129 else 0
            if echo[i] != 0:
                echo_identifier[i] = _u16(data, at + 4)
                echo_sequence[i] = _u16(data, at + 6)
                payload[i] = max(left - 8, 0)
