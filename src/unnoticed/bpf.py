"""Small BPF programs on a device's traffic, without a compiler: bpf(2), assembled here, attached to a clsact qdisc.

A program shares one array of 64-bit words with this process: what is stored there holds from the next frame on, and
costs no system call. The qdisc, its programs and their array end with the device's namespace.

Sources: include/uapi/linux/bpf.h, include/uapi/linux/pkt_sched.h, include/uapi/linux/pkt_cls.h, and
Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_CREATE, _PROG_LOAD = 0, 5
_MAP_TYPE_ARRAY, _MAP_MMAPABLE = 2, 1 << 10
_PROGRAM_SCHED_CLS = 3
_PSEUDO_MAP_VALUE = 2
_LOG_BYTES = 1 << 16

GET_PRANDOM_U32 = 7  # enum bpf_func_id
UNSPECIFIED, SHOT = -1, 2  # TC_ACT_UNSPEC: as if there were no program; TC_ACT_SHOT: drop

_libc = ctypes.CDLL(None, use_errno=True)


class Direction(IntEnum):
    """Of a device's traffic, seen from its namespace: TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of the clsact qdisc."""

    INGRESS = 0xFFF2
    EGRESS = 0xFFF3


# -- the shared array ------------------------------------------------------------------------------------------------


class Words:
    """64-bit words that BPF programs and this process share; `words[n]` reads and writes at once, in place."""

    def __init__(self, count: int) -> None:
        """An array of `count` words, all 0. Raises OSError."""
        self.count = count
        self.fd = _bpf(
            _MAP_CREATE, struct.pack("=IIIII", _MAP_TYPE_ARRAY, 4, 8 * count, 1, _MAP_MMAPABLE), "make a map"
        )
        try:
            self._memory = mmap.mmap(self.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(self.fd)
            raise
        self._view = memoryview(self._memory)[: 8 * count].cast("Q")

    def __getitem__(self, index: int) -> int:
        return self._view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value

    def close(self) -> None:
        """Release this process's share; programs go on with what is stored."""
        self._view.release()
        self._memory.close()
        os.close(self.fd)


# -- instructions ----------------------------------------------------------------------------------------------------


def _instruction(code: int, *, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, value)


def address_of_words(to: int, words: Words) -> bytes:
    """Register `to` = the address of the words (two slots)."""
    return _instruction(0x18, to=to, source=_PSEUDO_MAP_VALUE, value=words.fd) + _instruction(0)


def set_value(to: int, value: int) -> bytes:
    """Register `to` = a signed 32-bit value."""
    return _instruction(0xB7, to=to, value=value)


def copy(to: int, source: int) -> bytes:
    """Register `to` = register `source`."""
    return _instruction(0xBF, to=to, source=source)


def load_frame_byte(offset: int) -> bytes:
    """Register 0 = a byte of the frame in register 6; 1 to 5 are lost. Of a frame too short, the program returns 0."""
    return _instruction(0x30, value=offset)


def load_word(to: int, base: int, index: int) -> bytes:
    """Register `to` = word `index` from the address in register `base`."""
    return _instruction(0x79, to=to, source=base, offset=8 * index)


def add_to_word(base: int, index: int, source: int) -> bytes:
    """Add register `source` to word `index`, atomically."""
    return _instruction(0xDB, to=base, source=source, offset=8 * index)


def call(function: int) -> bytes:
    """Call a helper of the kernel: its answer is in register 0; 1 to 5 are lost."""
    return _instruction(0x85, value=function)


def skip_if_below(one: int, other: int, slots: int) -> bytes:
    """Skip `slots` slots if register `one` < register `other`, unsigned."""
    return _instruction(0xAD, to=one, source=other, offset=slots)


def skip_unless_value(one: int, value: int, slots: int) -> bytes:
    """Skip `slots` slots if register `one` is not `value`."""
    return _instruction(0x55, to=one, value=value, offset=slots)


def leave() -> bytes:
    """Return register 0."""
    return _instruction(0x95)


# -- loading and attaching -------------------------------------------------------------------------------------------


def load(instructions: Sequence[bytes]) -> int:
    """Have the kernel check and take a traffic classifier; returns its descriptor.

    Raises OSError; of a program that the kernel refuses, with the end of what its verifier says.
    """
    code = b"".join(instructions)
    program, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attributes = struct.pack(
        "=IIQQIIQ",
        _PROGRAM_SCHED_CLS,
        len(code) // 8,
        ctypes.addressof(program),
        ctypes.addressof(licence),
        1,
        _LOG_BYTES,
        ctypes.addressof(log),
    )
    try:
        return _bpf(_PROG_LOAD, attributes, "load a program")
    except OSError as error:
        said = " ".join(log.value.decode(errors="replace").split())[-200:]
        raise OSError(error.errno, f"{error.strerror} {said}".rstrip()) from error


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(38, f"bpf(2) on {platform.machine()} is not known to this program")
    padded = attributes.ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(padded, len(padded))
    result = int(_libc.syscall(number, command, buffer, len(padded)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf(2) cannot {what}: {os.strerror(code)}.")
    return result


_RTM_NEWQDISC, _RTM_NEWTFILTER = 36, 44
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x200, 0x400
_ERROR = 2
_EEXIST = 17
_CLSACT = 0xFFFFFFF1
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION = 1
_ALL_PROTOCOLS = 0x0003
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg


def attach(program_fd: int, interface: str, direction: Direction, *, name: str, priority: int = 1) -> None:
    """Run a program on what passes a device of the calling thread's namespace. Raises OSError.

    Programs of one direction run in the order of their `priority`, until one of them decides.
    """
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as route:
        route.bind((0, 0))
        qdisc = _TCMSG.pack(0, index, 0xFFFF0000, _CLSACT, 0) + _attribute(_KIND, b"clsact\0")
        try:
            _ask(route, _RTM_NEWQDISC, qdisc, what=f"give {interface} a clsact qdisc")
        except OSError as error:
            if error.errno != _EEXIST:
                raise
        options = (
            _attribute(_BPF_FD, struct.pack("=I", program_fd))
            + _attribute(_BPF_NAME, name.encode() + b"\0")
            + _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        )
        parent = _CLSACT & 0xFFFF0000 | direction
        info = priority << 16 | socket.htons(_ALL_PROTOCOLS)
        body = _TCMSG.pack(0, index, 0, parent, info) + _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
        _ask(route, _RTM_NEWTFILTER, body, what=f"attach a program to {interface}")


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _ask(route: socket.socket, kind: int, body: bytes, *, what: str) -> None:
    flags = _REQUEST | _ACK | _CREATE | _EXCLUSIVE
    route.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    answer = route.recv(8192)
    error = -int(struct.unpack_from("=i", answer, _HEADER.size)[0])
    if _HEADER.unpack_from(answer)[1] != _ERROR or error != 0:
        raise OSError(error, f"rtnetlink cannot {what}: {os.strerror(error)}.")
