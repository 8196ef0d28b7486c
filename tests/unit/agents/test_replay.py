"""The replay: a guest's RAM can be told right from wrong from the trace in it and the number of writes alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoticed.agents import replay
from unnoticed.agents.dirtier import Dirtier, Pattern, fill
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, PAGE_WORDS, Ram, Super
from unnoticed.agents.trace import condensed
from unnoticed.agents.writer import writer_of
from unnoticed.errors import MigrationError

INTERVAL_NS = 100_000_000
SETS = [{3, 9}, set(), {3, 7, 8}, {1}]
some = settings(deadline=None, max_examples=40)
page_sets = st.lists(st.sets(st.integers(0, 20), max_size=10), min_size=1, max_size=6).filter(any)
batch_sizes = st.lists(st.integers(0, 300), max_size=6)


def trace_of(sets):
    intervals = [np.array(sorted(pages), np.uint64) for pages in sets]
    return condensed(intervals, interval_ns=INTERVAL_NS, tracker="comparison", about={})


class Memory:
    """What a Ram is, without a memfd; with a trace in it."""

    def __init__(self, trace, *, spare=2):
        self.pages = FIRST_DIRTIER_PAGE + trace.pages + spare + replay.pages_for(trace.matrix_bytes)
        self.memory_bytes = self.pages * PAGE_BYTES
        self.words = np.zeros((self.pages, PAGE_WORDS), np.uint64)
        self.quads = memoryview(self.words.reshape(-1))
        fill(self.words)
        replay.load(self, trace)
        self.replay = replay.loaded(self)

    def wrong(self, written):
        return self.replay.wrong_pages(self.words, written=written)


def written_in(sets, start, stop):
    """The pages of the trace that each of these writes goes to, by plain counting."""
    every = sorted(set().union(*sets))
    cycle = [(number, every.index(page)) for number, pages in enumerate(sets) for page in sorted(pages)]
    return [
        (write // len(cycle) * len(sets) + cycle[write % len(cycle)][0], cycle[write % len(cycle)][1])
        for write in range(start, stop)
    ]


@some
@given(page_sets, st.integers(0, 60), st.integers(0, 60))
def test_the_writes_are_those_of_the_trace_in_its_order_over_and_over(sets, start, count):
    memory = Memory(trace_of(sets))
    area = memory.words[FIRST_DIRTIER_PAGE:]
    before = area.copy()
    memory.replay.write(memory.words, start=start, stop=start + count)
    changed = {(int(page), int(word)) for page, word in np.argwhere(area != before)}
    assert changed == {(page, number % PAGE_WORDS) for number, page in written_in(sets, start, start + count)}


@some
@given(page_sets, batch_sizes)
def test_after_any_batches_of_writes_no_page_is_wrong(sets, batches):
    memory, written = Memory(trace_of(sets)), 0
    for batch in batches:
        memory.replay.write(memory.words, start=written, stop=written + batch)
        written += batch
        assert memory.wrong(written) == 0


def test_no_page_is_wrong_after_more_intervals_than_a_page_has_words():
    memory = Memory(trace_of(SETS))
    many = 6 * (2 * PAGE_WORDS // len(SETS)) + 4  # six writes to a cycle
    memory.replay.write(memory.words, start=0, stop=many)
    assert memory.wrong(many) == 0
    assert memory.wrong(many - 1) == 1


@some
@given(page_sets, st.integers(0, 400), st.integers(0, 10**9), st.integers(1, 2**64 - 1))
def test_any_single_word_that_is_changed_is_found_in_the_area_and_in_the_trace(sets, written, where, mask):
    memory = Memory(trace_of(sets))
    memory.replay.write(memory.words, start=0, stop=written)
    own = replay.pages_for(trace_of(sets).matrix_bytes)
    area = memory.pages - own - FIRST_DIRTIER_PAGE
    page, word = divmod(where % (area * PAGE_WORDS), PAGE_WORDS)
    memory.words[FIRST_DIRTIER_PAGE + page, word] ^= np.uint64(mask)
    assert memory.wrong(written) == 1
    memory.words[FIRST_DIRTIER_PAGE + page, word] ^= np.uint64(mask)
    memory.words[memory.pages - own, 0] ^= np.uint64(1)
    assert replay.loaded(memory).wrong_pages(memory.words, written=written) == area


@some
@given(st.integers(1, 100))
def test_a_write_that_was_lost_is_found(number):
    memory = Memory(trace_of(SETS))
    memory.replay.write(memory.words, start=0, stop=number - 1)
    memory.replay.write(memory.words, start=number, stop=number + 10)
    assert memory.wrong(number + 10) == 1


def test_each_interval_s_writes_are_spread_evenly_over_it():
    found = Memory(trace_of(SETS)).replay
    due = [found.due(round(INTERVAL_NS * intervals)) for intervals in (0, 0.5, 1, 1.5, 2, 2.34, 3, 4, 5)]
    assert due == [0, 1, 2, 2, 2, 3, 5, 6, 8]


@some
@given(page_sets, st.integers(0, 1000))
def test_so_many_writes_are_due_at_their_time_and_not_a_moment_before(sets, written):
    found = Memory(trace_of(sets)).replay
    at_ns = found.elapsed_ns(written)
    assert found.due(at_ns) == written
    assert not at_ns or found.due(at_ns - 1) <= written
    assert not written or found.due(found.elapsed_ns(written - 1)) < written


@some
@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_a_rate_s_writes_are_due_at_their_time_too(pages_per_s, written):
    dirtier = Dirtier(pattern=Pattern.UNIFORM, working_set_pages=10, pages_per_s=pages_per_s)
    at_ns = dirtier.elapsed_ns(written)
    assert dirtier.due(at_ns) == written
    assert not written or dirtier.due(at_ns - 1) < written


def test_who_writes_is_what_the_ram_says():
    trace = trace_of(SETS)
    ram = Ram.create(memory_bytes=16 << 20)
    ram.quads[Super.WORKING_SET_PAGES], ram.quads[Super.DIRTY_PAGES_PER_S] = 10, 100
    assert writer_of(ram).due(10**9) == 100
    replay.load(ram, trace)
    assert writer_of(ram).due(4 * INTERVAL_NS) == 6
    ram.close()


def test_a_trace_that_has_no_room_is_refused():
    ram = Ram.create(memory_bytes=16 << 20)
    with pytest.raises(MigrationError, match="too small for that"):
        replay.load(ram, trace_of([set(range(4096))]))
    ram.close()
