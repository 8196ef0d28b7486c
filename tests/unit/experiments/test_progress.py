import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from unnoticed.experiments.progress import LiveProgress, RunProgress, progress_for, result_words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {
                "outcome": "completed",
                "expected": "completed",
                "blackout_ns": 12_340_000,
                "perceived_ns": 215e6,
                "retransmits": 1,
            },
            "completed, blackout 12.3 ms, worst client 215 ms without answers, 1 segment sent again",
        ),
        ({"outcome": "completed", "blackout_ns": pd.NA, "retransmits": 7}, "completed, 7 segments sent again"),
        (
            {
                "outcome": "completed",
                "retransmits": 46,
                "cutover_retransmits": 10,
                "worst_flow_cutover_retransmits": 1,
            },
            "completed, 46 segments sent again (10 because of the cutover, at most 1 by a flow)",
        ),
        ({"outcome": "completed", "retransmits": 0, "cutover_retransmits": 0}, "completed, no segment sent again"),
        (
            {"outcome": "completed", "retransmits": 3, "cutover_retransmits": 0},
            "completed, 3 segments sent again (none because of the cutover)",
        ),
        ({"outcome": "completed", "perceived_ns": float("nan")}, "completed"),
        ({"outcome": "completed", "blackout_ns": 2_294_000_000}, "completed, blackout 2294 ms"),
        ({"outcome": "gave-up", "expected": "gave-up"}, "gave-up"),
        ({"outcome": "completed", "expected": "gave-up"}, "completed (expected: gave-up)"),
        ({"outcome": "failed", "reason": "s1 is gone\nmore"}, "failed: s1 is gone"),
        *(
            ({"outcome": "completed", "disturbed": said}, f"completed{words}")
            for said, words in (
                (True, ", but this machine stalled meanwhile: it will not count"),
                (np.True_, ", but this machine stalled meanwhile: it will not count"),
                (np.False_, ""),
                (pd.NA, ""),
                (None, ""),
            )
        ),
    ],
)
def test_a_result_is_said_in_words(row, words):
    assert result_words(row) == words


def test_plain_lines_are_used_where_there_is_no_terminal():
    assert type(progress_for(io.StringIO())) is RunProgress


def test_the_live_line_is_used_on_a_terminal_and_follows_a_run(trial_of):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = progress_for(stream)
    assert isinstance(progress, LiveProgress)
    with progress:
        progress.run_begins(total=2, done=0)
        progress.trial_begins(trial_of())
        progress.phase("migration")
        progress.note("a note with [brackets]")
        progress.trial_ends(trial_of(), {"outcome": "completed", "blackout_ns": 5_000_000})
    assert "a note with [brackets]" in stream.getvalue()
    assert "announced migration" in stream.getvalue()


def test_on_80_columns_the_live_line_keeps_bar_and_phase_and_results_stand_above_it(trial_of, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    row = {"outcome": "completed", "blackout_ns": 1_409_000_000, "perceived_ns": 1_416_000_000, "retransmits": 46}
    trial = replace(trial_of(), case="a case with a name as long as a line of a terminal, or nearly as long")
    with progress_for(stream) as progress:
        progress.run_begins(total=4, done=0)
        for _ in range(2):
            progress.trial_begins(trial)
            progress.trial_ends(trial, row)
        progress.trial_begins(trial)
        progress.phase("migration")
        stream.seek(0)
        stream.truncate()
        progress._progress.refresh()
        (line,) = [text for text in re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", stream.getvalue()).split("\r") if text]
        assert len(line) <= 80
        assert line.startswith("a case with")
        assert "migration" in line
        assert "━━━━" in line
        assert "2/4" in line
        assert "left" in line
        progress.trial_ends(trial, row)
    assert re.search(r"Trial \d of 4", stream.getvalue())
    assert "worst client 1416 ms without answers, 46 segments sent again" in " ".join(stream.getvalue().split())


def test_the_time_left_is_told_until_nothing_is_left(trial_of):
    stream = io.StringIO()
    progress = RunProgress(stream=stream)
    progress.run_begins(total=2, done=0)
    for _ in range(2):
        progress.trial_begins(trial_of())
        progress.trial_ends(trial_of(), {"outcome": "completed"})
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("; about 0 s left")
    assert lines[3].endswith(": completed")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_reader_that_goes_away_does_not_end_the_run(terminal, trial_of):
    class Gone(io.StringIO):
        def isatty(self):
            return terminal

        def write(self, text):
            raise BrokenPipeError

    with progress_for(Gone()) as progress:
        progress.run_begins(total=1, done=0)
        progress.trial_begins(trial_of())
        progress.phase("warm-up")
        progress.note("Already stopping.")
        progress.trial_ends(trial_of(), {"outcome": "completed"})


def test_a_run_without_a_stderr_goes_on_in_silence(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with progress_for() as progress:
        progress.note("nobody reads this")
