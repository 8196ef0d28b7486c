"""Codecs: pages as fewer bytes, and back. Each is a small class with two pure methods.

What a page was when it was last sent is what the destination has in its place: zeros at first. `before` are these
pages, at either end.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import zstandard

from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.ram import PAGE_WORDS, Words
from unnoticed.agents.wire import Encoding

_LEVEL = -5  # the fast end: 2 GB/s of what can be compressed


class Codec(Protocol):
    """Codes pages, arrays of shape (pages, 512). Safe to be used by several threads at once."""

    def encode(self, pages: Words, before: Words | None) -> bytes | None:
        """Fewer bytes than the pages have; None where there would not be."""

    def decode(self, coded: bytes, before: Words) -> Words:
        """The pages, as many as `before`. Raises ValueError where these bytes are not exactly so many."""


class Zero:
    """Pages that are zero need no bytes."""

    def encode(self, pages: Words, before: Words | None) -> bytes | None:  # noqa: ARG002 (a Codec)
        return None if pages.any() else b""

    def decode(self, coded: bytes, before: Words) -> Words:
        if coded:
            raise ValueError(f"{len(coded)} bytes for pages that are zero")
        return np.zeros_like(before)


class Zstd:
    """The pages together, compressed."""

    def __init__(self) -> None:
        self._own = threading.local()  # neither compressor nor decompressor may be shared between threads

    def encode(self, pages: Words, before: Words | None) -> bytes | None:  # noqa: ARG002 (a Codec)
        if not hasattr(self._own, "compressor"):
            self._own.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        coded: bytes = self._own.compressor.compress(np.ascontiguousarray(pages))
        return coded if len(coded) < len(pages) * PAGE_BYTES else None

    def decode(self, coded: bytes, before: Words) -> Words:
        if not hasattr(self._own, "decompressor"):
            self._own.decompressor = zstandard.ZstdDecompressor()
        size = len(before) * PAGE_BYTES
        try:
            # Asked for first: a frame that says how long it is would be given that much, whatever the limit.
            if zstandard.frame_content_size(coded) != size:
                raise ValueError(f"it does not expand to the {size} bytes that it stands for")
            data = self._own.decompressor.decompress(coded, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        pages: Words = np.frombuffer(data, dtype=np.uint64).reshape(-1, PAGE_WORDS)
        return pages


class Xor:
    """What differs from what was sent last, compressed: of a page that was written here and there, mostly zeros."""

    def __init__(self) -> None:
        self._zstd = Zstd()

    def encode(self, pages: Words, before: Words | None) -> bytes | None:
        return None if before is None else self._zstd.encode(pages ^ before, None)

    def decode(self, coded: bytes, before: Words) -> Words:
        changed: Words = self._zstd.decode(coded, before) ^ before
        return changed


CODECS: Mapping[Encoding, Codec] = {Encoding.ZERO: Zero(), Encoding.ZSTD: Zstd(), Encoding.XOR: Xor()}
