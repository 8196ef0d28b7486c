"""Every name that a report shows of steps, estimators and retransmissions has a line in the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import unnoticed
from unnoticed.results import glossary, summaries
from unnoticed.results.report import Report

AGENTS = Path(unnoticed.__file__).parent / "agents"


def test_every_step_of_the_agents_is_explained_and_no_other():
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(AGENTS.glob("*.py")))
    steps = set(re.findall(r"""\b(?:step|record|_do)\(\s*"([a-z-]+)\"""", source))
    assert {"hush", "receive", "revive", "resume"} <= steps
    assert set(glossary.STEPS) == steps


def test_the_kinds_of_retransmission_are_those_of_the_table(synthetic_folder):
    grid = summaries.retransmits(Report(synthetic_folder).cells, synthetic_folder.load().flows)
    assert set(glossary.RETRANSMISSIONS) <= {head.title for head in grid.heads}


def test_an_explanation_is_a_sentence_or_two():
    for words in (glossary.STEPS, glossary.ESTIMATORS, glossary.RETRANSMISSIONS):
        for name, text in words.items():
            assert text.endswith("."), name
            assert len(text) < 240, name


def test_a_report_explains_the_steps_that_its_run_has(synthetic_folder):
    shown = dict(Report(synthetic_folder).step_words)
    assert {"pause", "announce", "resume"} <= set(shown)
    assert "hush" not in shown
