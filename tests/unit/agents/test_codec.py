"""Codecs: what goes in comes out, and what is no code of so many pages is refused."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.codec import CODECS
from unnoticed.agents.wire import Encoding

WORDS = 512


def noise(pages, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 63, (pages, WORDS), dtype=np.uint64)


def text(pages):
    return np.tile(np.arange(64, dtype=np.uint64), (pages, WORDS // 64))


KINDS = {"zero": lambda n: np.zeros((n, WORDS), dtype=np.uint64), "noise": noise, "text": text}


@st.composite
def pages_and_before(draw):
    count = draw(st.integers(1, 8))
    before = KINDS[draw(st.sampled_from(sorted(KINDS)))](count)
    pages = before.copy() if draw(st.booleans()) else KINDS[draw(st.sampled_from(sorted(KINDS)))](count)
    for page, word, value in draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, WORDS - 1), st.integers(0, (1 << 64) - 1)))
    ):
        pages[page, word] = value
    return pages, before


@given(given_=pages_and_before(), encoding=st.sampled_from(list(Encoding)))
def test_what_is_coded_comes_back_and_is_shorter(given_, encoding):
    pages, before = given_
    codec = CODECS[encoding]
    coded = codec.encode(pages, before)
    if coded is not None:
        assert len(coded) < pages.nbytes
        assert np.array_equal(codec.decode(coded, before), pages)


def test_each_codec_takes_what_it_is_for():
    few_words = noise(4)
    few_words[:, 7] += np.uint64(1)
    assert CODECS[Encoding.ZERO].encode(KINDS["zero"](4), None) == b""
    assert len(CODECS[Encoding.ZSTD].encode(text(4), None)) < 1000
    assert len(CODECS[Encoding.XOR].encode(few_words, noise(4))) < 500


def test_what_would_not_be_shorter_is_not_coded():
    assert CODECS[Encoding.ZERO].encode(text(1), None) is None
    assert CODECS[Encoding.ZSTD].encode(noise(4), None) is None
    assert CODECS[Encoding.XOR].encode(noise(4), noise(4, seed=1)) is None
    assert CODECS[Encoding.XOR].encode(text(4), None) is None


@given(data=st.binary(max_size=400), encoding=st.sampled_from(list(Encoding)))
def test_bytes_of_a_stranger_are_refused_or_become_exactly_the_pages_asked_for(data, encoding):
    try:
        pages = CODECS[encoding].decode(data, KINDS["text"](2))
    except ValueError:
        return
    assert pages.shape == (2, WORDS)


@given(cut=st.integers(0, 10_000), encoding=st.sampled_from([Encoding.ZSTD, Encoding.XOR]))
def test_a_code_that_is_cut_short_or_has_more_behind_it_is_refused(cut, encoding):
    coded = CODECS[encoding].encode(text(2), KINDS["zero"](2))
    for wrong in (coded[: cut % len(coded)], coded + b"\0", coded + coded):
        with pytest.raises(ValueError):  # noqa: PT011 (zstd's own words)
            CODECS[encoding].decode(wrong, KINDS["zero"](2))


@pytest.mark.parametrize("encoding", [Encoding.ZSTD, Encoding.XOR])
@pytest.mark.parametrize("says_its_size", [True, False])
def test_a_bomb_does_not_go_off(encoding, says_its_size):
    bomb = zstandard.ZstdCompressor(level=1, write_content_size=says_its_size).compress(bytes(64 << 20))
    assert len(bomb) < 8192
    with pytest.raises(ValueError, match="it does not expand to the 8192 bytes that it stands for"):
        CODECS[encoding].decode(bomb, KINDS["zero"](2))


def test_a_code_that_lies_about_its_size_is_refused():
    header = bytes.fromhex("28b52ffd60001f")  # a frame of 8192 bytes, says it
    block = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))
    with pytest.raises(ValueError):  # noqa: PT011 (zstd's own words)
        CODECS[Encoding.ZSTD].decode(header + block[9:], KINDS["zero"](2))


def test_bytes_behind_pages_that_are_zero_are_refused():
    with pytest.raises(ValueError, match="3 bytes for pages that are zero"):
        CODECS[Encoding.ZERO].decode(b"abc", KINDS["zero"](1))
