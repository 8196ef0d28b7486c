from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.shapes import Roles, make_topo


def neighbours(topo):
    found = {}
    for one, other in topo.links():
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return found


def test_single_has_everybody_on_one_switch():
    topo = make_topo("single", clients=3)
    assert topo.switches() == ["s1"]
    assert neighbours(topo)["s1"] == {"a", "b", "control", "c1", "c2", "c3"}


def test_tree_has_the_hosts_on_different_switches_and_deals_the_clients_round():
    by_node = neighbours(make_topo("tree", clients=5))
    assert by_node["s1"] == {"s2", "s3", "control", "c1", "c4"}
    assert by_node["s2"] == {"s1", "a", "c2", "c5"}
    assert by_node["s3"] == {"s1", "b", "c3"}


def test_an_unknown_shape_is_refused_with_the_shapes_there_are():
    with pytest.raises(PlanError, match="no shape 'cube'; the shapes are single, tree"):
        make_topo("cube", clients=1)


def test_clients_are_in_natural_order():
    hosts = [f"c{number}" for number in range(12, 0, -1)] + ["b", "a", "control"]
    assert Roles().clients(hosts) == [f"c{number}" for number in range(1, 13)]


def test_every_missing_role_is_its_own_sentence():
    with pytest.raises(PlanError) as caught:
        Roles(source="h1", destination="h9", control="h8").check(["h1", "h2", "h10"])
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "The topology has no host 'h9' to be the destination",
        "The topology has no host 'h8' to be the control",
    ]
    assert caught.value.problems[0].endswith("its hosts are h1, h2, h10.")


def test_two_roles_cannot_be_one_host():
    with pytest.raises(PlanError, match="must be different hosts"):
        Roles(source="h1", destination="h1", control=None).check(["h1", "h2"])
