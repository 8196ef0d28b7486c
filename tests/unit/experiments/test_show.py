from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from unnoticed.experiments.cli import main
from unnoticed.topology.spec import STOCK_SHAPES


def show(*arguments):
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


@pytest.mark.parametrize("shape", STOCK_SHAPES)
def test_every_shape_can_be_drawn(small_plan_file, shape):
    done = show(small_plan_file, "--set", f"fabric.shape={shape}")
    assert done.exit_code == 0, done.output
    assert ET.fromstring(done.stdout.partition("\n")[2]).tag.endswith("svg")


def test_it_says_what_the_plan_asks_of_the_links(small_plan_file):
    links = ("--set", "fabric.link.rate=100 Mbit/s", "--set", 'fabric.links={"s1-s2" = {loss = "1 %"}}')
    network = json.loads(show(small_plan_file, "--json", *links).stdout)
    asked = {
        frozenset(link["ends"]): (link["there"]["rate_bit_per_s"], link["there"]["loss_ppm"])
        for link in network["links"]
    }
    assert asked[frozenset(("s1", "s2"))] == (100_000_000, 10_000)
    assert asked[frozenset(("s1", "s3"))] == (100_000_000, 0)


def test_a_migration_network_of_its_own_is_a_link_that_can_be_asked_to_be_another(small_plan_file):
    own = ("--set", "fabric.migration_network=dedicated")
    faster = ("--set", 'fabric.links={"a-b" = {rate = "10 Gbit/s"}}')
    network = json.loads(show(small_plan_file, "--json", *own, *faster).stdout)
    (link,) = [each for each in network["links"] if each["migration"]]
    assert (link["ends"], link["there"]["rate_bit_per_s"]) == (["a", "b"], 10_000_000_000)
    done = show(small_plan_file, *faster)
    assert done.exit_code == 2
    assert "The fabric has no link 'a-b'" in done.stderr


def test_a_drawing_can_go_to_a_file_and_one_that_cannot_says_why(small_plan_file, tmp_path):
    done = show(small_plan_file, "--out", tmp_path / "network.svg")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "network.svg").read_text().startswith("<?xml")
    done = show(small_plan_file, "--out", tmp_path / "nowhere" / "network.svg")
    assert done.exit_code == 1
    assert done.stderr.endswith("network.svg: cannot be written (No such file or directory).\n")


def test_a_case_that_the_plan_does_not_have_and_a_missing_role_are_said(small_plan_file):
    done = show(small_plan_file, "--case", "loud")
    assert done.exit_code == 2
    assert done.stderr == "--case loud: the plan has no such case; its cases are: announced, silent.\n"
    done = show(small_plan_file, "--set", "fabric.source=h1")
    assert done.exit_code == 2
    assert done.stderr.startswith('fabric.source: the topology tree has no host "h1" to be the source;')
