"""BPF programs on all that passes one device: the clsact qdisc (include/uapi/linux/pkt_sched.h, pkt_cls.h)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

from unnoticed import bpf
from unnoticed.rtnetlink import NLM_F_CREATE, Rtnetlink, attribute, message

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER = 36, 37, 44
_CLSACT, _INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_*
_CLSACT_HANDLE = 0xFFFF0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS = 6, 7, 8
_BPF_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT
_ETH_P_ALL = 3

_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg


def attach(interface: str, *, ingress: Sequence[bpf.Line], egress: Sequence[bpf.Line]) -> None:
    """Let two programs decide about all that comes in and goes out at a device, in place of any that did.

    The device is one of the calling thread's network namespace; the programs end with it. Raises OSError.
    """
    index = socket.if_nametoindex(interface)
    netlink = Rtnetlink()
    try:
        clsact = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
        with contextlib.suppress(OSError):  # what a process that has died left
            netlink.request(message(_RTM_DELQDISC, clsact), what="removing clsact")
        netlink.request(message(_RTM_NEWQDISC, clsact, flags=NLM_F_CREATE), what="adding clsact (sch_ingress)")
        for parent, lines in ((_INGRESS, ingress), (_EGRESS, egress)):
            program = bpf.load_classifier(lines)
            try:
                netlink.request(_filter(index, parent, program), what="adding a classifier (cls_bpf)")
            finally:
                os.close(program)
    finally:
        netlink.close()


def _filter(index: int, parent: int, program: int) -> bytes:
    options = (
        attribute(_TCA_BPF_FD, struct.pack("=I", program))
        + attribute(_TCA_BPF_NAME, b"unnoticed\0")
        + attribute(_TCA_BPF_FLAGS, struct.pack("=I", _BPF_DIRECT_ACTION))
    )
    info = 1 << 16 | socket.htons(_ETH_P_ALL)  # priority and protocol
    body = (
        _TCMSG.pack(0, index, 0, parent, info)
        + attribute(_TCA_KIND, b"bpf\0")
        + attribute(_TCA_OPTIONS, options, nested=True)
    )
    return message(_RTM_NEWTFILTER, body, flags=NLM_F_CREATE)
