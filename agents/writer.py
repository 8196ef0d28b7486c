"""Who writes to a guest's RAM: its dirtier, or the replay of a trace, as the RAM itself says."""

from __future__ import annotations

from typing import Protocol

from unnoticed.agents import replay
from unnoticed.agents.dirtier import Contents, Dirtier, Pattern
from unnoticed.agents.ram import Ram, Super, Words


class Writer(Protocol):
    """Which writes are due when, where each goes, and what all of them must have left."""

    @property
    def is_idle(self) -> bool: ...

    def due(self, elapsed_ns: int) -> int: ...

    def elapsed_ns(self, written: int) -> int: ...

    def write(self, words: Words, *, start: int, stop: int) -> None: ...

    def wrong_pages(self, words: Words, *, written: int) -> int: ...


def writer_of(ram: Ram) -> Writer:
    """The writer that a guest was booted with."""
    quads = ram.quads
    contents = Contents(zero_ppm=quads[Super.ZERO_PPM], compressible_ppm=quads[Super.COMPRESSIBLE_PPM])
    return replay.loaded(ram, contents) or Dirtier(
        pattern=Pattern(quads[Super.PATTERN]),
        working_set_pages=quads[Super.WORKING_SET_PAGES],
        pages_per_s=quads[Super.DIRTY_PAGES_PER_S],
        contents=contents,
    )
