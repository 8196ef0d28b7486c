"""A gate in the path of a device's frames: at the touch of a word it drops all or a share of them, or alters them.

Unlike the state of a bridge port, which the migration itself uses, it is switched in well under a microsecond, each way
for itself, and counts: what it did is known exactly, which is what makes it a measure for those who must find it out.
It can also put a share aside, into another device, from where somebody may send them late; and it can make TCP segments
say that their sender's window is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from unnoticed import bpf, clsact

_THRESHOLD, _SEEN, _DROPPED, _DROPPED_UDP, _ASIDE, _ASIDE_TO, _PUT_ASIDE, _PUT_ASIDE_UDP, _CLOSED, _COUNT = range(10)
_EVERYTHING = 1 << 32
_IP = 14  # where it begins in a frame without a VLAN tag
_PROTOCOL_OFFSET = _IP + 9
_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17
_WINDOW, _CHECKSUM = 14, 16  # of a TCP header (RFC 9293, section 3.1)

WAYS = ("to-guest", "from-guest")


class Valve:
    """One direction of a device: drops each frame with a set probability, independently of the others."""

    def __init__(self) -> None:
        """Open; it works once its `program` is attached. Raises OSError."""
        self._words = bpf.Words(_COUNT)

    @property
    def program(self) -> list[bpf.Line]:
        """What decides about each frame."""
        return _program(self._words)

    def drop(self, share: float) -> None:
        """From now on drop this share of the frames: 0 none, 1 all."""
        self._words[_THRESHOLD] = round(share * _EVERYTHING)

    def put_aside(self, share: float, *, index: int) -> None:
        """From now on send this share of the frames that are not dropped out of the device `index` instead."""
        self._words[_ASIDE_TO] = index
        self._words[_ASIDE] = round(share * _EVERYTHING)

    def close_window(self, closed: bool) -> None:
        """From now on TCP segments that pass say, or say no more, that their sender has no room at all."""
        self._words[_CLOSED] = int(closed)

    @property
    def seen(self) -> int:
        """Frames that came to it."""
        return self._words[_SEEN]

    @property
    def dropped(self) -> int:
        """Frames that it dropped."""
        return self._words[_DROPPED]

    @property
    def dropped_udp(self) -> int:
        """Those of them that were UDP over IPv4: a prober's."""
        return self._words[_DROPPED_UDP]

    @property
    def aside(self) -> int:
        """Frames that it put aside."""
        return self._words[_PUT_ASIDE]

    @property
    def aside_udp(self) -> int:
        """Those of them that were UDP over IPv4."""
        return self._words[_PUT_ASIDE_UDP]

    def close(self) -> None:
        """Let go of it; it stays as it is for as long as the device exists."""
        self._words.close()


class Gate:
    """Both directions of the guest's port at a host, named as the guest sees them: `to-guest` and `from-guest`."""

    def __init__(self, interface: str) -> None:
        """Attach it, open, in the network namespace of the calling thread. Raises OSError."""
        with contextlib.ExitStack() as on_failure:
            self.valves = {way: on_failure.enter_context(contextlib.closing(Valve())) for way in WAYS}
            to_guest, from_guest = (self.valves[way].program for way in WAYS)
            clsact.attach(interface, ingress=from_guest, egress=to_guest)
            on_failure.pop_all()

    def drop(self, share: float, *, ways: Iterable[str] = WAYS) -> None:
        """Drop this share of the frames, these ways, from now on."""
        for way in ways:
            self.valves[way].drop(share)

    @property
    def dropped(self) -> int:
        """Frames dropped so far, both ways."""
        return sum(valve.dropped for valve in self.valves.values())

    @property
    def dropped_udp(self) -> int:
        """Those of them that were UDP over IPv4."""
        return sum(valve.dropped_udp for valve in self.valves.values())

    def close(self) -> None:
        for valve in self.valves.values():
            valve.close()


