"""The migration protocol, version 6: what source and destination say to each other, and when. No socket, no clock.

Rules
-----
1. A frame is a header (type u8, zero u8, zero u16, body length u32, little-endian), a body, and a tag of 16 bytes.
2. Both ends know a key. The tag is the truncated HMAC-SHA256 over the sender's role, a frame counter, header and
   body; for HELLO under a key derived from the shared one, from WELCOME on under one derived from both ends' nonces
   too. So WELCOME proves the destination to the source, and PROOF the source to the destination. A wrong tag ends the
   conversation. Page contents carry no tag.
3. Every body has a limit. A frame beyond it, of a type or in a state that TRANSITIONS does not list, or with a body
   that cannot be, is a PeerError when it came from the peer, and a LocalProtocolError when we were about to send it.
4. A PAGES frame is followed by the contents of its pages, outside any frame. The receiver learns from `Pages.runs`
   how much comes and where it belongs, takes it from the stream itself, and then asks for the next frame. CODED may
   stand wherever PAGES may: what follows it is shorter than its pages, and says how they differ from what the
   destination has there (at first, zeros). It says so of exactly those pages, whatever it would expand to.
5. The guest runs in exactly one place. Up to RELINQUISH it is the source's: whatever goes wrong, the source resumes
   it. By sending RELINQUISH the source gives it up for good. A destination resumes it only after it has received
   RELINQUISH. If that frame is lost with the path, the guest runs nowhere: never twice.
6. Either end may send ABORT in its turn or in the other's, before RELINQUISH.
7. By DIVERT the source asks for the guest's frames: the destination holds them, and announces the guest. LATE brings it
   those that came to the source all the same, which go before what it holds; after RELINQUISH, and until the source
   says no more, those that were later still. After an ABORT it gives back what it held, by any number of HELD, the last
   of them empty, if there was a DIVERT. By POSITIONS the source says how far the connections had come at the pause: so
   the destination can answer what it holds for them.
8. HELLO says when pages come. Where some come after the guest (post-copy, hybrid), the source opens two page channels
   (`unnoticed.agents.page_wire`) before PREPARED. By OWED it names pages that it will send there: what the destination
   has of them is out of date. After RESUMED the source serves them until the destination says COMPLETE, or LOST: pages
   are nowhere then, and so is the guest. COMMIT says how many it owes, and each is put in place exactly once.
9. By CONNECTIONS the source names connections that the guest has, before they move, and such that it has no more: what
   the destination can prepare. It binds nobody: STATE says what there is, in one part or several.

A conversation: HELLO, WELCOME, PROOF, PREPARED; any number of rounds (ROUND, PAGES..., ROUND_END, ROUND_ACK), with
CONNECTIONS in a round or behind it; DIVERT if frames are to be held; then FINAL, POSITIONS if any are to be
answered, PAGES..., STATE..., COMMIT, READY, LATE if there are any, RELINQUISH, RESUMED, LATE; in a post-copy OWED in a
round without pages and among the last ones, and at the end COMPLETE.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.errors import PeerError, UnnoticedError

VERSION = 6
NONCE_BYTES = 32
TAG_BYTES = 16
MAGIC = b"unnoticed-migration"

_HEADER = struct.Struct("<BBHI")
_CODED = struct.Struct("<II")
MOST_PAGES = 16384  # behind one PAGES frame: 64 MiB
_MAX_RUNS = 8192
MOST_CODED_PAGES = 1024  # behind one CODED frame: what a receiver decodes in one go
_MAX_STATE_BYTES = 256 << 20
_MAX_CONNECTIONS_BYTES = 1 << 20
_SMALLEST_FRAME_BYTES = 10 + 14  # struct virtio_net_hdr and an Ethernet header
_MAX_FRAMES_BYTES = 32 << 20  # of an emulated network, in one LATE or HELD
_MAX_MEMORY_BYTES = PAGE_BYTES << 32  # page numbers have 32 bits


class LocalProtocolError(UnnoticedError):
    """This end was about to break the protocol: a mistake in the program, not in the peer."""


class Role(Enum):
    """Which end of the conversation this is."""

    SOURCE = "source"
    DESTINATION = "destination"

    @property
    def peer(self) -> Role:
        return Role.DESTINATION if self is Role.SOURCE else Role.SOURCE


class Type(IntEnum):
    """Frame types."""

    HELLO = 1
    WELCOME = 2
    PROOF = 3
    PREPARED = 4
    ROUND = 5
    PAGES = 6
    ROUND_END = 7
    ROUND_ACK = 8
    FINAL = 9
    STATE = 10
    COMMIT = 11
    READY = 12
    RELINQUISH = 13
    RESUMED = 14
    ABORT = 15
    DIVERT = 16
    LATE = 17
    HELD = 18
    CODED = 22
    OWED = 19
    COMPLETE = 20
    LOST = 21
    CONNECTIONS = 24
    POSITIONS = 25


class State(Enum):
    """States of the conversation; both ends go through the same ones."""

    GREETING = "greeting"
    GREETED = "greeted"
    PROVING = "proving"
    PREPARING = "preparing"
    STREAMING = "streaming"
    DIVERTED = "diverted"
    IN_ROUND = "in round"
    ROUND_ENDED = "round ended"
    FINAL = "final"
    STATE_SENT = "state sent"
    COMMITTED = "committed"
    READY = "ready"
    RELINQUISHED = "relinquished"
    RESUMED = "resumed"
    DONE = "done"
    ABORTED = "aborted"


_S, _D = Role.SOURCE, Role.DESTINATION

TRANSITIONS: dict[State, dict[tuple[Role, Type], State]] = {
    State.GREETING: {(_S, Type.HELLO): State.GREETED},
    State.GREETED: {(_D, Type.WELCOME): State.PROVING, (_D, Type.ABORT): State.ABORTED},
    State.PROVING: {(_S, Type.PROOF): State.PREPARING, (_S, Type.ABORT): State.ABORTED},
    State.PREPARING: {
        (_D, Type.PREPARED): State.STREAMING,
        (_D, Type.ABORT): State.ABORTED,
        (_S, Type.ABORT): State.ABORTED,
    },
    State.STREAMING: {
        (_S, Type.ROUND): State.IN_ROUND,
        (_S, Type.CONNECTIONS): State.STREAMING,
        (_S, Type.DIVERT): State.DIVERTED,
        (_S, Type.FINAL): State.FINAL,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.DIVERTED: {
        (_S, Type.CONNECTIONS): State.DIVERTED,
        (_S, Type.FINAL): State.FINAL,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.IN_ROUND: {
        (_S, Type.PAGES): State.IN_ROUND,
        (_S, Type.CODED): State.IN_ROUND,
        (_S, Type.OWED): State.IN_ROUND,
        (_S, Type.CONNECTIONS): State.IN_ROUND,
        (_S, Type.ROUND_END): State.ROUND_ENDED,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.ROUND_ENDED: {
        (_D, Type.ROUND_ACK): State.STREAMING,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.FINAL: {
        (_S, Type.POSITIONS): State.FINAL,
        (_S, Type.PAGES): State.FINAL,
        (_S, Type.CODED): State.FINAL,
        (_S, Type.OWED): State.FINAL,
        (_S, Type.STATE): State.STATE_SENT,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.STATE_SENT: {
        (_S, Type.STATE): State.STATE_SENT,
        (_S, Type.COMMIT): State.COMMITTED,
        (_S, Type.ABORT): State.ABORTED,
        (_D, Type.ABORT): State.ABORTED,
    },
    State.COMMITTED: {
        (_D, Type.READY): State.READY,
        (_D, Type.ABORT): State.ABORTED,
        (_S, Type.ABORT): State.ABORTED,
    },
    State.READY: {
        (_S, Type.LATE): State.READY,
        (_S, Type.RELINQUISH): State.RELINQUISHED,
        (_S, Type.ABORT): State.ABORTED,
    },
    State.RELINQUISHED: {
        (_S, Type.LATE): State.RELINQUISHED,
        (_D, Type.RESUMED): State.RESUMED,
        (_D, Type.LOST): State.DONE,
    },
    State.RESUMED: {
        (_S, Type.LATE): State.RESUMED,
        (_D, Type.COMPLETE): State.DONE,
        (_D, Type.LOST): State.DONE,
    },
    State.DONE: {},
    State.ABORTED: {
        (_D, Type.READY): State.ABORTED,  # it had not heard yet
        (_D, Type.ABORT): State.ABORTED,
        (_D, Type.HELD): State.ABORTED,
    },
}

MAY_SOURCE_RESUME = frozenset(State) - {State.RELINQUISHED, State.RESUMED, State.DONE}
"""The states in which the guest still belongs to the source."""


class Copying(IntEnum):
    """When pages come: before the guest, after it, or both (post-copy and hybrid have page channels)."""

    BEFORE = 0
    AFTER = 1
    BOTH = 2


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The source introduces itself and says what it wants to send."""

    nonce: bytes
    memory_bytes: int
    copying: Copying = Copying.BEFORE
    version: int = VERSION


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The destination's nonce; its tag proves the key."""

    nonce: bytes


