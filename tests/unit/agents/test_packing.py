"""Packing and unpacking, joined by nothing: every page arrives as it was, whatever the codec, round after round."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoticed.agents import wire
from unnoticed.agents.gain import Gain
from unnoticed.agents.packing import CODEC_NAMES, Packer, Unpacker
from unnoticed.agents.page_runs import page_numbers, runs_of_numbers
from unnoticed.agents.ram import Ram
from unnoticed.agents.wire import Encoding
from unnoticed.errors import PeerError

PAGES = 4096  # the smallest RAM there is
RNG = np.random.default_rng(1)


@pytest.fixture
def rams():
    made = [Ram.create(memory_bytes=PAGES * 4096) for _ in range(2)]
    yield made
    for ram in made:
        ram.close()


def deliver(packer, unpacker, runs, source, destination):
    """What a round does: everything that was packed comes to the other side. Returns the encodings, in order."""
    seen = []
    for packed in packer.pack(runs):
        message = packed.message
        seen.append(packed.encoding)
        if isinstance(message, wire.Coded):
            unpacker.take(message, bytes(packed.follows))
            continue
        numbers = page_numbers(message.runs)
        came = source.words[numbers] if packed.follows is None else np.frombuffer(packed.follows, dtype=np.uint64)
        destination.words[numbers] = came.reshape(-1, 512)
    unpacker.settle()
    return seen


ALL = np.array([[0, PAGES]], dtype=np.uint64)
SOME = np.array([[1, 2], [5, 1], [700, 900], [4000, 96]], dtype=np.uint64)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_every_page_of_every_round_arrives(rams, codec):
    source, destination = rams
    packer, unpacker = Packer(codec, source), Unpacker(destination)
    for round_number, runs in enumerate((ALL, SOME, SOME, SOME[:1])):
        numbers = page_numbers(runs)
        if round_number == 0:
            source.words[: PAGES // 2] = RNG.integers(0, 1 << 63, (PAGES // 2, 512), dtype=np.uint64)
            source.words[PAGES // 4 : PAGES // 2, 100:] = 7
        else:
            source.words[numbers, round_number] = RNG.integers(0, 1 << 63, len(numbers), dtype=np.uint64)
        packer.begin()
        for step in range(3):  # a link of 100 MB/s
            packer.note(sent_bytes=step * 10**6 + 10**6, waiting_bytes=10**6, time_ns=step * 10**7)
        deliver(packer, unpacker, runs, source, destination)
        assert np.array_equal(source.words, destination.words)
    packer.close()
    unpacker.close()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), codec=st.sampled_from(CODEC_NAMES))
def test_any_pages_in_any_rounds_arrive(data, codec):
    source, destination = (Ram.create(memory_bytes=PAGES * 4096) for _ in range(2))
    packer, unpacker = Packer(codec, source), Unpacker(destination)
    try:
        for number in range(data.draw(st.integers(1, 4))):
            pages = sorted(data.draw(st.sets(st.integers(0, 40), min_size=1)))
            source.words[pages, data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 3)) * (number + 1)
            deliver(packer, unpacker, runs_of_numbers(np.array(pages)), source, destination)
            assert np.array_equal(source.words[:41], destination.words[:41])
    finally:
        packer.close()
        unpacker.close()
        source.close()
        destination.close()


def test_the_messages_of_a_round_name_each_page_once_and_keep_the_protocols_limits(rams):
    source, _ = rams
    source.words[::3] = 9
    for codec in CODEC_NAMES:
        packer = Packer(codec, source)
        messages = [packed.message for packed in packer.pack(ALL)]
        assert sorted(itertools.chain.from_iterable(page_numbers(each.runs) for each in messages)) == list(range(PAGES))
        assert all(each.pages <= wire.MOST_CODED_PAGES for each in messages if isinstance(each, wire.Coded))
        packer.close()


def test_zero_pages_take_no_bytes_and_the_others_go_straight_from_the_ram(rams):
    source, destination = rams
    source.words[10:20] = 5
    packer, unpacker = Packer("zero", source), Unpacker(destination)
    deliver(packer, unpacker, ALL, source, destination)
    assert packer.take_counts() == {"zero": [PAGES - 10, 0], "none": [10, 10 * 4096]}
    assert packer.take_counts() == {}
    packer.close()
    unpacker.close()


def test_xor_sends_of_a_page_that_was_sent_before_hardly_more_than_what_changed(rams):
    source, destination = rams
    source.words[:] = RNG.integers(0, 1 << 63, source.words.shape, dtype=np.uint64)
    packer, unpacker = Packer("xor", source), Unpacker(destination)
    assert set(deliver(packer, unpacker, ALL, source, destination)) == {"none"}
    packer.take_counts()
    source.words[:1000, 3] += np.uint64(1)
    deliver(packer, unpacker, np.array([[0, 1000]], dtype=np.uint64), source, destination)
    ((name, (pages, sent)),) = packer.take_counts().items()
    assert (name, pages) == ("xor", 1000)
    assert sent < 1000 * 40
    packer.close()
    unpacker.close()


def test_auto_copies_no_page_that_goes_as_it_is(rams):
    source, destination = rams
    source.words[:] = RNG.integers(0, 1 << 63, source.words.shape, dtype=np.uint64)
    packer, unpacker = Packer("auto", source), Unpacker(destination)
    for _ in range(2):
        packer.begin()
        for step in range(3):  # a link of 100 MB/s
            packer.note(sent_bytes=step * 10**6 + 10**6, waiting_bytes=10**6, time_ns=step * 10**7)
        assert [packed.follows for packed in packer.pack(ALL)] == [None]
    packer.close()
    unpacker.close()


def test_a_guest_that_writes_while_its_pages_are_packed_harms_none_but_those(rams):
    source, destination = rams
    packer, unpacker = Packer("xor", source), Unpacker(destination)
    for packed in packer.pack(ALL):
        source.words[:50] = RNG.integers(0, 9, (50, 512), dtype=np.uint64)  # the dirty tracker would name these
        if isinstance(packed.message, wire.Coded):
            unpacker.take(packed.message, bytes(packed.follows))
        else:
            destination.words[page_numbers(packed.message.runs)] = np.frombuffer(
                packed.follows, dtype=np.uint64
            ).reshape(-1, 512)
    unpacker.settle()
    assert np.array_equal(source.words[50:], destination.words[50:])
    deliver(packer, unpacker, np.array([[0, 50]], dtype=np.uint64), source, destination)
    assert np.array_equal(source.words, destination.words)
    packer.close()
    unpacker.close()


def test_what_cannot_be_decoded_is_the_peers_fault(rams):
    _, destination = rams
    unpacker = Unpacker(destination)
    unpacker.take(wire.Coded(SOME[:1], Encoding.ZSTD, 4), b"junk")
    with pytest.raises(PeerError, match="The source's pages in ZSTD cannot be decoded"):
        unpacker.settle()
    unpacker.close()


def test_an_unknown_codec_is_refused_with_those_that_exist(rams):
    with pytest.raises(ValueError, match="unknown codec 'magic'; known are none, zero, zstd, xor, auto"):
        Packer("magic", rams[0])


class Clock:
    """A timer by which each call costs so much."""

    def __init__(self, cost_ns):
        self.now_ns, self.cost_ns = 0, cost_ns

    def __call__(self):
        self.now_ns += self.cost_ns
        return self.now_ns


TEXT = np.tile(np.arange(64, dtype=np.uint64), (16, 8))
NOISE = RNG.integers(0, 1 << 63, (16, 512), dtype=np.uint64)
SIZE = TEXT.nbytes


def gain_of(*, link_bytes_per_s, cost_ns_per_byte, waiting=1 << 20):
    gain = Gain(Clock(round(cost_ns_per_byte * SIZE)))
    for second in range(3):
        gain.note(acknowledged_bytes=second * link_bytes_per_s, queued_bytes=waiting, time_ns=second * 10**9)
    return gain


def test_auto_codes_where_the_link_is_slower_than_the_processor():
    assert gain_of(link_bytes_per_s=125_000_000, cost_ns_per_byte=0.5).choose(TEXT, None) is Encoding.ZSTD


def test_auto_does_not_where_the_processor_would_be_waited_for():
    assert gain_of(link_bytes_per_s=2_000_000_000, cost_ns_per_byte=0.5).choose(TEXT, None) is None


def test_auto_does_not_code_what_gets_no_shorter():
    assert gain_of(link_bytes_per_s=1_000_000, cost_ns_per_byte=0.0).choose(NOISE, None) is None


def test_auto_takes_what_changed_where_that_is_known_and_less():
    gain = gain_of(link_bytes_per_s=125_000_000, cost_ns_per_byte=0.5)
    changed = NOISE.copy()
    changed[:, 3] += np.uint64(1)
    assert gain.choose(changed, NOISE) is Encoding.XOR
    assert gain.choose(changed, None) is None


def test_auto_codes_nothing_before_it_knows_the_link():
    assert Gain(Clock(0)).choose(TEXT, None) is None


def test_auto_takes_a_link_that_waits_for_the_processor_for_no_slower_than_it_was_seen():
    gain = gain_of(link_bytes_per_s=100_000_000, cost_ns_per_byte=0.5)
    assert gain.is_slow_link
    gain.note(acknowledged_bytes=2 * 10**8 + 10**6, queued_bytes=0, time_ns=3 * 10**9)
    assert gain._link_bytes_per_s == pytest.approx(100_000_000)


def test_auto_looks_now_and_then_whether_a_link_that_never_filled_is_faster_than_it_seems():
    gain = gain_of(link_bytes_per_s=125_000_000, cost_ns_per_byte=0.5, waiting=0)
    choices = [gain.choose(TEXT, None) for _ in range(32)]
    assert choices.count(None) == 2
    gain.begin()
    gain.note(acknowledged_bytes=10**12, queued_bytes=0, time_ns=10**12)  # after a pause: no measurement
    assert gain._link_bytes_per_s == pytest.approx(125_000_000)
