"""What the lab says that clients felt, from probes whose answers are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from unnoticed.experiments.lab.picture import BINS, SPAN_NS, height_of, picture, strip
from unnoticed.experiments.lab.pulse import Beat, felt

MS = 1_000_000


def train(count, *, period=5 * MS, takes=MS, lost=range(0)):
    return [Beat(k * period + 1, 0 if k in lost else k * period + 1 + takes) for k in range(count)]


def test_a_steady_train_is_silent_for_no_longer_than_an_answer_takes():
    about = felt(train(100), to_ns=500 * MS)
    assert (about.sent, about.answered) == (100, 100)
    assert about.median_ns == about.slowest_ns == about.longest_silence_ns == MS


@given(st.integers(1, 90), st.integers(1, 60))
def test_a_cut_is_silent_from_its_first_lost_probe_to_the_next_answer(first, count):
    beats = train(200, lost=range(first, first + count))
    assert felt(beats, to_ns=1000 * MS).longest_silence_ns == count * 5 * MS + MS


def test_a_silence_that_has_not_ended_lasts_until_now():
    assert felt(train(100, lost=range(60, 100)), to_ns=700 * MS).longest_silence_ns == 400 * MS - 1


def test_a_prober_that_stood_still_is_no_silence():
    late = [*train(10), *(Beat(beat.sent_ns + 900 * MS, beat.answered_ns + 900 * MS) for beat in train(10))]
    assert felt(late, to_ns=1000 * MS).longest_silence_ns == MS


def test_nothing_sent_is_nothing_felt():
    about = felt([], to_ns=5)
    assert (about.sent, about.answered, about.median_ns, about.longest_silence_ns) == (0, 0, None, 0)


@pytest.mark.parametrize(
    ("took_ns", "height"), [(50_000, 0), (310_000, 0), (320_000, 1), (1_100_000, 2), (110 * MS, 6), (5000 * MS, 7)]
)
def test_each_step_of_a_bar_is_half_a_decade(took_ns, height):
    assert height_of(took_ns) == height


def test_a_strip_shows_losses_as_crosses_in_their_places():
    lost = range(300, 500)  # a second, after one and a half
    drawn = strip(train(720, lost=lost), to_ns=SPAN_NS).plain
    assert len(drawn) == BINS
    assert drawn[14:26].strip("▁▂▃") == "×" * 10


def test_the_newest_probes_may_still_be_on_their_way():
    assert "×" not in strip(train(720, lost=range(712, 720)), to_ns=SPAN_NS).plain


def test_the_picture_has_a_row_for_each_client_also_on_a_narrow_terminal():
    clients = {"c1": train(720), "c2": [], "c12": train(720, lost=range(300))}
    drawn = picture(clients, title="now", to_ns=SPAN_NS)
    assert drawn.row_count == 3
    with (console := Console(width=80)).capture() as lines:
        console.print(drawn)
    assert len(lines.get().splitlines()) == 4