@dataclass(frozen=True)
class Proof:
    """Its tag, under the derived key, proves that the source is no replay."""


@dataclass(frozen=True)
class Prepared:
    """RAM is allocated and faulted in, the guest's shell stands ready."""


@dataclass(frozen=True)
class RoundStart:
    """A pre-copy round begins."""

    number: int


@dataclass(frozen=True, eq=False)
class Pages:
    """Pages follow, in the order of the runs; shape (n, 2): first page, count."""

    runs: Runs

    @property
    def bytes_due(self) -> int:
        return int(self.runs[:, 1].sum()) * PAGE_BYTES


class Encoding(IntEnum):
    """What the bytes behind a CODED frame are; see `unnoticed.agents.codec`."""

    ZERO = 1  # there are none: the pages are zero
    ZSTD = 2  # the pages as one Zstandard frame (RFC 8878)
    XOR = 3  # the same of what the pages differ by from what the destination has there


@dataclass(frozen=True, eq=False)
class Coded:
    """Coded pages follow, so many bytes of them; runs as in PAGES."""

    runs: Runs
    encoding: Encoding
    coded_bytes: int

    @property
    def pages(self) -> int:
        return int(self.runs[:, 1].sum())


@dataclass(frozen=True)
class RoundEnd:
    """The round is over; so many pages were sent in it."""

    pages: int


