"""What the README shows to be copied must work."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from unnoticed.experiments.cli import main
from unnoticed.experiments.commands.run import command as run_command
from unnoticed.experiments.planning.plan import load_plan, trials

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_its_plan_is_one_and_makes_the_grid_it_says(tmp_path):
    (text,) = blocks("toml")
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    plan = load_plan(path)
    assert len(trials(plan)) == 20 * len(plan.document["guest"]["dirty_rate"])


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    return [line for line in lines if line.startswith("unnoticed ")]


def test_it_shows_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("line", commands())
def test_every_command_it_shows_exists(line):
    name = line.split()[1]
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("line", [line for line in commands() if line.split()[1] == "run"])
def test_every_option_of_run_that_it_shows_exists(line):
    options = {option for parameter in run_command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", line)) <= options


def test_every_file_it_links_to_is_there():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL))
    root = Path(__file__).parents[3]
    assert [target for target in targets if not (root / target).exists()] == []
