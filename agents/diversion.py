"""The diversion: at the host that the guest is about to leave, who decides about every frame to and from it.

Two programs at the host's end of the guest's link, steered by two words. To the guest: all pass; or connection attempts
are put aside; or everything is; or all pass, and copies are put aside. From the guest: frames pass; or pass under
another source address, so that no switch learns from them where the guest is any more; or are dropped. What is put
aside waits in a tap device.
"""

from __future__ import annotations

from enum import IntEnum

from unnoticed import bpf, clsact
from unnoticed.agents.kernel.tap import Tap
from unnoticed.agents.plug import FILLING_ETHER_TYPE

_TO_GUEST, _FROM_GUEST = 0, 1
_TAP_NAME = "aside%d"
_MOST_FRAMES = 8192
_IPV4, _IPV6, _TCP = 0x0800, 0x86DD, 6
_SYN, _RST, _ACK = 0x02, 0x04, 0x10  # RFC 9293, section 3.1
_LOCALLY_ADMINISTERED = 0x04  # the bit of the first byte that tells the other source address from the guest's


class ToGuest(IntEnum):
    """What becomes of frames to the guest."""

    PASS = 0
    ATTEMPTS_ASIDE = 1  # TCP segments that ask for a new connection
    ASIDE = 2
    COPIED = 3


class FromGuest(IntEnum):
    """What becomes of frames from the guest."""

    PASS = 0
    RENAMED = 1  # under another source address
    DROP = 2
    # But for resets that answer a segment of a connection nobody knows. One that was closed before the guest left is
    # such at the destination, and the last acknowledgement of it would be answered so.
    WITHOUT_RESETS = 3


class Diversion:
    """The diversion on one host: everything passes when it is made."""

    def __init__(self, interface: str, *, mac: bytes) -> None:
        """On this interface of the calling thread's network namespace. Raises OSError."""
        self._words = bpf.Words(2)
        self._tap = Tap(_TAP_NAME, most_frames=_MOST_FRAMES)
        other = bytes([mac[0] ^ _LOCALLY_ADMINISTERED]) + mac[1:]
        clsact.attach(
            interface, ingress=_from_guest(self._words, other), egress=_to_guest(self._words, self._tap.index)
        )

    def set(self, *, to_guest: ToGuest | None = None, from_guest: FromGuest | None = None) -> None:
        """Takes effect with the next frame. Raises OSError."""
        if to_guest is not None:
            self._words[_TO_GUEST] = to_guest
        if from_guest is not None:
            self._words[_FROM_GUEST] = from_guest

    def fileno(self) -> int:
        """Of what was put aside: who reads it takes a frame, in order, behind its virtio header."""
        return self._tap.fileno()

    def take(self) -> list[bytes]:
        """What was put aside, in order, each frame behind its virtio header."""
        return self._tap.read()

    def close(self) -> None:
        """Let go of it; the programs stay in place."""
        self._tap.close()
        self._words.close()


def _to_guest(words: bpf.Words, tap_index: int) -> list[bpf.Line]:
    """On frames to the guest, which leave the host's end of the link."""
    return [
        bpf.move(bpf.R6, bpf.R1),
        *bpf.address_of(bpf.R7, words),
        bpf.load_word(bpf.R7, bpf.R7, _TO_GUEST),
        bpf.jump_if_equal(bpf.R7, ToGuest.PASS, "pass"),
        bpf.frame_value(12, size=2),
        bpf.jump_if_equal(bpf.R0, FILLING_ETHER_TYPE, "pass"),  # ours: it is to arm the plug behind this program
        bpf.jump_if_equal(bpf.R7, ToGuest.ASIDE, "aside"),
        bpf.jump_if_equal(bpf.R7, ToGuest.COPIED, "copied"),
        *_tcp_flags(),
        bpf.mask(bpf.R0, _SYN | _ACK),
        bpf.jump_unless_equal(bpf.R0, _SYN, "pass"),
        "aside",
        bpf.set_to(bpf.R1, tap_index),
        bpf.set_to(bpf.R2, 0),
        bpf.call(bpf.REDIRECT),
        bpf.leave(),
        "copied",
        bpf.move(bpf.R1, bpf.R6),
        bpf.set_to(bpf.R2, tap_index),
        bpf.set_to(bpf.R3, 0),
        bpf.call(bpf.CLONE_REDIRECT),
        "pass",
        bpf.set_to(bpf.R0, bpf.TC_ACT_OK),
        bpf.leave(),
    ]


def _tcp_flags() -> list[bpf.Line]:
    """From the Ethernet type in R0 to the TCP flags in R0; a frame that has none goes to "pass"."""
    return [
        bpf.jump_if_equal(bpf.R0, _IPV6, "version 6"),
        bpf.jump_unless_equal(bpf.R0, _IPV4, "pass"),
        bpf.frame_value(23, size=1),
        bpf.jump_unless_equal(bpf.R0, _TCP, "pass"),
        bpf.frame_value(20, size=2),
        bpf.mask(bpf.R0, 0x1FFF),  # a later fragment has no TCP header
        bpf.jump_unless_equal(bpf.R0, 0, "pass"),
        bpf.frame_value(14, size=1),
        bpf.mask(bpf.R0, 0x0F),
        bpf.shift_left(bpf.R0, 2),
        bpf.move(bpf.R8, bpf.R0),
        bpf.jump("flags"),
        "version 6",
        bpf.frame_value(20, size=1),
        bpf.jump_unless_equal(bpf.R0, _TCP, "pass"),
        bpf.set_to(bpf.R8, 40),
        "flags",
        bpf.frame_value_at(bpf.R8, 14 + 13, size=1),
    ]


def _from_guest(words: bpf.Words, other: bytes) -> list[bpf.Line]:
    """On frames from the guest, which come in at the host's end of the link."""
    return [
        bpf.move(bpf.R6, bpf.R1),
        *bpf.address_of(bpf.R7, words),
        bpf.load_word(bpf.R7, bpf.R7, _FROM_GUEST),
        bpf.jump_if_equal(bpf.R7, FromGuest.PASS, "pass"),
        bpf.jump_if_equal(bpf.R7, FromGuest.DROP, "drop"),
        bpf.jump_if_equal(bpf.R7, FromGuest.WITHOUT_RESETS, "resets"),
        *(bpf.store(-8 + place, byte, size=1) for place, byte in enumerate(other)),
        bpf.move(bpf.R1, bpf.R6),
        bpf.set_to(bpf.R2, 6),
        bpf.move(bpf.R3, bpf.FRAME),
        bpf.add(bpf.R3, -8),
        bpf.set_to(bpf.R4, 6),
        bpf.set_to(bpf.R5, 0),
        bpf.call(bpf.SKB_STORE_BYTES),
        bpf.jump("pass"),
        "resets",
        bpf.frame_value(12, size=2),
        *_tcp_flags(),
        bpf.mask(bpf.R0, _RST | _ACK),
        bpf.jump_if_equal(bpf.R0, _RST, "drop"),
        "pass",
        bpf.set_to(bpf.R0, bpf.TC_ACT_OK),
        bpf.leave(),
        "drop",
        bpf.set_to(bpf.R0, bpf.TC_ACT_SHOT),
        bpf.leave(),
    ]
