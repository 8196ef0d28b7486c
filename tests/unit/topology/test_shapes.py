from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.design import design
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.quietly import Topo
from unnoticed.topology.requirements import wiring_of
from unnoticed.topology.roles import Roles
from unnoticed.topology.shapes import SHAPES, make_topo
from unnoticed.topology.spec import STOCK_SHAPES, FabricSpec
from unnoticed.topology.switching import Switching


def beside(topo):
    found = {}
    for one, other in topo.links():
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return found


def test_a_plan_and_the_fabric_know_the_same_shapes():
    assert tuple(SHAPES) == STOCK_SHAPES


@pytest.mark.parametrize("shape", STOCK_SHAPES)
def test_every_shape_has_the_roles_and_as_many_clients_as_asked(shape):
    wiring = design(FabricSpec(shape=shape, clients=7)).wiring
    assert Roles().clients(wiring.hosts) == [f"c{number}" for number in range(1, 8)]
    assert {"a", "b", "control"} <= set(wiring.hosts)
    assert all(wiring.links_of(host) == 1 for host in wiring.hosts)


def test_single_has_everybody_on_one_switch():
    topo = make_topo("single", clients=3)
    assert topo.switches() == ["s1"]
    assert beside(topo)["s1"] == {"a", "b", "control", "c1", "c2", "c3"}


def test_tree_has_the_hosts_on_different_switches_and_deals_the_clients_round():
    by_node = beside(make_topo("tree", clients=5))
    assert by_node["s1"] == {"s2", "s3", "control", "c1", "c4"}
    assert by_node["s2"] == {"s1", "a", "c2", "c5"}
    assert by_node["s3"] == {"s1", "b", "c3"}


def test_ring_has_every_switch_between_two_others_and_the_hosts_on_opposite_sides():
    by_node = beside(make_topo("ring", clients=1))
    assert by_node["s2"] == {"s1", "s3", "a"}
    assert by_node["s4"] == {"s3", "s1", "b"}


def test_leaf_spine_has_every_leaf_at_every_spine_and_no_host_at_a_spine():
    by_node = beside(make_topo("leaf-spine", clients=4))
    assert by_node["spine1"] == by_node["spine2"] == {"leaf1", "leaf2", "leaf3"}
    assert by_node["leaf1"] == {"spine1", "spine2", "a", "c1", "c4"}


@pytest.mark.parametrize(("shape", "tree"), [("single", False), ("tree", False), ("ring", True), ("leaf-spine", True)])
def test_there_is_a_spanning_tree_where_there_is_a_loop_unless_the_plan_says_so(shape, tree):
    assert design(FabricSpec(shape=shape)).stp is tree
    assert design(FabricSpec(shape=shape, switching=Switching(stp=True))).stp


def test_a_loop_without_a_spanning_tree_is_refused_with_the_way_round_it():
    with pytest.raises(PlanError, match=r"round and round over s1 - s2 - s3 - s4 - s1; leave it out") as caught:
        design(FabricSpec(shape="ring", switching=Switching(stp=False)))
    assert caught.value.problems[0].startswith("fabric.switch.stp: ")


def test_two_links_between_two_switches_are_a_loop_too():
    topo = Topo()
    for switch in ("s1", "s2"):
        topo.addSwitch(switch)
    topo.addLink("s1", "s2")
    assert wiring_of(topo).loop == ()
    topo.addLink("s1", "s2")
    assert wiring_of(topo).loop == ("s1", "s2")


def test_two_sites_have_half_of_the_clients_each_and_one_link_between_them():
    by_node = beside(make_topo("two-sites", clients=4))
    assert by_node["site1"] == {"site2", "a", "control", "c1", "c3"}
    assert by_node["site2"] == {"site1", "b", "c2", "c4"}


@pytest.mark.parametrize(("shape", "gateway"), [("router", "r1"), ("firewall", "fw1")])
def test_behind_a_router_clients_are_in_a_segment_of_their_own(shape, gateway):
    made = design(FabricSpec(shape=shape, clients=2))
    assert made.wiring.routers == (gateway,)
    assert made.wiring.firewalls == ((gateway,) if shape == "firewall" else ())
    assert {node for node, segment in made.segments.of.items() if segment} == {"s4", "c1", "c2"}
    assert made.clients == ("c1", "c2")


def test_an_unknown_shape_is_refused_with_the_shapes_there_are():
    with pytest.raises(PlanError, match="no shape 'cube'; the shapes are single, tree"):
        make_topo("cube", clients=1)


def test_clients_are_in_natural_order():
    hosts = [f"c{number}" for number in range(12, 0, -1)] + ["b", "a", "control"]
    assert Roles().clients(hosts) == [f"c{number}" for number in range(1, 13)]


def test_every_missing_role_is_its_own_sentence():
    roles = Roles(source="h1", destination="h9", control="h8")
    problems = roles.problems(["h1", "h2", "h10"], topology="the topology lab.py:Lab")
    assert problems == [
        f'fabric.{role}: the topology lab.py:Lab has no host "{name}" to be the {role}; its hosts are h1, h2, h10: '
        f'name one of them, as in fabric.{role} = "..."'
        for role, name in (("destination", "h9"), ("control", "h8"))
    ]


def test_two_roles_cannot_be_one_host_and_a_client_cannot_have_the_name_of_a_role():
    (problem,) = Roles(source="h1", destination="h1").problems(["h1", "h2"], topology="Lab")
    assert problem == 'fabric: source and destination must be different hosts, not source "h1", destination "h1".'
    (problem,) = Roles(source="h1", destination="h2").problems(["h1", "h2", "a"], topology="Lab")
    assert problem.startswith('fabric.shape: Lab has a host "a" that is a client;')


def test_neighbours_at_routers_need_a_router():
    neighbours = Neighbours(at="routers", static=True)
    with pytest.raises(PlanError, match=r'fabric\.neighbours\.at: the topology tree has no router; write "hosts" or'):
        design(FabricSpec(shape="tree", neighbours=neighbours))
    assert design(FabricSpec(shape="router", neighbours=neighbours)).wiring.routers == ("r1",)


@pytest.mark.parametrize("link", ["c1-s1", "a>s2", "s1>s2"])
def test_a_link_that_loses_all_from_the_beginning_is_refused_where_it_is_the_only_way(link):
    lost = LinkChange(link=link, loss_ppm=1_000_000)
    with pytest.raises(PlanError, match=r"^fabric\.links: \S+>\S+ would lose every frame from the beginning,"):
        design(FabricSpec(shape="tree", links=(lost,)))
    assert design(FabricSpec(shape="tree", later=(lost,)))


def test_a_link_beside_which_there_is_another_way_may_lose_all_but_not_that_of_the_migrations():
    lost = LinkChange(link="s2>s3", loss_ppm=1_000_000)
    assert design(FabricSpec(shape="ring", links=(lost,)))
    own = LinkChange(link="b>a", loss_ppm=1_000_000)
    with pytest.raises(PlanError, match=r"fabric\.links: b>a would lose every frame"):
        design(FabricSpec(shape="ring", migration_network="dedicated", links=(own,)))
