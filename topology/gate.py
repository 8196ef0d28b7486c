"""A gate in the path of a device's frames: it passes, drops, or drops a share of them, at the touch of a word.

Unlike the state of a bridge port, which the migration itself uses, it is switched in well under a microsecond, each way
for itself, and counts: what it did is known exactly, which is what makes it a measure for those who must find it out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from unnoticed import bpf, clsact

_THRESHOLD, _SEEN, _DROPPED, _DROPPED_UDP, _COUNT = range(5)
_EVERYTHING = 1 << 32
_PROTOCOL_OFFSET = 14 + 9  # of an IPv4 frame without a VLAN tag
_UDP = 17

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
    """`if random32 < threshold: drop, and count it`. Registers 6 (the frame) and 7 (the words) outlive calls."""
    return [
        bpf.move(bpf.R6, bpf.R1),
        *bpf.address_of(bpf.R7, words),
        bpf.set_to(bpf.R1, 1),
        bpf.add_to_word(bpf.R7, _SEEN, bpf.R1),
        bpf.call(bpf.GET_PRANDOM_U32),
        bpf.load_word(bpf.R1, bpf.R7, _THRESHOLD),
        bpf.jump_if_below(bpf.R0, bpf.R1, "drop"),
        bpf.set_to(bpf.R0, bpf.TC_ACT_OK),
        bpf.leave(),
        "drop",
        bpf.set_to(bpf.R1, 1),
        bpf.add_to_word(bpf.R7, _DROPPED, bpf.R1),
        bpf.frame_value(_PROTOCOL_OFFSET, size=1),  # a frame that is shorter passes: it is none of ours
        bpf.jump_unless_equal(bpf.R0, _UDP, "counted"),
        bpf.set_to(bpf.R1, 1),
        bpf.add_to_word(bpf.R7, _DROPPED_UDP, bpf.R1),
        "counted",
        bpf.set_to(bpf.R0, bpf.TC_ACT_SHOT),
        bpf.leave(),
    ]
