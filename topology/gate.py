"""A gate in the path of a device's frames: it passes, drops, or drops a share of them, at the touch of a word.

Unlike the state of a bridge port, which the migration itself uses, it is switched in well under a microsecond, each way
for itself, and counts: what it did is known exactly, which is what makes it a measure for those who must find it out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from types import MappingProxyType

from unnoticed import bpf

_THRESHOLD, _SEEN, _DROPPED, _DROPPED_UDP, _COUNT = range(5)
_EVERYTHING = 1 << 32
_PROTOCOL_OFFSET = 14 + 9  # of an IPv4 frame without a VLAN tag
_UDP = 17

WAYS = MappingProxyType({"to-guest": bpf.Direction.EGRESS, "from-guest": bpf.Direction.INGRESS})


class Valve:
    """One direction of a device: drops each frame with a set probability, independently of the others."""

    def __init__(self, interface: str, direction: bpf.Direction) -> None:
        """Attach it, open, in the network namespace of the calling thread. Raises OSError."""
        self._words = bpf.Words(_COUNT)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._words.close)
            program = bpf.load(_program(self._words))
            try:
                bpf.attach(program, interface, direction, name="unnoticed_valve")
            finally:
                os.close(program)
            on_failure.pop_all()

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
        self.valves = {way: Valve(interface, direction) for way, direction in WAYS.items()}

    def drop(self, share: float, *, ways: Iterable[str] = tuple(WAYS)) -> None:
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


def _program(words: bpf.Words) -> list[bytes]:
    """`if random32 < threshold: drop, and count it`. Registers 6 (the frame) and 7 (the words) outlive calls."""
    drop = [
        bpf.set_value(1, 1),
        bpf.add_to_word(7, _DROPPED, 1),
        bpf.load_frame_byte(_PROTOCOL_OFFSET),  # a frame that is shorter passes: it is none of ours
        bpf.skip_unless_value(0, _UDP, 2),
        bpf.set_value(1, 1),
        bpf.add_to_word(7, _DROPPED_UDP, 1),
        bpf.set_value(0, bpf.SHOT),
        bpf.leave(),
    ]
    return [
        bpf.copy(6, 1),
        bpf.address_of_words(7, words),
        bpf.set_value(1, 1),
        bpf.add_to_word(7, _SEEN, 1),
        bpf.call(bpf.GET_PRANDOM_U32),
        bpf.load_word(1, 7, _THRESHOLD),
        bpf.skip_if_below(0, 1, 2),
        bpf.set_value(0, bpf.UNSPECIFIED),
        bpf.leave(),
        *drop,
    ]
