"""What the workflows and the documents of containers tell others to run must be there."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    ROOT / "docs" / "containers.md",
    ROOT / "Containerfile",
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_script_that_is_named_exists_and_can_be_run(file):
    named = set(re.findall(r"(?<![\w/])(?:scripts|\.ci)/[\w-]+", file.read_text(encoding="utf-8")))
    assert named
    assert [name for name in named if not os.access(ROOT / name, os.X_OK)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_argument_of_the_build_is_one_of_the_containerfile(file):
    known = re.findall(r"^ARG (\w+)=", (ROOT / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"BASE", "SETUP"} == set(known)
    assert set(re.findall(r"--build-arg (\w+)=", file.read_text(encoding="utf-8"))) <= set(known)
