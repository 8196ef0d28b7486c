import io

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
            "completed, blackout 12.3 ms, worst client 215 ms without answers, 1 retransmit",
        ),
        ({"outcome": "completed", "blackout_ns": pd.NA, "retransmits": 7}, "completed, 7 retransmits"),
        ({"outcome": "completed", "perceived_ns": float("nan")}, "completed"),
        ({"outcome": "completed", "blackout_ns": 2_294_000_000}, "completed, blackout 2294 ms"),
        ({"outcome": "gave-up", "expected": "gave-up"}, "gave-up"),
        ({"outcome": "completed", "expected": "gave-up"}, "completed (expected: gave-up)"),
        ({"outcome": "failed", "reason": "s1 is gone\nmore"}, "failed: s1 is gone"),
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
    assert "announced: migration" in stream.getvalue()


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