def _program(words: bpf.Words) -> list[bpf.Line]:
    """What becomes of a frame. Registers 6 (the frame), 7 (the words) and 8 (its TCP header) outlive calls."""
    return [
        bpf.move(bpf.R6, bpf.R1),
        *bpf.address_of(bpf.R7, words),
        *_count(_SEEN),
        bpf.call(bpf.GET_PRANDOM_U32),
        bpf.load_word(bpf.R1, bpf.R7, _THRESHOLD),
        bpf.jump_if_below(bpf.R0, bpf.R1, "drop"),
        bpf.load_word(bpf.R1, bpf.R7, _ASIDE),
        bpf.jump_if_equal(bpf.R1, 0, "window"),
        bpf.call(bpf.GET_PRANDOM_U32),
        bpf.load_word(bpf.R1, bpf.R7, _ASIDE),
        bpf.jump_if_below(bpf.R0, bpf.R1, "aside"),
        "window",
        bpf.load_word(bpf.R1, bpf.R7, _CLOSED),
        bpf.jump_unless_equal(bpf.R1, 0, "closed"),
        "pass",
        bpf.set_to(bpf.R0, bpf.TC_ACT_OK),
        bpf.leave(),
        "drop",
        *_count(_DROPPED),
        *_count_udp(_DROPPED_UDP, "dropped"),
        bpf.set_to(bpf.R0, bpf.TC_ACT_SHOT),
        bpf.leave(),
        "aside",
        *_count(_PUT_ASIDE),
        *_count_udp(_PUT_ASIDE_UDP, "put aside"),
        bpf.load_word(bpf.R1, bpf.R7, _ASIDE_TO),
        bpf.set_to(bpf.R2, 0),
        bpf.call(bpf.REDIRECT),
        bpf.leave(),
        "closed",
        *_close_window(),
        bpf.jump("pass"),
    ]


def _count(word: int) -> list[bpf.Line]:
    return [bpf.set_to(bpf.R1, 1), bpf.add_to_word(bpf.R7, word, bpf.R1)]


def _count_udp(word: int, label: str) -> list[bpf.Line]:
    """A frame that is too short passes: it is none of ours."""
    return [
        bpf.frame_value(_PROTOCOL_OFFSET, size=1),
        bpf.jump_unless_equal(bpf.R0, _UDP, label),
        *_count(word),
        label,
    ]


def _close_window() -> list[bpf.Line]:
    """Set a TCP segment's window to 0, and its checksum right; a frame that holds none goes to "pass"."""
    return [
        bpf.frame_value(_IP - 2, size=2),
        bpf.jump_if_equal(bpf.R0, _IPV6, "version 6"),
        bpf.jump_unless_equal(bpf.R0, _IPV4, "pass"),
        bpf.frame_value(_PROTOCOL_OFFSET, size=1),
        bpf.jump_unless_equal(bpf.R0, _TCP, "pass"),
        bpf.frame_value(_IP + 6, size=2),
        bpf.mask(bpf.R0, 0x1FFF),  # a later fragment has no TCP header
        bpf.jump_unless_equal(bpf.R0, 0, "pass"),
        bpf.frame_value(_IP, size=1),
        bpf.mask(bpf.R0, 0x0F),
        bpf.shift_left(bpf.R0, 2),
        bpf.move(bpf.R8, bpf.R0),
        bpf.add(bpf.R8, _IP),
        bpf.jump("segment"),
        "version 6",
        bpf.frame_value(_IP + 6, size=1),
        bpf.jump_unless_equal(bpf.R0, _TCP, "pass"),
        bpf.set_to(bpf.R8, _IP + 40),
        "segment",
        bpf.frame_value_at(bpf.R8, _WINDOW, size=2),
        bpf.to_network_order(bpf.R0, size=2),
        bpf.move(bpf.R3, bpf.R0),
        bpf.move(bpf.R1, bpf.R6),
        bpf.move(bpf.R2, bpf.R8),
        bpf.add(bpf.R2, _CHECKSUM),
        bpf.set_to(bpf.R4, 0),
        bpf.set_to(bpf.R5, 2),  # bytes
        bpf.call(bpf.L4_CSUM_REPLACE),
        bpf.store(-8, 0, size=2),
        bpf.move(bpf.R1, bpf.R6),
        bpf.move(bpf.R2, bpf.R8),
        bpf.add(bpf.R2, _WINDOW),
        bpf.move(bpf.R3, bpf.FRAME),
        bpf.add(bpf.R3, -8),
        bpf.set_to(bpf.R4, 2),
        bpf.set_to(bpf.R5, 0),
        bpf.call(bpf.SKB_STORE_BYTES),
    ]