@dataclass(frozen=True)
class RoundAck:
    """The destination has them all."""

    pages: int


@dataclass(frozen=True)
class Final:
    """The guest stands still; what follows is the rest."""


@dataclass(frozen=True, eq=False)
class GuestState:
    """What is not RAM, or a part of it: TCP connections, as a batch, and the slots of those that are no more."""

    connections: int
    blob: bytes
    lost: tuple[int, ...] = ()  # reset by the peer, or timed out, before they could be read


@dataclass(frozen=True, eq=False)
class Connections:
    """Connections that the guest has, as a batch of what is known of them beforehand, and slots of those that went."""

    connections: int
    blob: bytes
    gone: tuple[int, ...] = ()


@dataclass(frozen=True)
class Positions:
    """How far the guest's connections have come, which are held: a number of `Position`."""

    packed: bytes


@dataclass(frozen=True, kw_only=True)
class Commit:
    """All was sent: pages of the final part, of the whole migration, and (if asked for) the digest of the RAM.

    All but `owed_pages`, that is, which are still to come.
    """

    final_pages: int
    total_pages: int
    announce: str
    digest: bytes = b""
    owed_pages: int = 0


@dataclass(frozen=True)
class Ready:
    """The destination holds everything and has checked it."""

    connections: int


@dataclass(frozen=True)
class Relinquish:
    """The guest is the destination's."""


