"""BPF programs for classifiers, and the array map that steers them (bpf(2); include/uapi/linux/bpf.h).

A program is a list of instructions; what is here is what the programs of `unnoticed.agents.diversion` need. A map's
element can be set in a few microseconds, and the next frame sees it.
"""

from __future__ import annotations

import ctypes
import os
import struct

from unnoticed.agents.kernel.libc import syscall

_SYS_BPF = 321  # arch/x86/entry/syscalls/syscall_64.tbl
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD = 0, 2, 5
_MAP_TYPE_ARRAY, _PROG_TYPE_SCHED_CLS = 2, 3
_PSEUDO_MAP_FD = 1
_LOG_BYTES = 1 << 16
_LICENSE = b"GPL\0"

TC_ACT_OK, TC_ACT_SHOT = 0, 2  # include/uapi/linux/pkt_cls.h
LOOK_UP_ELEMENT, SKB_STORE_BYTES, REDIRECT = 1, 9, 23  # BPF_FUNC_*
R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FRAME = range(11)
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}

Instruction = tuple[int, int, int, int, int]  # operation, destination, source, offset, immediate


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


def store(offset: int, value: int, *, size: int) -> Instruction:
    """An immediate onto the stack, at `offset` from its frame."""
    return 0x62 | _SIZES[size], FRAME, 0, offset, value


def load(to: int, source: int) -> Instruction:
    """The word of 32 bits that a register points to."""
    return 0x61, to, source, 0, 0


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


def jump(label: str) -> tuple[str, Instruction]:
    return label, (0x05, 0, 0, 0, 0)


def look_up(map_fd: int, key: int) -> list[Instruction]:
    """Into R0: a pointer to an element of an array map, or 0."""
    return [
        store(-4, key, size=4),
        (0x18, R1, _PSEUDO_MAP_FD, 0, map_fd),
        (0, 0, 0, 0, 0),
        move(R2, FRAME),
        add(R2, -4),
        call(LOOK_UP_ELEMENT),
    ]


Line = Instruction | tuple[str, Instruction] | str  # a jump has the label that it goes to; a label is a text


def assemble(lines: list[Line]) -> bytes:
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


class ArrayMap:
    """An array of words of 32 bits, all 0 at first."""

    def __init__(self, entries: int) -> None:
        """Raises OSError."""
        attributes = struct.pack("=IIII", _MAP_TYPE_ARRAY, 4, 4, entries)
        self.fd = _bpf(_MAP_CREATE, ctypes.create_string_buffer(attributes.ljust(64, b"\0"), 64))
        self._key, self._value = ctypes.c_uint32(), ctypes.c_uint32()
        update = struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        self._update = ctypes.create_string_buffer(update.ljust(64, b"\0"), 64)

    def set(self, key: int, value: int) -> None:
        """Raises OSError."""
        self._key.value, self._value.value = key, value
        _bpf(_MAP_UPDATE, self._update)

    def close(self) -> None:
        os.close(self.fd)


def load_classifier(lines: list[Line]) -> int:
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
        return _bpf(_PROG_LOAD, ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128))
    except OSError as error:
        said = log.value.decode(errors="replace").strip()
        raise OSError(error.errno, f"loading a BPF program: {os.strerror(error.errno or 0)}; {said}") from error


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    return syscall(_SYS_BPF, command, ctypes.addressof(attributes), len(attributes))
