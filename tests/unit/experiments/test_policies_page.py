"""docs/policies.md has every stock policy, its parameters and their defaults, and an example that works as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unnoticed.agents.stock_policies import STOCK
from unnoticed.experiments.planning.fields import dimension_of, key_of
from unnoticed.experiments.planning.quantities import written
from unnoticed.experiments.planning.settings import POLICIES

PAGE = (Path(__file__).parents[3] / "docs/policies.md").read_text(encoding="utf-8")
LOAD = """
import json, sys
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.fake.bench import FakeBench
from pathlib import Path

plan = load_plan(sys.argv[1])
folder = Path(sys.argv[2])
FakeBench().perform(trials(plan)[0], folder, lambda phase: None)
events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
print(json.dumps([event for event in events if event["event"] in ("round", "migration")]))
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def installed(tmp_path):
    """A folder to be put on the path: the page's own policy, installed as a package would be."""
    (module,) = blocks("python")
    declared = next(tomllib.loads(text) for text in blocks("toml") if "entry-points" in text)
    ((group, entries),) = declared["project"]["entry-points"].items()
    (tmp_path / "mine.py").write_text(module)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
    )
    return tmp_path


def test_every_stock_policy_is_on_the_page_with_its_parameters_and_defaults():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(STOCK)
    for name, row in rows.items():
        shown = []
        for each in POLICIES.parameters[name]:
            dimension = dimension_of(each.name)
            value = f'"{written(each.default, dimension)}"' if dimension else str(each.default).lower()
            shown.append(f"{key_of(each.name)} = {value}")
        assert re.findall(r"`([^`]*)`", row) == shown


def test_the_example_has_at_most_20_lines_of_code():
    (module,) = blocks("python")
    assert len([line for line in module.splitlines() if line.strip()]) <= 20


def test_a_plan_names_the_policy_of_a_package_and_its_parameters(installed, tmp_path, small_plan_text):
    part = next(text for text in blocks("toml") if text.startswith("[migration]"))
    plan = tmp_path / "plan.toml"
    plan.write_text(small_plan_text.replace("[clients]", part + "[clients]"))
    folder = tmp_path / "trial"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(installed)}
    argv = [sys.executable, "-c", LOAD, str(plan), str(folder)]
    found = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    *rounds, migration = json.loads(found.stdout)
    assert migration["policy"] == "mine"
    assert [event["rate_limit_bit_per_s"] for event in rounds] == [None, 400_000_000][: len(rounds)]
    assert rounds[-1]["dirty_pages"] <= 512
