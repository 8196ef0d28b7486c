from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology import addresses
from unnoticed.topology.segments import find_segments
from unnoticed.topology.wiring import Wiring

# a and b on s1; r1 to s2 (c1); r2 from s2 on to s3 (c2); r3 and r4 between s1 and s4 (c3); r4 and r5 share a bare link
LINKS = (
    ("a", "s1"),
    ("b", "s1"),
    ("c1", "s2"),
    ("c2", "s3"),
    ("c3", "s4"),
    ("r1", "s1"),
    ("r1", "s2"),
    ("r2", "s2"),
    ("r2", "s3"),
    ("r3", "s1"),
    ("r3", "s4"),
)


def wiring(links=LINKS):
    nodes = list(dict.fromkeys(node for link in links for node in link))
    kinds = {kind: tuple(node for node in nodes if node.startswith(kind)) for kind in ("r", "s")}
    hosts = tuple(node for node in nodes if node[0] in "abc")
    return Wiring(hosts=hosts, switches=kinds["s"], routers=kinds["r"], links=tuple(links))


def segments(links=LINKS):
    return find_segments(wiring(links), source="a", destination="b")


def test_a_segment_ends_at_routers_and_the_guests_is_number_0():
    found = segments()
    assert found.of == {"a": 0, "b": 0, "s1": 0, "c1": 1, "s2": 1, "c2": 2, "s3": 2, "c3": 3, "s4": 3}
    assert found.of_router("r2") == [1, 2]
    assert found.routers_in(0) == ["r1", "r3"]
    assert found.count == 4


def test_everybody_knows_the_first_router_of_a_shortest_way_to_everywhere():
    found = segments()
    assert found.next_routers(0) == {1: "r1", 2: "r1", 3: "r3"}
    assert found.next_routers(3) == {0: "r3", 1: "r3", 2: "r3"}
    assert found.routes_of_router("r3") == {1: ("r1", 0), 2: ("r1", 0)}
    assert found.routes_of_router("r2") == {0: ("r1", 1), 3: ("r1", 1)}


def test_two_routers_that_share_a_cable_have_a_segment_of_their_own_there():
    found = segments((("a", "s1"), ("b", "s1"), ("r1", "s1"), ("r1", "r2"), ("r2", "s2"), ("c1", "s2")))
    assert found.of["c1"] not in found.of_router("r1")
    assert len(set(found.of_router("r1")) & set(found.of_router("r2"))) == 1
    assert found.routes_of_router("r1") == {found.of["c1"]: ("r2", found.of_router("r1")[1])}


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ((("a", "s1"), ("r1", "s1"), ("r1", "s2"), ("b", "s2"), ("c1", "s1")), "between a and b there is a router"),
        (
            (("a", "s1"), ("b", "s1"), ("r1", "s1"), ("r1", "s1"), ("c1", "s1")),
            "r1 has two links into the same",
        ),
        ((("a", "s1"), ("b", "s1"), ("c1", "s2"), ("c2", "s2")), "from c1, c2 there is no way to a"),
    ],
)
def test_a_network_in_which_the_guest_could_not_move_or_not_be_reached_is_refused(links, said):
    with pytest.raises(PlanError, match=said):
        segments(links)


def test_addresses_in_other_segments_are_in_subnets_of_their_own():
    assert addresses.client(3, 2) == addresses.Address(ipv4="10.79.1.3", mac="02:77:00:02:01:03", segment=2)
    assert addresses.router(1, 0).ipv4 == "10.77.255.1"
    assert str(addresses.subnet(2)) == "10.79.0.0/16"
    with pytest.raises(ValueError, match="segments 0 to 99"):
        addresses.subnet(100)
    with pytest.raises(ValueError, match="routers 1 to 254"):
        addresses.router(255, 0)
