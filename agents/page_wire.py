"""The page protocol of a post-copy: how pages come to a guest that runs already. No socket, no clock.

Rules
-----
1. A post-copy has two connections from source to destination besides that of `unnoticed.agents.wire`: the demand
   channel, for pages that the guest waits for, and the push channel, for all others. Each is a conversation of its own.
2. A frame has 40 bytes: type u8, zero u8, zero u16, first page u32, mask u64 and total u64, little-endian, and a tag of
   16 bytes: keyed BLAKE2b (RFC 7693: the fastest to be had here, while a guest waits) over the sender's role, a frame
   counter and the rest of the frame. The key is the channel's own, derived from the main conversation's, so from both
   ends' nonces: JOIN proves the source to the destination and JOINED the destination to the source, for this migration
   alone. Page contents carry no tag.
3. A PAGES frame is followed by the contents of its pages: bit i of the mask stands for page `first + i`.
4. On the demand channel the destination WANTs a page, the first of a frame, and the source sends it as PAGES of this
   one, once for each WANT and in their order. On the push channel the source sends PAGES of its own accord, and at last
   END with the number of pages that it has pushed. Before the first of them it may send FILLs, each followed by `total`
   bytes that mean nothing: so it finds out what the path takes while no guest waits yet.
5. A frame of a type or in a state that TRANSITIONS does not list, with a wrong tag, with pages that are not in the
   guest's RAM, that nobody wanted, or miscounted, is a PeerError.
"""

from __future__ import annotations

import hmac
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum, IntEnum
from hashlib import blake2b
from typing import NamedTuple

from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError

WINDOW_PAGES = 64  # the bits of a mask
_TAG_BYTES = 16
_HEADER = struct.Struct("<BBHIQQ")
FRAME_BYTES = _HEADER.size + _TAG_BYTES
MOST_FILL_BYTES = 1 << 18  # behind one frame
MOST_WANTED = 4096  # at a time: each is a thread of the guest that waits


class Kind(Enum):
    """Which of the two connections this is."""

    DEMAND = "demand"
    PUSH = "push"


class Type(IntEnum):
    """Frame types."""

    JOIN = 1
    JOINED = 2
    WANT = 3
    PAGES = 4
    END = 5
    FILL = 6


class State(Enum):
    """States of a page channel; both ends go through the same ones."""

    OPENED = "opened"
    JOINING = "joining"
    SERVING = "serving"
    PROBING = "probing"
    PUSHING = "pushing"
    ENDED = "ended"


_NUMBERS = frozenset(map(int, Type))
_WANT, _PAGES, _END, _FILL = int(Type.WANT), int(Type.PAGES), int(Type.END), int(Type.FILL)
_DEMAND = Kind.DEMAND
_S, _D = Role.SOURCE, Role.DESTINATION

TRANSITIONS: dict[Kind, dict[State, dict[tuple[Role, Type], State]]] = {
    Kind.DEMAND: {
        State.OPENED: {(_S, Type.JOIN): State.JOINING},
        State.JOINING: {(_D, Type.JOINED): State.SERVING},
        State.SERVING: {(_D, Type.WANT): State.SERVING, (_S, Type.PAGES): State.SERVING},
    },
    Kind.PUSH: {
        State.OPENED: {(_S, Type.JOIN): State.JOINING},
        State.JOINING: {(_D, Type.JOINED): State.PROBING},
        State.PROBING: {
            (_S, Type.FILL): State.PROBING,
            (_S, Type.PAGES): State.PUSHING,
            (_S, Type.END): State.ENDED,
        },
        State.PUSHING: {(_S, Type.PAGES): State.PUSHING, (_S, Type.END): State.ENDED},
        State.ENDED: {},
    },
}


class Frame(NamedTuple):
    """One frame. JOIN and JOINED use no field, WANT the first page, PAGES also the mask, END and FILL the total."""

    type: int  # a Type
    first: int = 0
    mask: int = 0
    total: int = 0

    @property
    def pages(self) -> int:
        """How many pages follow the frame."""
        return self.mask.bit_count()


def channel_key(session_key: bytes, kind: Kind) -> bytes:
    """The key of a page channel."""
    return hmac.digest(session_key, b"unnoticed-pages-" + kind.value.encode(), "sha256")


