"""Packing: a round's pages into messages, each with what follows it, by the codec that the plan names; and unpacking.

Codes are computed by worker threads a few blocks ahead of the link, so that processor and link work side by side. What
is not coded goes as it always did, straight from the RAM, unless what is sent must be remembered for `xor`.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unnoticed.agents import wire
from unnoticed.agents.codec import CODECS
from unnoticed.agents.gain import Gain
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.page_runs import page_numbers, pages_in, runs_of_numbers
from unnoticed.agents.ram import Ram, Words
from unnoticed.agents.wire import Encoding
from unnoticed.errors import PeerError

NONE, AUTO = "none", "auto"
CODEC_NAMES = (NONE, "zero", "zstd", "xor", AUTO)
_BLOCK_PAGES = 256  # coded in one go: 1 MiB
_ZERO_PAGES = wire.MOST_CODED_PAGES  # looked through in one go
_AUTO_PAGES = 4096  # between two choices
_SAMPLE_PAGES = 16
_AHEAD = 4  # blocks that wait for the link
_WORKERS = min(4, os.cpu_count() or 1)


def check_codec(name: str) -> None:
    """Raises ValueError for the name of a codec that is not known."""
    if name not in CODEC_NAMES:
        raise ValueError(f"unknown codec {name!r}; known are {', '.join(CODEC_NAMES)}")


@dataclass(frozen=True)
class Packed:
    """A message, and what follows it: bytes of its own, or, where these are None, its pages straight from the RAM."""

    message: wire.Pages | wire.Coded
    follows: bytes | memoryview | None = None

    @property
    def encoding(self) -> str:
        """What it is called in the tables."""
        return self.message.encoding.name.lower() if isinstance(self.message, wire.Coded) else NONE

    @property
    def pages(self) -> int:
        return pages_in(self.message.runs)

    @property
    def following_bytes(self) -> int:
        return self.message.coded_bytes if isinstance(self.message, wire.Coded) else self.message.bytes_due


class Packer:
    """Packs the pages of one migration, from where they are read. `close` ends its threads."""

    def __init__(self, codec: str, content: Ram) -> None:
        """`content`: where pages are read. Raises ValueError for a codec that is not known."""
        check_codec(codec)
        self._codec, self._content = codec, content
        self._gain = Gain() if codec == AUTO else None
        # What the destination has, and whether that is known: pages that went straight from the RAM are not.
        self._sent: Words | None = _untouched(content) if codec == "xor" else None
        self._known: npt.NDArray[np.bool_] = np.ones(content.pages, dtype=np.bool_)
        self._pool = None if codec == NONE else ThreadPoolExecutor(_WORKERS, thread_name_prefix="pack")
        self._pages: Counter[str] = Counter()  # by encoding
        self._wire_bytes: Counter[str] = Counter()

    def pack(self, runs: Runs) -> Iterator[Packed]:
        """The pages of the runs, all of them, each once, in any order."""
        for packed in self._packed(runs):
            self._pages[packed.encoding] += packed.pages
            self._wire_bytes[packed.encoding] += packed.following_bytes
            yield packed

    def take_counts(self) -> dict[str, list[int]]:
        """Pages, and the bytes that followed their messages, by encoding, since the last time."""
        counts = {name: [self._pages[name], self._wire_bytes[name]] for name in self._pages}
        self._pages.clear()
        self._wire_bytes.clear()
        return counts

    def begin(self) -> None:
        """A round begins, or the last pages: something else went on before what is packed next."""
        if self._gain is not None:
            self._gain.begin()

    def note(self, *, sent_bytes: int, waiting_bytes: int, time_ns: int) -> None:
        """How the link is doing, for `auto`: what it was given in all, and what of it has not arrived."""
        if self._gain is not None:
            self._gain.note(acknowledged_bytes=sent_bytes - waiting_bytes, queued_bytes=waiting_bytes, time_ns=time_ns)

    @property
    def piece_pages(self) -> int:
        """How many pages `pack` should be given at a time, at most."""
        return _AUTO_PAGES if self._gain is not None else wire.MOST_PAGES

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _packed(self, runs: Runs) -> Iterator[Packed]:
        match self._codec:
            case "zero":
                yield from self._ahead(runs, _ZERO_PAGES, self._without_zeros)
            case "zstd":
                yield from self._ahead(runs, _BLOCK_PAGES, self._compressed)
            case "xor":
                yield from self._ahead(runs, _BLOCK_PAGES, self._changed)
            case "auto":
                yield from self._chosen(runs)
            case _:
                yield from (Packed(message) for message in wire.split(runs))

    def _ahead(self, runs: Runs, block_pages: int, pack: Callable[[Runs], list[Packed]]) -> Iterator[Packed]:
        """What `pack` makes of each block, in order, computed some blocks ahead."""
        assert self._pool is not None
        waiting: deque[Future[list[Packed]]] = deque()
        for message in wire.split(runs, most_pages=block_pages):
            waiting.append(self._pool.submit(pack, message.runs))
            if len(waiting) > _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    # -- the codecs ------------------------------------------------------------------------------------------------

    def _without_zeros(self, runs: Runs) -> list[Packed]:
        """The pages that are zero, and the others, as runs of their own."""
        is_zero = ~self._read(runs).any(axis=1)  # one that is written just then is sent again
        if not is_zero.any():
            return [Packed(wire.Pages(runs))]
        numbers = page_numbers(runs)
        packed = [Packed(wire.Coded(runs_of_numbers(numbers[is_zero]), Encoding.ZERO, 0), b"")]
        if not is_zero.all():
            packed.append(Packed(wire.Pages(runs_of_numbers(numbers[~is_zero]))))
        return packed

    def _compressed(self, runs: Runs) -> list[Packed]:
        pages = self._snapshot(runs)
        coded = CODECS[Encoding.ZSTD].encode(pages, None)
        if self._sent is None:  # what is not coded is sent as it is by then: nobody needs to know what it was
            return [Packed(wire.Pages(runs)) if coded is None else _coded(runs, Encoding.ZSTD, coded)]
        return [self._remembered(runs, pages, None if coded is None else _coded(runs, Encoding.ZSTD, coded))]

    def _changed(self, runs: Runs) -> list[Packed]:
        """What has changed, where it is known what was sent before; else as `_compressed`."""
        assert self._sent is not None
        numbers = page_numbers(runs)
        if not self._known[numbers].all():
            return self._compressed(runs)
        pages = self._snapshot(runs)
        coded = CODECS[Encoding.XOR].encode(pages, self._sent[numbers])
        return [self._remembered(runs, pages, None if coded is None else _coded(runs, Encoding.XOR, coded))]

    def _remembered(self, runs: Runs, pages: Words, packed: Packed | None) -> Packed:
        """Note that the destination will have these pages; send them as they are where they are not coded."""
        assert self._sent is not None
        numbers = page_numbers(runs)
        self._sent[numbers] = pages
        self._known[numbers] = True
        return packed or Packed(wire.Pages(runs), np.ascontiguousarray(pages).data.cast("B"))

    def _chosen(self, runs: Runs) -> Iterator[Packed]:
        """By whatever is expected to take the least time; see `unnoticed.agents.gain`."""
        assert self._gain is not None
        if self._sent is None and self._gain.is_slow_link:
            self._sent = _untouched(self._content)
            self._known = np.zeros(self._content.pages, dtype=np.bool_)
        numbers = page_numbers(runs)
        sample = numbers[:: max(1, len(numbers) // _SAMPLE_PAGES)][:_SAMPLE_PAGES]
        pages = self._content.words[sample]
        before = self._sent[sample] if self._sent is not None and self._known[sample].all() else None
        choice = self._gain.choose(pages, before)
        if choice is not None:
            pack = self._changed if choice is Encoding.XOR else self._compressed
            yield from self._ahead(runs, _BLOCK_PAGES, pack)
        else:  # a copy, to be remembered, would cost time for a gain that nobody has promised
            if self._sent is not None:
                self._known[numbers] = False
            yield from (Packed(message) for message in wire.split(runs))

    def _read(self, runs: Runs) -> Words:
        """The pages as they are now; one run without copying it."""
        words = self._content.words
        if len(runs) == 1:
            first, count = runs[0].tolist()
            return words[first : first + count]
        return words[page_numbers(runs)]

    def _snapshot(self, runs: Runs) -> Words:
        """A copy of the pages. The guest writes on: what is coded must hold still, and be what is remembered.

        A page that nobody writes to could else be coded by what another one was before it was written.
        """
        return self._content.words[page_numbers(runs)]


class Unpacker:
    """Decodes what came into the RAM, in worker threads. `settle` waits for all of it; `close` ends the threads."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def take(self, message: wire.Coded, coded: bytes) -> None:
        """Begin to decode. Raises PeerError where something that came before was not what it must be."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="unpack")
        self._waiting.append(self._pool.submit(self._unpack, message, coded))
        if len(self._waiting) > 2 * _AHEAD:
            self._waiting.popleft().result()

    def settle(self) -> None:
        """Return when all pages are in place. Raises PeerError where they cannot be."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """End the threads; returns when nothing writes to the RAM any more."""
        if self._pool is not None:
            self._pool.shutdown(wait=bool(self._waiting), cancel_futures=True)

    def _unpack(self, message: wire.Coded, coded: bytes) -> None:
        numbers, words = page_numbers(message.runs), self._ram.words
        try:
            words[numbers] = CODECS[message.encoding].decode(coded, words[numbers])
        except ValueError as error:
            raise PeerError(f"The source's pages in {message.encoding.name} cannot be decoded: {error}.") from error


def _untouched(ram: Ram) -> Words:
    """As many zeros as the RAM has words: unlike `zeros_like`, it takes no memory before something is written to it."""
    return np.zeros(ram.words.shape, dtype=np.uint64)


def _coded(runs: Runs, encoding: Encoding, coded: bytes) -> Packed:
    return Packed(wire.Coded(runs, encoding, len(coded)), coded)
