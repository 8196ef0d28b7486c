"""The dirtier: its area can be told right from wrong, page by page, from the number of writes alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.dirtier import Contents, Dirtier, Pattern, fill
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_WORDS

patterns = st.sampled_from(Pattern)
batch_sizes = st.lists(st.integers(0, 1500), max_size=8)


def memory(pages):
    words = np.zeros((FIRST_DIRTIER_PAGE + pages, PAGE_WORDS), dtype=np.uint64)
    fill(words)
    return words


def dirtied(pattern, working_set, writes, *, pages=None):
    words, dirtier = (
        memory(working_set if pages is None else pages),
        Dirtier(pattern=pattern, working_set_pages=working_set),
    )
    dirtier.write(words, start=0, stop=writes)
    return words, dirtier


def visited(pattern, working_set, start, stop):
    """The pages that a stretch of writes changes, each as often as it was written to (at most 512 times)."""
    words, dirtier = memory(working_set), Dirtier(pattern=pattern, working_set_pages=working_set)
    before = words.copy()
    dirtier.write(words, start=start, stop=stop)
    return (words != before)[FIRST_DIRTIER_PAGE:].sum(axis=1)


@given(pattern=patterns, working_set=st.integers(0, 60), spare=st.integers(0, 10), batches=batch_sizes)
def test_after_any_batches_of_writes_no_page_is_wrong(pattern, working_set, spare, batches):
    words, dirtier = memory(working_set + spare), Dirtier(pattern=pattern, working_set_pages=working_set)
    written = 0
    for batch in batches:
        dirtier.write(words, start=written, stop=written + batch)
        written += batch
        assert dirtier.wrong_pages(words, written=written) == 0


@given(pattern=patterns, working_set=st.integers(1, 60), batches=batch_sizes, many=st.integers(1, 5))
def test_batches_make_the_same_memory_as_one_write_after_another(pattern, working_set, batches, many):
    total = sum(batches)
    at_once, dirtier = dirtied(pattern, working_set, total)
    words, written = memory(working_set), 0
    for batch in batches:
        dirtier.write(words, start=written, stop=written + batch)
        written += batch
    assert (words == at_once).all()


@given(
    pattern=patterns,
    pages=st.tuples(st.integers(1, 30), st.integers(0, 5)),
    writes=st.integers(0, 20_000),
    where=st.integers(0, 10**9),
    mask=st.integers(1, 2**64 - 1),
)
def test_any_single_word_that_is_changed_is_found(pattern, pages, writes, where, mask):
    working_set, spare = pages
    words, dirtier = dirtied(pattern, working_set, writes, pages=working_set + spare)
    page, word = divmod(where % ((working_set + spare) * PAGE_WORDS), PAGE_WORDS)
    words[FIRST_DIRTIER_PAGE + page, word] ^= np.uint64(mask)
    assert dirtier.wrong_pages(words, written=writes) == 1


@given(pattern=patterns, working_set=st.integers(1, 30), writes=st.integers(1, 3000), lost=st.integers(0, 10**9))
def test_one_lost_write_is_found_unless_it_was_overwritten(pattern, working_set, writes, lost):
    number = lost % writes
    words, dirtier = memory(working_set), Dirtier(pattern=pattern, working_set_pages=working_set)
    dirtier.write(words, start=0, stop=number)
    dirtier.write(words, start=number + 1, stop=writes)
    complete, _ = dirtied(pattern, working_set, writes)
    assert dirtier.wrong_pages(words, written=writes) == int((words != complete).any(axis=1).sum())
    if writes <= working_set * 10 and pattern not in (Pattern.HOT_AND_COLD, Pattern.ZIPF):
        assert dirtier.wrong_pages(words, written=writes) == 1


@given(pattern=patterns, working_set=st.integers(1, 30), first=st.integers(0, 3000), more=st.integers(1, 200))
def test_a_page_that_is_an_older_copy_of_itself_is_found(pattern, working_set, first, more):
    words, dirtier = dirtied(pattern, working_set, first)
    older = words.copy()
    dirtier.write(words, start=first, stop=first + more)
    changed = np.flatnonzero((words != older).any(axis=1))
    assert len(changed) > 0
    for page in changed:
        harmed = words.copy()
        harmed[page] = older[page]
        assert dirtier.wrong_pages(harmed, written=first + more) == 1


def test_a_page_that_is_another_page_is_found():
    words, dirtier = dirtied(Pattern.UNIFORM, 30, 1000)
    words[FIRST_DIRTIER_PAGE + 3] = words[FIRST_DIRTIER_PAGE + 4]
    assert dirtier.wrong_pages(words, written=1000) == 1


def test_writes_that_are_not_counted_are_found():
    words, dirtier = dirtied(Pattern.UNIFORM, 30, 1000)
    assert dirtier.wrong_pages(words, written=999) == 1
    assert dirtier.wrong_pages(words, written=990) == 10


@pytest.mark.parametrize("pattern", [Pattern.UNIFORM, Pattern.SEQUENTIAL, Pattern.BURSTS])
@given(working_set=st.integers(1, 300), cycle=st.integers(0, 3))
def test_each_page_is_visited_once_in_each_cycle(pattern, working_set, cycle):
    counts = visited(pattern, working_set, cycle * working_set, (cycle + 1) * working_set)
    assert (counts == 1).all()


def test_sequential_goes_from_front_to_back():
    assert visited(Pattern.SEQUENTIAL, 100, 200, 230)[:30].tolist() == [1] * 30


def test_uniform_spreads_any_short_stretch_over_the_whole_working_set():
    pages = np.flatnonzero(visited(Pattern.UNIFORM, 1000, 5000, 5020))
    assert len(pages) == 20
    assert int(np.diff(pages).max()) < 100


@given(cycles=st.integers(1, 20), working_set=st.integers(10, 200))
def test_nine_in_ten_writes_of_hot_and_cold_go_to_the_first_tenth(cycles, working_set):
    writes, hot = cycles * 10, working_set // 10
    counts = visited(Pattern.HOT_AND_COLD, working_set, 0, writes)
    assert counts.sum() == writes
    assert counts[:hot].sum() == 9 * cycles


def test_hot_and_cold_takes_turns_on_every_page_of_both_parts():
    counts = visited(Pattern.HOT_AND_COLD, 100, 0, 900)
    assert counts[:10].tolist() == [81] * 10
    assert counts[10:].tolist() == [1] * 90


@pytest.mark.parametrize("working_set", [2, 100, 127, 128, 5000])
def test_a_page_of_rank_r_has_the_rth_part_of_the_writes_of_the_first(working_set):
    dirtier = Dirtier(pattern=Pattern.ZIPF, working_set_pages=working_set)
    words, counts, step = memory(working_set), np.zeros(working_set), 200  # few enough not to fill a page
    for start in range(0, 200_000, step):
        before = words[FIRST_DIRTIER_PAGE:].copy()
        dirtier.write(words, start=start, stop=start + step)
        counts += (words[FIRST_DIRTIER_PAGE:] != before).sum(axis=1)
    assert counts.sum() == 200_000
    harmonic = (1 / np.arange(1, working_set + 1)).sum()
    for octave in range(working_set.bit_length()):
        ranks = np.arange(1 << octave, min(working_set + 1, 2 << octave))
        found = counts[ranks - 1]
        assert found.sum() == pytest.approx(
            200_000 * (1 / ranks).sum() / harmonic, rel=0.02, abs=200
        )  # a turn per cycle
        assert found.max() - found.min() <= 1


def test_bursts_write_all_of_half_a_second_in_its_first_fifth():
    dirtier = Dirtier(pattern=Pattern.BURSTS, working_set_pages=100, pages_per_s=1000)
    moments_ms = (0, 50, 100, 300, 499, 500, 550, 600, 1000)
    due = [dirtier.due(moment * 1_000_000) for moment in moments_ms]
    assert due == [0, 250, 500, 500, 500, 500, 750, 1000, 1000]


@given(pattern=patterns, rate=st.integers(1, 10**6), written=st.integers(1, 10**7))
def test_so_many_writes_are_due_at_the_time_that_is_told_and_not_before(pattern, rate, written):
    dirtier = Dirtier(pattern=pattern, working_set_pages=100, pages_per_s=rate)
    elapsed_ns = dirtier.elapsed_ns(written)
    assert dirtier.due(elapsed_ns) >= written > dirtier.due(elapsed_ns - 1)


def test_a_working_set_of_nothing_is_never_written_and_always_right():
    words = memory(5)
    dirtier = Dirtier(pattern=Pattern.UNIFORM, working_set_pages=0)
    dirtier.write(words, start=0, stop=1000)
    assert dirtier.wrong_pages(words, written=1000) == 0
    assert dirtier.wrong_pages(np.zeros_like(words), written=1000) == 5


def test_the_initial_content_has_no_two_words_alike():
    area = memory(100)[FIRST_DIRTIER_PAGE:]
    assert len(np.unique(area)) == area.size


def test_patterns_are_named_as_in_a_plan():
    assert [Pattern.named(name) for name in ("uniform", "sequential", "hot-and-cold", "zipf", "bursts")] == list(
        Pattern
    )


@given(zero=st.integers(0, 100), compressible=st.integers(0, 100), writes=st.integers(0, 3000))
def test_the_area_is_zero_and_compressible_as_asked_and_can_be_told_right_from_wrong_all_the_same(
    zero, compressible, writes
):
    contents = Contents(zero_ppm=zero * 10_000, compressible_ppm=compressible * 10_000)
    words = np.zeros((FIRST_DIRTIER_PAGE + 500, PAGE_WORDS), dtype=np.uint64)
    fill(words, contents)
    area = words[FIRST_DIRTIER_PAGE:]
    is_zero = ~area.any(axis=1)
    assert abs(int(is_zero.sum()) - 5 * zero) <= 5
    repeated = (area[~is_zero] == area[~is_zero][:, :1]).sum(axis=1)
    expected = PAGE_WORDS * compressible // 100
    assert ((repeated == max(expected, 1)) | (is_zero.all())).all()
    dirtier = Dirtier(pattern=Pattern.UNIFORM, working_set_pages=300, contents=contents)
    dirtier.write(words, start=0, stop=writes)
    assert dirtier.wrong_pages(words, written=writes) == 0
    words[FIRST_DIRTIER_PAGE + 400, 7] += np.uint64(1)
    assert dirtier.wrong_pages(words, written=writes) == 1