@dataclass(frozen=True)
class Resumed:
    """The guest runs at the destination since then (its CLOCK_MONOTONIC, ns)."""

    time_ns: int


@dataclass(frozen=True)
class Abort:
    """The sender cannot go on; the guest stays at the source."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Divert:
    """Hold the guest's frames from now on, so many bytes of them and for so long at most, and announce the guest."""

    announce: str
    limit_bytes: int
    limit_ns: int


@dataclass(frozen=True)
class Late:
    """Frames for the guest that came to the source when it was no more there; each behind its virtio header."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True)
class Held:
    """Frames for the guest that the destination gives back, in their order; none: that was all."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class Owed:
    """These pages come later, after the guest; shape (n, 2): first page, count."""

    runs: Runs


@dataclass(frozen=True, kw_only=True)
class Complete:
    """Every page that was owed is in place: since then (its CLOCK_MONOTONIC, ns), so many pushed and on demand."""

    time_ns: int
    pushed_pages: int
    demanded_pages: int


@dataclass(frozen=True)
class Lost:
    """Pages that were owed will never come; the guest has been ended."""

    reason: str


Message = (
    Hello | Welcome | Proof | Prepared | RoundStart | Pages | RoundEnd | RoundAck | Final | GuestState | Commit
    | Ready | Relinquish | Resumed | Abort | Divert | Late | Held | Coded | Owed | Complete | Lost | Connections
    | Positions
)  # fmt: skip

_LIMITS: dict[Type, int] = {
    Type.HELLO: 128,
    Type.WELCOME: 64,
    Type.PROOF: 0,
    Type.PREPARED: 0,
    Type.ROUND: 4,
    Type.PAGES: _MAX_RUNS * 8,
    Type.ROUND_END: 8,
    Type.ROUND_ACK: 8,
    Type.FINAL: 0,
    Type.STATE: _MAX_STATE_BYTES,
    Type.COMMIT: 256,
    Type.READY: 4,
    Type.RELINQUISH: 0,
    Type.RESUMED: 8,
    Type.ABORT: 4096,
    Type.DIVERT: 64,
    Type.LATE: _MAX_FRAMES_BYTES,
    Type.HELD: _MAX_FRAMES_BYTES,
    Type.CODED: _CODED.size + MOST_CODED_PAGES * 8,
    Type.OWED: _MAX_RUNS * 8,
    Type.COMPLETE: 24,
    Type.LOST: 4096,
    Type.CONNECTIONS: _MAX_CONNECTIONS_BYTES,
    Type.POSITIONS: _MAX_CONNECTIONS_BYTES,
}


