"""What the kernel says of a TCP connection: TCP_INFO (include/uapi/linux/tcp.h, struct tcp_info).

Shared by the load clients, the guest and the agents, because a flow's retransmissions are checked against the
kernel's counters at both ends.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import asdict, dataclass
from typing import Any

from unnoticed.endpoints import endpoint

TCP_INFO_BYTES = 248  # up to and including tcpi_total_rto_recoveries and tcpi_total_rto_time (kernel 6.7)


_NEVER_MEASURED = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class TcpInfo:
    """The fields of struct tcp_info that are used here.

    Counters that an older kernel lacks are -1, and so is `min_rtt_us` before the first measurement.
    """

    state: int
    ca_state: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    rto_us: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    retrans: int
    rtt_us: int
    rttvar_us: int
    min_rtt_us: int
    snd_ssthresh: int
    snd_cwnd: int
    total_retrans: int
    bytes_acked: int
    segs_out: int
    segs_in: int
    delivery_bytes_per_s: int
    bytes_retrans: int
    dsack_dups: int
    reord_seen: int
    total_rto: int

    @property
    def is_starting(self) -> bool:
        """Whether it is in slow start (RFC 5681), and held back by that (tcp_is_cwnd_limited of include/net/tcp.h)."""
        return 2 * self.unacked >= self.snd_cwnd and self.snd_cwnd < self.snd_ssthresh


def read_tcp_info(connection: socket.socket) -> TcpInfo:
    """Read TCP_INFO of one socket. Raises OSError if it is not a TCP socket."""
    return parse_tcp_info(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """What the bytes of struct tcp_info say; an older kernel's are fewer."""

    def field(form: str, offset: int) -> int:
        if offset + struct.calcsize(form) > len(raw):
            return -1
        value: int = struct.unpack_from(form, raw, offset)[0]
        return value

    min_rtt_us = field("=I", 148)
    return TcpInfo(
        state=raw[0],
        ca_state=raw[1],
        options=raw[5],
        snd_wscale=raw[6] & 0x0F,
        rcv_wscale=raw[6] >> 4,
        rto_us=field("=I", 8),
        snd_mss=field("=I", 16),
        rcv_mss=field("=I", 20),
        unacked=field("=I", 24),
        retrans=field("=I", 36),
        rtt_us=field("=I", 68),
        rttvar_us=field("=I", 72),
        min_rtt_us=-1 if min_rtt_us == _NEVER_MEASURED else min_rtt_us,
        snd_ssthresh=field("=I", 76),
        snd_cwnd=field("=I", 80),
        total_retrans=field("=I", 100),
        bytes_acked=field("=Q", 120),
        segs_out=field("=I", 136),
        segs_in=field("=I", 140),
        delivery_bytes_per_s=field("=Q", 160),
        bytes_retrans=field("=Q", 208),
        dsack_dups=field("=I", 216),
        reord_seen=field("=I", 220),
        total_rto=field("=H", 240),
    )


def socket_reading(
    connection: socket.socket, *, local: tuple[str, int] | None = None, remote: tuple[str, int] | None = None
) -> dict[str, Any]:
    """One reading of a connection for the event log (event `socket`).

    Keys: local and remote as `endpoint` writes them, and every field of TcpInfo. The counters outlive a connection that
    ended or was reset, the name of its other end does not (getpeername: ENOTCONN): give the names where that can be.
    Read after both ends have closed, the counters hold the repeats of the FIN too. Raises OSError.
    """
    local = connection.getsockname()[:2] if local is None else local
    remote = connection.getpeername()[:2] if remote is None else remote
    return {
        "local": endpoint(*local),
        "remote": endpoint(*remote),
        **asdict(read_tcp_info(connection)),
    }
