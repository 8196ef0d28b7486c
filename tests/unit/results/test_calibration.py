"""What a calibration says, from tables whose errors are known."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from unnoticed.errors import RecordError
from unnoticed.results.calibration import COLUMNS, Calibration, fingerprint, newest, read, write
from unnoticed.results.calibration_page import sentence, write_page

MS = 1_000_000
ENVIRONMENT = {"kernel": {"release": "6.1"}, "cpu": {"count": 2}, "memory_bytes": 1, "taken_utc": "2026-01-01T00:00:00"}


def row(*, kind="cut", truth_ms=50.0, error_ms=0.3, stalled_ms=0.0, estimator="time-stamp", bounds_ms=1.5):
    truth_ns, outage_ns = round(truth_ms * MS), round((truth_ms + error_ms) * MS)
    return {
        "kind": kind,
        "share": 0.0,
        "asked_ns": truth_ns,
        "truth_ns": truth_ns,
        "uncertainty_ns": 10_000,
        "begin_ns": 1,
        "estimator": estimator,
        "outage_ns": outage_ns,
        "low_ns": max(outage_ns - round(bounds_ms * MS), 0),
        "high_ns": outage_ns + round(bounds_ms * MS) if bounds_ms else None,
        "stalled_ns": round(stalled_ms * MS),
    }


def calibration(*rows):
    return Calibration(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS))


def bars(*rows):
    return [bar.met for bar in calibration(*rows).bars()]


def test_a_good_machine_clears_every_bar():
    quiet = [row(kind="quiet", truth_ms=0, error_ms=1.1)] * 5
    assert bars(*[row()] * 20, row(kind="freeze", error_ms=-1.9, bounds_ms=2), *quiet) == [True] * 4


def test_the_bar_for_cuts_asks_for_95_per_cent_within_one_and_a_half_milliseconds():
    bad = row(error_ms=1.6, bounds_ms=2)
    assert bars(*[row()] * 19, bad)[0] is True
    assert bars(*[row()] * 18, bad, bad)[0] is False
    assert bars(*[row()] * 18, row(truth_ms=501, error_ms=9, bounds_ms=9), row(truth_ms=4, error_ms=9, bounds_ms=9))[0]


def test_the_bar_for_freezes_asks_for_the_median():
    freeze = row(kind="freeze", error_ms=-2.1, bounds_ms=3)
    assert bars(freeze, freeze, row(kind="freeze"))[1] is False
    assert bars(freeze, row(kind="freeze"), row(kind="freeze"))[1] is True


def test_one_truth_out_of_its_bounds_misses_the_bar_whatever_the_error():
    assert bars(*[row()] * 50, row(error_ms=0.6, bounds_ms=0.5))[2] is False
    # The truth itself is known to 10 us only.
    assert bars(row(error_ms=0.505, bounds_ms=0.5))[2] is True


def test_one_second_of_quiet_with_more_than_five_milliseconds_is_an_alarm_unless_the_machine_stalled():
    calm = [row(kind="quiet", truth_ms=0, error_ms=1)] * 9
    assert bars(*calm, row(kind="quiet", truth_ms=0, error_ms=5.1))[3] is False
    assert bars(*calm, row(kind="quiet", truth_ms=0, error_ms=5.1, stalled_ms=5))[3] is True


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert bars() == [None] * 4
    stalled = calibration(row(stalled_ms=3), row(kind="quiet", truth_ms=0, error_ms=1, stalled_ms=3))
    assert [bar.met for bar in stalled.bars()] == [None] * 4
    assert stalled.bars()[0].figure == "all 1 left out, because the machine stalled"
    assert stalled.bars()[1].figure == "none was made"
    assert stalled.bars()[3].figure == "all 1 s left out, because the machine stalled"
    assert "nothing can be said" in sentence(calibration())


def test_the_resolution_is_the_longest_reading_of_quiet_or_the_error_if_that_is_larger():
    quiet = row(kind="quiet", truth_ms=0, error_ms=1.1)
    assert calibration(row(), quiet).resolution_ns == 1.1 * MS
    assert calibration(row(error_ms=4), quiet).resolution_ns == 4 * MS
    assert calibration(row()).resolution_ns is None
    assert "where nothing happens is not known" in sentence(calibration(row()))


def test_a_lost_frame_is_a_lost_frame_even_if_the_machine_stalled():
    (only,) = calibration(row(kind="loss", estimator="lost-frames", stalled_ms=9, error_ms=0)).accuracy()
    assert (only.rows, only.excluded, only.worst_error_ns) == (1, 0, 0)


def test_estimators_that_give_no_bounds_are_not_said_to_keep_them():
    (only,) = calibration(row(estimator="delivered-download", bounds_ms=0)).accuracy()
    assert only.inside is None


def test_a_calibration_is_stored_read_back_and_found_for_the_same_machine_only(tmp_path):
    folder = tmp_path / "20260101T000000Z"
    folder.mkdir()
    stored = calibration(row(), row(kind="quiet", truth_ms=0, error_ms=1))
    write(folder, stored, ENVIRONMENT)
    again, document = read(folder)
    pd.testing.assert_frame_equal(again.table, stored.table)
    assert document["resolution_ns"] == stored.resolution_ns
    assert newest(ENVIRONMENT, folder=tmp_path)["resolution_ns"] == stored.resolution_ns
    assert newest(ENVIRONMENT | {"kernel": {"release": "6.2"}}, folder=tmp_path) is None
    assert fingerprint(ENVIRONMENT) == fingerprint(ENVIRONMENT | {"taken_utc": "later"})


def test_the_newest_one_counts_and_broken_ones_are_passed_over(tmp_path):
    for name, error_ms in (("20260101T000000Z", 0.4), ("20260102T000000Z", 0.9)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, calibration(row(error_ms=error_ms)), ENVIRONMENT)
    (tmp_path / "20260103T000000Z").mkdir()
    (tmp_path / "20260103T000000Z" / "calibration.json").write_text("{")
    assert newest(ENVIRONMENT, folder=tmp_path)["error_ns"] == 0.9 * MS


def test_a_folder_without_a_calibration_is_said_to_have_none(tmp_path):
    with pytest.raises(RecordError, match="holds no calibration"):
        read(tmp_path)


def test_the_page_shows_bars_picture_and_figures(tmp_path):
    rows = [row(truth_ms=length, estimator=name) for length in (5, 50) for name in ("time-stamp", "request-latency")]
    rows += [row(kind="freeze", truth_ms=20), row(kind="quiet", truth_ms=0, error_ms=0.8)]
    write(tmp_path, calibration(*rows), ENVIRONMENT)
    page = write_page(tmp_path).read_text()
    assert page.count('class="badge holds"') == 4
    assert "the path is cut" in page
    assert "request-latency" in page
    assert json.loads((tmp_path / "calibration.json").read_text())["bars"][0]["met"] is True


def test_a_page_of_nothing_says_so(tmp_path):
    write(tmp_path, calibration(), {})
    assert write_page(tmp_path).read_text().count('class="badge unknown"') == 4
