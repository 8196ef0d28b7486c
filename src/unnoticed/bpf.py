"""BPF programs that decide about a device's frames, without a compiler: assembled here, loaded with bpf(2).

A program shares an array of words with this process: what is stored there holds from the next frame on, and costs no
system call. What is here is what the programs of `topology.gate` and `agents.diversion` need. Sources:
include/uapi/linux/bpf.h, pkt_cls.h, and Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence

_SYS_BPF = 321  # arch/x86/entry/syscalls/syscall_64.tbl
_MAP_CREATE, _PROG_LOAD = 0, 5
_MAP_TYPE_ARRAY, _PROG_TYPE_SCHED_CLS = 2, 3
_MAP_MMAPABLE = 1 << 10
_PSEUDO_MAP_VALUE = 2
_LOG_BYTES = 1 << 16
_LICENSE = b"GPL\0"

TC_ACT_OK, TC_ACT_SHOT = 0, 2  # include/uapi/linux/pkt_cls.h
GET_PRANDOM_U32, SKB_STORE_BYTES, L4_CSUM_REPLACE, CLONE_REDIRECT, REDIRECT = 7, 9, 11, 13, 23  # BPF_FUNC_*
R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FRAME = range(11)
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}

Instruction = tuple[int, int, int, int, int]  # operation, destination, source, offset, immediate

_libc = ctypes.CDLL(None, use_errno=True)


def move(to: int, source: int) -> Instruction:
    """A register into another."""
    return 0xBF, to, source, 0, 0


def set_to(to: int, value: int) -> Instruction:
    return 0xB7, to, 0, 0, value


def add(to: int, value: int) -> Instruction:
    return 0x07, to, 0, 0, value


def mask(to: int, value: int) -> Instruction:
    return 0x57, to, 0, 0, value


def shift_left(to: int, bits: int) -> Instruction:
    return 0x67, to, 0, 0, bits


def to_network_order(to: int, *, size: int) -> Instruction:
    """The lower bytes of a register, in the order of the wire; the others become 0."""
    return 0xDC, to, 0, 0, 8 * size


def store(offset: int, value: int, *, size: int) -> Instruction:
    """An immediate onto the stack, at `offset` from its frame."""
    return 0x62 | _SIZES[size], FRAME, 0, offset, value


def address_of(to: int, words: Words) -> list[Instruction]:
    """Into a register: where the words are."""
    return [(0x18, to, _PSEUDO_MAP_VALUE, 0, words.fd), (0, 0, 0, 0, 0)]


def load_word(to: int, base: int, index: int) -> Instruction:
    """Word `index` of those whose address is in a register."""
    return 0x79, to, base, 8 * index, 0


def add_to_word(base: int, index: int, source: int) -> Instruction:
    """Add a register to word `index`, atomically."""
    return 0xDB, base, source, 8 * index, 0


def frame_value(offset: int, *, size: int) -> Instruction:
    """Into R0: a value of the frame in host order; a frame that is too short ends the program with 0. R6: context."""
    return 0x20 | _SIZES[size], 0, 0, 0, offset


def frame_value_at(index: int, offset: int, *, size: int) -> Instruction:
    """The same at the place that a register and the offset make together."""
    return 0x40 | _SIZES[size], 0, index, 0, offset


def call(function: int) -> Instruction:
    return 0x85, 0, 0, 0, function


def leave() -> Instruction:
    return 0x95, 0, 0, 0, 0


def jump_if_equal(register: int, value: int, label: str) -> tuple[str, Instruction]:
    return label, (0x15, register, 0, 0, value)


def jump_unless_equal(register: int, value: int, label: str) -> tuple[str, Instruction]:
    return label, (0x55, register, 0, 0, value)


def jump_if_below(register: int, other: int, label: str) -> tuple[str, Instruction]:
    """Compares two registers, unsigned."""
    return label, (0xAD, register, other, 0, 0)


def jump(label: str) -> tuple[str, Instruction]:
    return label, (0x05, 0, 0, 0, 0)


Line = Instruction | tuple[str, Instruction] | str  # a jump has the label that it goes to; a label is a text


def assemble(lines: Sequence[Line]) -> bytes:
    """Instructions as bytes, with jumps resolved."""
    labels: dict[str, int] = {}
    count = 0
    for line in lines:
        if isinstance(line, str):
            labels[line] = count
        else:
            count += 1
    data, position = b"", 0
    for line in lines:
        if isinstance(line, str):
            continue
        position += 1
        if len(line) == 2:
            label, (operation, to, source, _, value) = line
            offset = labels[label] - position
        else:
            operation, to, source, offset, value = line
        data += struct.pack("=BBhi", operation, source << 4 | to, offset, value)
    return data


class Words:
    """64-bit words that programs and this process share, all 0 at first; `words[n]` reads and writes them in place."""

    def __init__(self, count: int) -> None:
        """Raises OSError."""
        attributes = struct.pack("=IIIII", _MAP_TYPE_ARRAY, 4, 8 * count, 1, _MAP_MMAPABLE)
        self.fd = _bpf(_MAP_CREATE, attributes, what="making a BPF map")
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


def load_classifier(lines: Sequence[Line]) -> int:
    """Load a program for cls_bpf in direct action; returns its descriptor. Raises OSError with the verifier's words."""
    code = assemble(lines)
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(_LICENSE)
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attributes = struct.pack(
        "=IIQQIIQ",
        _PROG_TYPE_SCHED_CLS,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
        1,
        _LOG_BYTES,
        ctypes.addressof(log),
    )
    try:
        return _bpf(_PROG_LOAD, attributes, what="loading a BPF program")
    except OSError as error:
        said = " ".join(log.value.decode(errors="replace").split())[-300:]
        raise OSError(error.errno, f"{error.strerror}; {said}") from error


def _bpf(command: int, attributes: bytes, *, what: str) -> int:
    padded = attributes.ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(padded, len(padded))
    result = int(_libc.syscall(_SYS_BPF, command, buffer, len(padded)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
