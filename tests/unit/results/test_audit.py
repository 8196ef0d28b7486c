from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from unnoticed.results.audit import Audit, Entry, Truth, error_text, write_page
from unnoticed.results.plots import audit as plot

MS = 1_000_000
TRUTH = Truth(outage_ns=80 * MS, low_ns=79 * MS, high_ns=81 * MS, start_ns=100 * MS, end_ns=180 * MS)
OPEN = Truth(outage_ns=3000 * MS, low_ns=2999 * MS, high_ns=None, start_ns=100 * MS, end_ns=None)


def entry(*figures_ms, group="published", name="it"):
    figures = tuple(None if figure is None else figure * MS for figure in figures_ms)
    return Entry(group=group, name=name, rule="counts", why="steps", figures_ns=figures)


def audit(*entries, truth=TRUTH):
    sent = np.arange(0, 400, dtype=np.int64) * MS + MS // 2
    lost = (sent >= truth.start_ns) & (sent < (truth.end_ns or 10**12))
    return Audit(
        trial_id="0001-it",
        case="it",
        client="c1",
        truth=truth,
        entries=entries,
        absent=("No QEMU.",),
        sent_ns=sent,
        answered_ns=np.where(lost, 0, sent + MS // 5),
    )


@pytest.mark.parametrize(
    ("figures", "typical", "spread"),
    [
        ((80,), 80, "80.0 ms"),
        ((60, 60), 60, "always 60.0 ms"),
        ((0, 0, 0, 1000), 0, "0 ms in 75 %, 1.00 s in 25 %"),
        ((50, 60, 70, 80, 90), 70, "50.0 ms to 90.0 ms"),
        ((0, 0, 90, 100), 0, "0 ms in 50 %, else 90.0 ms to 100 ms"),
        ((0, 0, 0, 70, 80, 90), 0, "0 ms in 50 %, else 70.0 ms to 90.0 ms"),
        ((100, None), 100, "100 ms in 50 %, nothing in 50 %"),
        ((100, None, None), None, "100 ms in 33.3 %, nothing in 66.7 %"),
        ((None, None), None, "no figure"),
        ((), None, "no figure"),
        ((3001, 3002), 3001, "always 3.00 s"),
    ],
)
def test_an_entry_tells_its_typical_figure_and_how_it_spreads(figures, typical, spread):
    one = entry(*figures)
    assert one.typical_ns == (None if typical is None else typical * MS)
    assert one.spread == spread


@pytest.mark.parametrize(("share", "said"), [(0.0, ""), (0.05, ""), (0.5, " this machine itself stood still")])
def test_an_outage_that_was_the_machine_s_is_said_to_be(share, said):
    one = replace(audit(entry(80)), stalled_ns=int(share * TRUTH.outage_ns))
    assert said in one.stall
    assert bool(one.stall) == bool(said)
    assert one.summary.endswith(one.stall)


@pytest.mark.parametrize(("guessed", "said"), [(0.0, ""), (0.0009, ""), (0.018, "For 1.8 % of the time ")])
def test_what_had_to_be_guessed_is_said_unless_it_is_next_to_nothing(guessed, said):
    sentence = replace(audit(entry(80)), guessed=guessed).guess
    assert sentence.startswith(said)
    assert bool(sentence) == bool(said)


def test_the_error_is_the_figure_less_the_outage_and_the_worst_that_of_the_furthest_phase():
    one = entry(0, 0, 0, 1000)
    assert one.error_ns(TRUTH) == -80 * MS
    assert one.worst_error_ns(TRUTH) == 920 * MS
    assert entry(None).error_ns(TRUTH) is None
    assert entry(None).worst_error_ns(TRUTH) is None


@pytest.mark.parametrize(
    ("error", "figure", "text"),
    [
        (-80 * MS, 0, "−80.0 ms (× 0)"),
        (920 * MS, 1000 * MS, "+920 ms (× 12)"),
        (MS, 81 * MS, "+1.00 ms ✓"),
        (2 * MS, 82 * MS, "+2.00 ms (× 1)"),
        (0, 80 * MS, "±0 ms ✓"),
        (None, None, "–"),
    ],
)
def test_an_error_is_written_with_its_sign_and_factor_or_the_mark_of_the_bounds(error, figure, text):
    assert error_text(error, TRUTH, figure_ns=figure) == text


def test_an_outage_that_was_not_over_has_no_upper_bound_and_says_so():
    assert OPEN.text == "at least 3.00 s, since it was not over"
    assert OPEN.holds(9000 * MS)
    assert not OPEN.holds(50 * MS)
    assert "at least 3.00 s" in audit(entry(0), truth=OPEN).summary


def test_the_summary_tells_the_range_and_how_many_are_right():
    said = audit(entry(80), entry(0, 0, 1000), entry(None)).summary
    assert "3 ways" in said
    assert "from 0 ms to 1.00 s; 1 of them is typically within its bounds" in said
    assert "; none of them are" in audit(entry(0)).summary
    assert audit(entry(None)).summary == "No method reports anything."


def test_the_document_has_every_method_with_its_error():
    document = audit(entry(0, 0, 1000, name="ping"), entry(80, name="ours", group="hypervisor")).document()
    ping, ours = document["methods"]
    assert (ping["reported_ns"], ping["least_ns"], ping["most_ns"]) == (0, 0, 1000 * MS)
    assert (ping["error_ns"], ping["worst_error_ns"], ping["within_bounds"]) == (-80 * MS, 920 * MS, False)
    assert ours["within_bounds"] is True
    assert document["absent"] == ["No QEMU."]


@pytest.fixture(params=["over", "open", "silent", "nothing felt"])
def drawn(request):
    match request.param:
        case "over":
            return audit(entry(80, group="hypervisor"), *(entry(k, 2 * k, name=f"m{k}") for k in (0, 50, 500)))
        case "open":
            return audit(entry(80, group="hypervisor"), entry(55), truth=OPEN)
        case "silent":
            return audit(entry(None, name="mute"), entry(None, 100))
        case _:
            truth = Truth(outage_ns=0, low_ns=0, high_ns=MS, start_ns=None, end_ns=None)
            return Audit(trial_id="t", case="", client="c1", truth=truth, entries=(entry(0),))


def test_the_picture_is_well_formed_the_same_each_time_and_names_every_method(drawn):
    svg = plot.draw(drawn)
    ElementTree.fromstring(svg)
    assert svg == plot.draw(drawn)
    texts = re.sub(r"<[^>]+>", "", svg)
    for one in drawn.entries:
        assert one.name in texts
        assert one.spread in texts


def circles(*figures_ms):
    """The size and place of each circle: those of matplotlib are paths about their own centre."""
    svg = plot.draw(audit(entry(*figures_ms)))
    return re.findall(r"fill-opacity: 0\.75|opacity: 0\.75", svg)


def test_each_figure_has_a_circle_and_close_ones_share_it():
    assert len(circles(0)) > 0
    assert len(circles(0, 0, 0, 1000)) == 2 * len(circles(0))
    assert len(circles(100, 101, 102)) == len(circles(100))


def test_only_a_method_that_reports_nothing_is_said_to():
    assert "reports nothing" in plot.draw(audit(entry(None)))
    assert "reports nothing" not in plot.draw(audit(entry(0), entry(None, 100)))


def test_the_page_is_one_file_that_needs_no_network(tmp_path):
    page = write_page(tmp_path, name="run", question="Q?", audits=[audit(entry(0, 1000, name="<ping>"))])
    text = page.read_text()
    assert page.name == "audit.html"
    assert [path.name for path in tmp_path.iterdir()] == ["audit.html"]
    assert "&lt;ping&gt;" in text
    assert "<ping>" not in text
    assert "One outage of 80.0 ms".replace(" ms", "\u00a0ms") in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    assert not re.search(r"url\((?!#)", text)


def test_a_page_of_several_trials_shows_each(tmp_path):
    audits = [audit(entry(0)), audit(entry(80))]
    text = write_page(tmp_path, name="run", question="", audits=audits).read_text()
    assert "2 trials, and what other ways to measure them report" in text
    assert text.count("<svg") == 2
