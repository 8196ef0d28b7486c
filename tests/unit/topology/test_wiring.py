from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unnoticed.topology.wiring import Wiring, path_between, spans

NODES = ("s1", "s2", "s3", "s4", "s5")
PAIRS = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda pair: pair[0] != pair[1]))


def wiring(links):
    return Wiring(hosts=(), switches=NODES, links=tuple(links))


@given(PAIRS)
def test_a_graph_has_a_loop_unless_it_spans_itself(links):
    assert (wiring(links).loop == ()) == spans(NODES, links, of=links)


@given(PAIRS)
def test_the_loop_that_is_found_is_one(links):
    loop = wiring(links).loop
    if loop:
        assert len(set(loop)) == len(loop) >= 2
        left = [frozenset(link) for link in links]
        for one, other in zip(loop, (*loop[1:], loop[0]), strict=True):
            left.remove(frozenset((one, other)))  # a link of its own for every step


@given(PAIRS, st.sampled_from(NODES), st.sampled_from(NODES))
def test_a_path_goes_over_links_from_start_to_end(links, start, end):
    path = path_between(start, end, links)
    if path:
        assert (path[0], path[-1]) == (start, end)
        known = {frozenset(link) for link in links}
        assert all(frozenset(step) in known for step in pairwise(path))
    else:
        assert not spans(NODES, links[:0], of=[]) or start != end


def test_a_ring_is_spanned_by_all_of_its_links_but_one():
    ring = [("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s4", "s1")]
    nodes = NODES[:4]
    assert spans(nodes, ring[:3], of=ring)
    assert not spans(nodes, ring, of=ring)
    assert not spans(nodes, ring[:2], of=ring)
    assert not spans(nodes, [ring[0], ring[0], ring[1]], of=ring)


def test_neighbours_and_links_are_counted_with_their_multiplicity():
    double = wiring([("s1", "s2"), ("s2", "s1"), ("s2", "s3")])
    assert double.neighbours("s2") == ["s1", "s1", "s3"]
    assert double.links_of("s2") == 3
