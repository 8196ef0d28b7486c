"""What `unnoticed calibrate` makes of its options."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from unnoticed.experiments.cli import main


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--cuts", "5ms,20"], '--cuts: "20" has no unit'),
        (["--cuts", "-5 ms"], "--cuts: "),
        (["--freezes", "2 min"], '--freezes: "2 min" must be above 0, and at most 60 s.'),
        (["--losses", "1"], '--losses: "1" is no share'),
        (["--losses", "70 %"], '--losses: "70 %" is no share'),
        (["--reorderings", "2"], '--reorderings: "2" is no share'),
        (["--zero-windows", "5"], '--zero-windows: "5" has no unit'),
        (["--nothing", "long"], "--nothing: "),
    ],
)
def test_a_bad_option_is_one_sentence_and_exit_code_2(options, sentence):
    result = CliRunner().invoke(main, ["calibrate", *options])
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence.partition('"')[0])
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_to_do_is_said():
    names = ("cuts", "freezes", "one-way", "losses", "reorderings", "zero-windows", "nothing")
    options = [word for name in names for word in (f"--{name}", "none")]
    result = CliRunner().invoke(main, ["calibrate", *options])
    assert result.exit_code == 2
    assert "Nothing is left to do" in result.stderr


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "mine").write_text("x")
    result = CliRunner().invoke(main, ["calibrate", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "something is there already" in result.stderr


def test_without_root_it_says_why(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = CliRunner().invoke(main, ["calibrate"])
    assert result.exit_code == 77
    assert "needs root" in result.stderr