class Wire:
    """One end of one conversation.

    `send` turns a message into bytes. To receive: read at most `wanted` bytes from the stream, give them to
    `receive`, and take the message it returns, if one is complete by then. So nothing is ever read beyond a frame,
    and pages can be read straight into place.
    """

    def __init__(self, role: Role, *, key: bytes, nonce: bytes) -> None:
        if len(nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        self.role = role
        self.state = State.GREETING
        self._shared_key = key
        self._key = hmac.digest(key, MAGIC, "sha256")
        self.nonce = nonce
        self._nonces = {role: nonce}
        self._counters = {Role.SOURCE: 0, Role.DESTINATION: 0}
        self._memory_bytes = 0  # as HELLO says: page runs are checked against it
        self._received = bytearray()
        self._pages_in_part = 0  # PAGES since ROUND or FINAL
        self.pages_in_all = 0
        self._owed_pages = 0

    @property
    def session_key(self) -> bytes:
        """The key that both nonces are in; for what belongs to this conversation alone."""
        return hmac.digest(self._key, b"session", "sha256")

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> bytes:
        """The frame for a message. Raises LocalProtocolError if it may not be sent now."""
        kind, body = _encode(message)
        after = self._next_state(self.role, kind, LocalProtocolError)
        if len(body) > _LIMITS[kind]:
            raise LocalProtocolError(f"{kind.name} of {len(body)} bytes is beyond its limit of {_LIMITS[kind]}.")
        self._check(message, LocalProtocolError)
        self.state = after
        if isinstance(message, Hello):
            self._memory_bytes = message.memory_bytes
        if kind is Type.WELCOME:
            self._derive_key()
        header = _HEADER.pack(kind, 0, 0, len(body))
        frame = header + body + self._tag(self.role, header, body)
        self._account(message)
        return frame

    # -- receiving -------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many bytes of the stream the next frame still needs."""
        have = len(self._received)
        if have < _HEADER.size:
            return _HEADER.size - have
        length: int = _HEADER.unpack_from(self._received)[3]
        return _HEADER.size + length + TAG_BYTES - have

    def receive(self, data: bytes) -> Message | None:
        """Take bytes, at most `wanted` of them. Returns the message they complete, if any.

        Raises PeerError when the peer breaks a rule; the conversation is over then. Empty data means that it hung up.
        """
        if not data:
            raise PeerError(f"The {self.role.peer.value} hung up while the conversation was {self.state.value}.")
        if len(data) > self.wanted:
            raise LocalProtocolError(f"{len(data)} bytes where {self.wanted} were wanted")
        before = len(self._received)
        self._received += data
        if before < _HEADER.size <= len(self._received):
            self._check_header()
        if len(self._received) < _HEADER.size or self.wanted:
            return None
        frame, self._received = bytes(self._received), bytearray()
        header, body, tag = frame[: _HEADER.size], frame[_HEADER.size : -TAG_BYTES], frame[-TAG_BYTES:]
        kind = Type(header[0])
        if kind is Type.WELCOME:
            self._nonces[Role.DESTINATION] = body
            self._derive_key()
        if not hmac.compare_digest(tag, self._tag(self.role.peer, header, body)):
            raise PeerError(f"The {self.role.peer.value}'s {kind.name} does not carry the right tag: another key?")
        message = self._decode(kind, body)
        self._check(message, PeerError)
        self.state = self._next_state(self.role.peer, kind, PeerError)
        if isinstance(message, Hello):
            self._memory_bytes = message.memory_bytes
            self._nonces[Role.SOURCE] = message.nonce
        self._account(message)
        return message

    # -- the rules -------------------------------------------------------------------------------------------------

    def _next_state(self, sender: Role, kind: Type, error: type[UnnoticedError]) -> State:
        try:
            return TRANSITIONS[self.state][sender, kind]
        except KeyError:
            raise error(f"{kind.name} from the {sender.value} while the conversation is {self.state.value}.") from None

    def _check_header(self) -> None:
        kind, zero, more, length = _HEADER.unpack_from(self._received)
        if kind not in Type.__members__.values() or zero or more:
            raise PeerError(f"The {self.role.peer.value} sent a header that is none of this protocol's.")
        self._next_state(self.role.peer, Type(kind), PeerError)
        if length > _LIMITS[Type(kind)]:
            raise PeerError(f"{Type(kind).name} of {length} bytes is beyond its limit of {_LIMITS[Type(kind)]}.")

    def _check(self, message: Message, error: type[UnnoticedError]) -> None:
        """Hold the sender of a message to what was sent before it."""
        match message:
            case Pages(runs):
                self._check_runs(runs, error, most_pages=MOST_PAGES)
            case Coded(runs, encoding, coded_bytes):
                self._check_runs(runs, error, most_pages=MOST_PAGES)
                _check_coded(encoding, coded_bytes, pages=message.pages, error=error)
            case Owed(runs):
                self._check_runs(runs, error, most_pages=self._memory_bytes // PAGE_BYTES)
            case Commit(owed_pages=owed) if owed != self._owed_pages:
                raise error(f"The source says that it owes {owed} pages; it has named {self._owed_pages}.")
            case RoundEnd(pages) | RoundAck(pages) if pages != self._pages_in_part:
                raise error(f"A round of {self._pages_in_part} pages was said to have {pages}.")
            case Commit(final_pages=final, total_pages=total) if (final, total) != (
                self._pages_in_part,
                self.pages_in_all,
            ):
                raise error(
                    f"The source says it sent {final} pages at last and {total} in all; "
                    f"{self._pages_in_part} and {self.pages_in_all} came."
                )

    def _account(self, message: Message) -> None:
        """Count pages."""
        match message:
            case RoundStart() | Final():
                self._pages_in_part = 0
            case Pages(runs) | Coded(runs):
                pages = int(runs[:, 1].sum())
                self._pages_in_part += pages
                self.pages_in_all += pages
            case Owed(runs):
                self._owed_pages += int(runs[:, 1].sum())

    def _decode(self, kind: Type, body: bytes) -> Message:
        try:
            message = _decode(kind, body)
        except (ValueError, struct.error, KeyError, TypeError) as error:
            raise PeerError(f"The {self.role.peer.value}'s {kind.name} cannot be read: {error}.") from error
        if isinstance(message, Hello) and message.version != VERSION:
            raise PeerError(f"The source speaks version {message.version} of the protocol, this end {VERSION}.")
        return message

    def _check_runs(self, runs: Runs, error: type[UnnoticedError], *, most_pages: int) -> None:
        """Runs must be ascending, without overlap, inside the RAM, and not of too many pages."""
        ends = runs[:, 0] + runs[:, 1]
        inside = len(runs) > 0 and bool((runs[:, 1] > 0).all()) and int(ends[-1]) * PAGE_BYTES <= self._memory_bytes
        inside = inside and int(runs[:, 1].sum()) <= most_pages
        if not inside or bool((runs[1:, 0] < ends[:-1]).any()):
            raise error(
                "The source's PAGES name too many pages, or pages that are not in the guest's RAM, or not in order."
            )

    def _derive_key(self) -> None:
        both = self._nonces[Role.SOURCE] + self._nonces[Role.DESTINATION]
        self._key = hmac.digest(self._shared_key, MAGIC + both, "sha256")

    def _tag(self, sender: Role, header: bytes, body: bytes) -> bytes:
        counter = self._counters[sender]
        self._counters[sender] += 1
        mac = hmac.new(self._key, sender.value.encode() + struct.pack("<Q", counter) + header, hashlib.sha256)
        mac.update(body)
        return mac.digest()[:TAG_BYTES]


def split(runs: Runs, *, most_pages: int = MOST_PAGES) -> Iterator[Pages]:
    """Cut runs into PAGES messages within the protocol's limits: at most so many pages and runs in each."""
    runs = _cut_long(runs, most_pages)
    cumulative = np.cumsum(runs[:, 1])
    start = 0
    while start < len(runs):
        before = int(cumulative[start - 1]) if start else 0
        stop = int(np.searchsorted(cumulative, before + most_pages, side="right"))
        stop = min(stop, start + _MAX_RUNS)
        yield Pages(runs[start:stop])
        start = stop


def split_owed(runs: Runs) -> Iterator[Owed]:
    """Cut runs into OWED messages within the protocol's limits."""
    for start in range(0, len(runs), _MAX_RUNS):
        yield Owed(runs[start : start + _MAX_RUNS])


def _cut_long(runs: Runs, most_pages: int) -> Runs:
    """Cut runs of more than `most_pages` pages into pieces."""
    if len(runs) == 0 or int(runs[:, 1].max()) <= most_pages:
        return runs
    pieces = [
        (begin, min(most_pages, first + count - begin))
        for first, count in runs.tolist()
        for begin in range(first, first + count, most_pages)
    ]
    return np.array(pieces, dtype=np.uint64)


def _encode(message: Message) -> tuple[Type, bytes]:
    match message:
        case Hello():
            head = struct.pack("<HQB", message.version, message.memory_bytes, message.copying)
            return Type.HELLO, head + message.nonce + MAGIC
        case Welcome():
            return Type.WELCOME, message.nonce
        case Proof():
            return Type.PROOF, b""
        case Prepared():
            return Type.PREPARED, b""
        case RoundStart(number):
            return Type.ROUND, struct.pack("<I", number)
        case Pages(runs):
            return Type.PAGES, runs.astype("<u4").tobytes()
        case Coded(runs, encoding, coded_bytes):
            return Type.CODED, _CODED.pack(encoding, coded_bytes) + runs.astype("<u4").tobytes()
        case RoundEnd(pages):
            return Type.ROUND_END, struct.pack("<Q", pages)
        case RoundAck(pages):
            return Type.ROUND_ACK, struct.pack("<Q", pages)
        case Final():
            return Type.FINAL, b""
        case GuestState(connections, blob):
            return Type.STATE, _pack_connections(connections, message.lost) + blob
        case Commit():
            text = json.dumps(
                {"announce": message.announce, "digest": message.digest.hex(), "owed": message.owed_pages}
            ).encode()
            return Type.COMMIT, struct.pack("<QQ", message.final_pages, message.total_pages) + text
        case Ready(connections):
            return Type.READY, struct.pack("<I", connections)
        case Relinquish():
            return Type.RELINQUISH, b""
        case Resumed(time_ns):
            return Type.RESUMED, struct.pack("<Q", time_ns)
        case Abort(reason):
            return Type.ABORT, reason.encode()[: _LIMITS[Type.ABORT]]
        case Divert():
            return Type.DIVERT, struct.pack("<QQ", message.limit_bytes, message.limit_ns) + message.announce.encode()
        case Late(frames):
            return Type.LATE, _pack_frames(frames)
        case Held(frames):
            return Type.HELD, _pack_frames(frames)
        case Owed(runs):
            return Type.OWED, runs.astype("<u4").tobytes()
        case Complete():
            return Type.COMPLETE, struct.pack("<QQQ", message.time_ns, message.pushed_pages, message.demanded_pages)
        case Lost(reason):
            return Type.LOST, reason.encode()[: _LIMITS[Type.LOST]]
        case Positions(packed):
            return Type.POSITIONS, packed
        case Connections(connections, blob):
            return Type.CONNECTIONS, _pack_connections(connections, message.gone) + blob


def _decode(kind: Type, body: bytes) -> Message:
    """The message of a body; raises ValueError or struct.error where it cannot be one."""
    match kind:
        case Type.HELLO:
            version, memory_bytes, copying = struct.unpack_from("<HQB", body)
            if version != VERSION:  # whatever else it says: it will be told so
                return Hello(nonce=b"", memory_bytes=0, version=version)
            nonce, magic = body[11 : 11 + NONCE_BYTES], body[11 + NONCE_BYTES :]
            if magic != MAGIC or memory_bytes % PAGE_BYTES or not 0 < memory_bytes <= _MAX_MEMORY_BYTES:
                raise ValueError("not a greeting of this protocol")
            return Hello(nonce=nonce, memory_bytes=memory_bytes, copying=Copying(copying), version=version)
        case Type.WELCOME:
            if len(body) != NONCE_BYTES:
                raise ValueError(f"a nonce of {len(body)} bytes")
            return Welcome(nonce=body)
        case Type.PROOF:
            return Proof()
        case Type.PREPARED:
            return Prepared()
        case Type.ROUND:
            return RoundStart(*struct.unpack("<I", body))
        case Type.PAGES:
            return Pages(_unpack_runs(body))
        case Type.CODED:
            encoding, coded_bytes = _CODED.unpack_from(body)
            return Coded(_unpack_runs(body[_CODED.size :]), Encoding(encoding), coded_bytes)
        case Type.ROUND_END:
            return RoundEnd(*struct.unpack("<Q", body))
        case Type.ROUND_ACK:
            return RoundAck(*struct.unpack("<Q", body))
        case Type.FINAL:
            return Final()
        case Type.STATE:
            return GuestState(*_unpack_connections(body))
        case Type.COMMIT:
            final_pages, total_pages = struct.unpack_from("<QQ", body)
            text = json.loads(body[16:])
            return Commit(
                final_pages=final_pages,
                total_pages=total_pages,
                announce=str(text["announce"]),
                digest=bytes.fromhex(text["digest"]),
                owed_pages=int(text["owed"]),
            )
        case Type.READY:
            return Ready(*struct.unpack("<I", body))
        case Type.RELINQUISH:
            return Relinquish()
        case Type.RESUMED:
            return Resumed(*struct.unpack("<Q", body))
        case Type.ABORT:
            return Abort(body.decode(errors="replace"))
        case Type.DIVERT:
            limit_bytes, limit_ns = struct.unpack_from("<QQ", body)
            return Divert(announce=body[16:].decode(), limit_bytes=limit_bytes, limit_ns=limit_ns)
        case Type.LATE:
            return Late(_unpack_frames(body))
        case Type.HELD:
            return Held(_unpack_frames(body))
        case Type.OWED:
            return Owed(_unpack_runs(body))
        case Type.COMPLETE:
            time_ns, pushed_pages, demanded_pages = struct.unpack("<QQQ", body)
            return Complete(time_ns=time_ns, pushed_pages=pushed_pages, demanded_pages=demanded_pages)
        case Type.LOST:
            return Lost(body.decode(errors="replace"))
        case Type.POSITIONS:
            return Positions(body)
        case Type.CONNECTIONS:
            return Connections(*_unpack_connections(body))


def _check_coded(encoding: Encoding, coded_bytes: int, *, pages: int, error: type[UnnoticedError]) -> None:
    """There must be few enough pages to be decoded at once, and fewer bytes than these have."""
    fits = coded_bytes == 0 if encoding is Encoding.ZERO else 0 < coded_bytes < pages * PAGE_BYTES
    if pages > MOST_CODED_PAGES or not fits:
        raise error(f"The source's CODED has {coded_bytes} bytes for {pages} pages, which cannot be.")


def _unpack_runs(body: bytes) -> Runs:
    return np.frombuffer(body, dtype="<u4").reshape(-1, 2).astype(np.uint64)


def split_frames(frames: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Cut a list of frames into parts that fit into one LATE or HELD; no part for no frame."""
    part: list[bytes] = []
    size = 0
    for frame in frames:
        if part and size + len(frame) + 4 > _MAX_FRAMES_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(frame)
        size += len(frame) + 4
    if part:
        yield tuple(part)


def _pack_connections(connections: int, slots: tuple[int, ...]) -> bytes:
    return struct.pack(f"<II{len(slots)}I", connections, len(slots), *slots)


def _unpack_connections(body: bytes) -> tuple[int, bytes, tuple[int, ...]]:
    connections, slots = struct.unpack_from("<II", body)
    if slots > len(body) // 4 - 2:
        raise ValueError(f"{slots} slots in {len(body)} bytes")
    return connections, body[8 + 4 * slots :], struct.unpack_from(f"<{slots}I", body, 8)


def _pack_frames(frames: tuple[bytes, ...]) -> bytes:
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


def _unpack_frames(body: bytes) -> tuple[bytes, ...]:
    frames: list[bytes] = []
    position = 0
    while position < len(body):
        (length,) = struct.unpack_from("<I", body, position)
        if length < _SMALLEST_FRAME_BYTES or position + 4 + length > len(body):
            raise ValueError("a frame is cut short")
        frames.append(body[position + 4 : position + 4 + length])
        position += 4 + length
    return tuple(frames)