class PageWire:
    """One end of one page channel."""

    def __init__(self, role: Role, kind: Kind, *, key: bytes, pages: int) -> None:
        """`key` is the channel's own, `pages` how many the guest's RAM has."""
        self.role = role
        self._kind, self.pages = kind, pages
        self.key = key
        self.counts = [0, 0]  # of the frames that the peer sent, and of ours
        self.names = (role.peer.value.encode(), role.value.encode())  # in the tags of each
        self._wanted: deque[int] = deque()
        self._pushed = 0
        self._enter(State.OPENED)

    @classmethod
    def joined(cls, role: Role, kind: Kind, *, key: bytes, pages: int) -> PageWire:
        """An end whose JOIN and JOINED were exchanged by another process."""
        wire = cls(role, kind, key=key, pages=pages)
        wire._enter(State.SERVING if kind is Kind.DEMAND else State.PROBING)
        wire.counts = [1, 1]
        return wire

    def catch_up(self, counts: Sequence[int], wanted: Iterable[int]) -> None:
        """Frames were exchanged elsewhere: how many in all, the peer's first; and which pages are wanted now."""
        self.counts = list(counts)
        self._wanted = deque(wanted)

    def send(self, frame: Frame) -> bytes:
        """The bytes of a frame. Raises PeerError where it may not be sent now: that is ours to prevent."""
        self._advance(True, frame)
        header = _HEADER.pack(frame.type, 0, 0, frame.first, frame.mask, frame.total)
        return header + self._tag(True, header)

    def receive(self, data: bytes) -> Frame:
        """The frame of FRAME_BYTES bytes; fewer mean that the peer hung up. Raises PeerError."""
        if len(data) < FRAME_BYTES:
            raise PeerError(f"The {self.role.peer.value} hung up {self._channel}.")
        header, tag = data[: _HEADER.size], data[_HEADER.size :]
        if not hmac.compare_digest(tag, self._tag(False, header)):
            raise PeerError(f"A frame of the {self.role.peer.value} on {self._channel} does not carry the right tag.")
        number, zero, more, first, mask, total = _HEADER.unpack(header)
        if number not in _NUMBERS or zero or more:
            raise PeerError(f"The {self.role.peer.value} sent a frame on {self._channel} that is none of these.")
        frame = Frame(number, first, mask, total)
        self._advance(False, frame)
        return frame

    @property
    def wanted(self) -> int:
        """How many pages are wanted and have not come yet."""
        return len(self._wanted)

    @property
    def _channel(self) -> str:
        return f"its {self._kind.value} channel while that was {self.state.value}"

    def _enter(self, state: State) -> None:
        """Change the state. What is listed for it is kept by numbers: to look an Enum up takes longer than a tag."""
        self.state = state
        self._listed = {
            (sender is self.role, int(kind)): after
            for (sender, kind), after in TRANSITIONS[self._kind].get(state, {}).items()
        }

    def _advance(self, is_ours: bool, frame: Frame) -> None:
        after = self._listed.get((is_ours, frame.type))
        if after is None:
            sender = self.role if is_ours else self.role.peer
            raise PeerError(f"{Type(frame.type).name} from the {sender.value} on {self._channel}.")
        if frame.type == _WANT:
            if frame.first >= self.pages or len(self._wanted) >= MOST_WANTED:
                raise PeerError("The destination wants too many pages, or one that the guest's RAM has not got.")
            self._wanted.append(frame.first)
        elif frame.type == _PAGES:
            if not frame.mask or frame.first + frame.mask.bit_length() > self.pages:
                raise PeerError("The source sends no pages, or pages that the guest's RAM has not got.")
            if self._kind is _DEMAND and not (
                frame.mask == 1 and self._wanted and self._wanted.popleft() == frame.first
            ):
                raise PeerError("The source sends another page than the one that was wanted.")
            self._pushed += frame.mask.bit_count()
        elif frame.type == _END and frame.total != self._pushed:
            raise PeerError(f"The source says that it pushed {frame.total} pages; {self._pushed} came.")
        elif frame.type == _FILL and not 0 < frame.total <= MOST_FILL_BYTES:
            raise PeerError(f"The source fills the path with {frame.total} bytes at once.")
        if after is not self.state:
            self._enter(after)

    def _tag(self, is_ours: bool, header: bytes) -> bytes:
        count = self.counts[is_ours]
        self.counts[is_ours] = count + 1
        text = self.names[is_ours] + count.to_bytes(8, "little") + header
        return blake2b(text, key=self.key, digest_size=_TAG_BYTES).digest()
