from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unnoticed.errors import RecordError
from unnoticed.results.plots.layout import lay_out
from unnoticed.results.plots.network import about, draw, draw_alone, words
from unnoticed.results.report import write_report

USUAL = {
    "rate_bit_per_s": 1_000_000_000, "queue_ns": 10_000_000, "delay_ns": 0, "jitter_ns": 0,
    "loss_ppm": 0, "reorder_ppm": 0, "duplicate_ppm": 0,
}  # fmt: skip


def network(trunks, hosts, *, kinds=None, links=None, mac="kept"):
    """Switches by the links between them, hosts as (name, role, switch)."""
    links = links or {}
    core = dict.fromkeys(node for pair in [*trunks, *((switch,) for _, _, switch in hosts)] for node in pair)
    nodes = [{"name": node, "kind": (kinds or {}).get(node, "switch"), "role": None, "ipv4": []} for node in core]
    nodes += [{"name": name, "kind": "host", "role": role, "ipv4": ["10.77.0.9"]} for name, role, _ in hosts]
    ends = [*trunks, *((name, switch) for name, _, switch in hosts)]
    return {
        "shape": "test",
        "spanning_tree": False,
        "guest": {"ipv4": "10.77.0.100", "mac": mac},
        "nodes": nodes,
        "links": [
            {"ends": list(pair), "there": dict(USUAL), "back": dict(USUAL), "spare": False, **links.get(pair, {})}
            for pair in ends
        ],
    }


TREE = network(
    [("s1", "s2"), ("s1", "s3")],
    [("a", "source", "s2"), ("b", "destination", "s3"), ("control", "control", "s1"), ("c1", "client", "s1")],
)


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def ways(svg):
    """Points along each link, by the three that its path names."""
    found = []
    for path in re.findall(r'<path d="(M[^"V]+)" fill="none"', svg):
        x1, y1, *knee, x2, y2 = map(float, re.findall(r"-?[0-9.]+", path))
        kx, ky = knee or ((x1 + x2) / 2, (y1 + y2) / 2)
        shares = [step / 50 for step in range(51)]
        found.append([
            ((1 - t) ** 2 * x1 + 2 * t * (1 - t) * kx + t**2 * x2, (1 - t) ** 2 * y1 + 2 * t * (1 - t) * ky + t**2 * y2)
            for t in shares
        ])  # fmt: skip
    return found


def guests(svg):
    """The rectangles of the guest, by their round ends."""
    rects = [element.attrib for element in ET.fromstring(svg).iter() if element.tag.endswith("rect")]
    return [{key: float(rect[key]) for key in ("x", "y", "width", "height")} for rect in rects if rect["rx"] == "12"]


RING = network(
    [("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s4", "s1")],
    [
        ("a", "source", "s2"), ("b", "destination", "s4"), ("control", "control", "s1"),
        ("c1", "client", "s1"), ("c2", "client", "s2"),
    ],
)  # fmt: skip
RING["links"].reverse()  # the order in which a topology has them: hosts before the last switches


def test_no_link_of_a_ring_passes_through_the_guest():
    svg = draw(RING, name="network")
    assert (len(ways(svg)), len(guests(svg))) == (9, 2)
    for way, guest in itertools.product(ways(svg), guests(svg)):
        within = [
            point
            for point in way
            if 0 < point[0] - guest["x"] < guest["width"] and 0 < point[1] - guest["y"] < guest["height"]
        ]
        assert within == []


def test_links_between_the_same_two_switches_are_lines_of_their_own_with_labels_of_their_own():
    hosts = [("a", "source", "s1"), ("b", "destination", "s2"), ("c1", "client", "s2"), ("c2", "client", "s1")]
    twice = network([("s1", "s2"), ("s2", "s1")], hosts)
    for link, delay_ns in zip(twice["links"], (20_000_000, 30_000_000), strict=False):
        link["there"] = link["back"] = {**USUAL, "delay_ns": delay_ns}
    svg = draw(twice, name="network")
    one, other = ways(svg)[:2]
    assert abs(one[25][1] - other[25][1]) > 30
    labels = {each.text: float(each.attrib["y"]) for each in ET.fromstring(svg).iter() if each.tag.endswith("text")}
    assert labels["20\u00a0ms"] < one[25][1] < other[25][1] < labels["30\u00a0ms"]


def test_a_drawing_that_stands_alone_says_what_links_without_a_label_are_like():
    assert " ".join(texts(draw_alone(TREE).partition("\n")[2])).endswith(about(TREE))
    assert about(TREE) not in " ".join(texts(draw(TREE, name="network")))


def test_where_no_two_links_are_alike_the_plainest_is_the_usual_one():
    several = network([("s1", "s2"), ("s2", "s3")], [("a", "source", "s1"), ("b", "destination", "s3")])
    for number, link in enumerate(several["links"][:-1], 1):
        link["there"] = link["back"] = USUAL | {"delay_ns": number * 10**6, "jitter_ns": number * 10**5}
    assert about(several) == "Links without a label: 1\u00a0Gbit/s, queue 10\u00a0ms in each direction."


def test_every_node_is_drawn_with_its_role_and_address_and_what_is_usual_is_said_once():
    drawn = texts(draw(TREE, name="network"))
    for said in ("s1", "s2", "s3", "a", "source", "b", "destination", "c1", "client", "never migrates", "10.77.0.9"):
        assert said in drawn
    assert "guest 10.77.0.100" in drawn
    assert "migrates" in drawn
    assert about(TREE) == "Every link: 1\u00a0Gbit/s, queue 10\u00a0ms in each direction."
    assert not [text for text in drawn if "Gbit" in text]


def test_a_link_that_is_unlike_the_others_says_in_what_and_in_which_direction():
    slow = {**USUAL, "rate_bit_per_s": 20_000_000, "delay_ns": 15_000_000}
    wan = network(
        [("s1", "s2")],
        [("a", "source", "s1"), ("b", "destination", "s2"), ("c1", "client", "s2")],
        links={("s1", "s2"): {"there": slow, "back": {**USUAL, "loss_ppm": 1000}, "spare": True}},
        mac="new",
    )
    drawn = texts(draw(wan, name="network"))
    assert "s1 → s2: 20\u00a0Mbit/s, 15\u00a0ms s2 → s1: loss 0.1\u00a0% spare" in " ".join(drawn)
    assert "spare" in drawn
    assert "migrates and gets another MAC address" in drawn
    assert about(wan).startswith("Links without a label: 1\u00a0Gbit/s")
    assert about(wan).endswith("keeps the dotted ones as spares.")


def test_a_migration_network_is_the_line_that_the_guest_goes_along():
    own = {"ends": ["a", "b"], "there": USUAL, "back": USUAL, "spare": False, "migration": True}
    fast = {**USUAL, "rate_bit_per_s": 10_000_000_000}
    drawings = [
        draw({**TREE, "links": [*TREE["links"], link]}, name="n")
        for link in (own, {**own, "there": fast, "back": fast})
    ]
    assert "migrates over a link of its own" in texts(drawings[0])
    assert "migrates over a link of its own; 10\u00a0Gbit/s" in texts(drawings[1])
    assert all(svg.count("stroke-dasharray") == draw(TREE, name="n").count("stroke-dasharray") - 1 for svg in drawings)


def test_a_direction_in_words_has_all_that_was_asked_or_all_that_differs():
    lossy = {**USUAL, "delay_ns": 5_000_000, "jitter_ns": 1_000_000, "loss_ppm": 10_000}
    assert words(lossy) == "1\u00a0Gbit/s, 5\u00a0ms, ± 1\u00a0ms, queue 10\u00a0ms, loss 1\u00a0%"
    assert words(lossy, {**USUAL, "loss_ppm": 10_000}) == "5\u00a0ms, ± 1\u00a0ms"
    assert words(USUAL, lossy) == "0\u00a0ms, ± 0\u00a0ms, loss 0\u00a0%"
    assert words({**USUAL, "rate_bit_per_s": None}).startswith("no limit")


def test_many_clients_at_one_switch_are_drawn_as_one():
    many = network(
        [("s1", "s2")],
        [("a", "source", "s1"), ("b", "destination", "s2")]
        + [(f"c{number}", "client", "s1") for number in range(1, 41)],
    )
    drawn = texts(draw(many, name="network"))
    assert "c1 and 39 more" in drawn
    assert "c2" not in drawn
    (link,) = [link for link in many["links"] if "c7" in link["ends"]]
    link["back"] = {**USUAL, "loss_ppm": 1000}
    drawn = texts(draw(many, name="network"))
    assert {"c1 and 38 more", "c7", "s1 → c7: loss 0.1\u00a0%"} <= set(drawn)


def test_identical_networks_give_identical_bytes_and_a_file_of_its_own_knows_no_page():
    assert draw(TREE, name="one") == draw(TREE, name="one")
    alone = draw_alone(TREE)
    assert alone.startswith("<?xml")
    assert "var(--" not in alone
    assert "var(--ink" in draw(TREE, name="one")


def test_names_of_the_users_cannot_break_the_page():
    odd = network([("s1", "s2")], [("a<b", "source", "s1"), ("b&c", "destination", "s2"), ("c", "client", "s1")])
    odd["shape"] = 'lab.py:"My<Topo'
    assert "a<b" in texts(draw(odd, name="network"))


TREES = st.lists(st.integers(0, 100), min_size=1, max_size=12)


@example([0, 1, 32, 0, 0], [1, 3, 46, 65])  # two switches without hosts, and each of the others beside one
@given(TREES, st.lists(st.integers(0, 100), min_size=2, max_size=15))
def test_no_two_nodes_are_in_one_place_and_no_two_links_of_a_tree_cross(parents, at):
    core = [f"s{number}" for number in range(len(parents) + 1)]
    links = [(f"s{number + 1}", f"s{parent % (number + 1)}") for number, parent in enumerate(parents)]
    leaves = [f"h{number}" for number in range(len(at))]
    links += [(leaf, core[place % len(core)]) for leaf, place in zip(leaves, at, strict=True)]
    places = lay_out(core, leaves, links, left=leaves[0], right=leaves[-1]).places
    assert set(places) == {*core, *leaves}
    by_layer = {}
    for column, layer in places.values():
        by_layer.setdefault(layer, []).append(column)
    for columns in by_layer.values():
        ordered = sorted(columns)
        assert all(right - left >= 0.999 for left, right in itertools.pairwise(ordered))
    steep = [(places[one], places[two]) for one, two in links if places[one][1] != places[two][1]]
    ways = [sorted(way, key=lambda place: place[1]) for way in steep]
    for (top, bottom), (other_top, other_bottom) in itertools.combinations(ways, 2):
        if top[1] == other_top[1] and bottom[1] == other_bottom[1]:
            assert (top[0] - other_top[0]) * (bottom[0] - other_bottom[0]) >= 0


def test_a_switch_without_hosts_that_closes_a_loop_is_in_the_middle_of_the_drawing():
    links = [("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s4", "s1"), ("a", "s2"), ("b", "s4"), ("c", "s1"), ("d", "s2")]
    places = lay_out(["s1", "s2", "s3", "s4"], ["a", "b", "c", "d"], links, left="a", right="b").places
    assert places["d"][0] < places["a"][0] < places["s3"][0] < places["b"][0]


def test_spines_are_above_their_leaves_and_a_chain_is_a_row():
    links = [(spine, leaf) for spine in ("x1", "x2") for leaf in ("l1", "l2", "l3")]
    links += [("a", "l1"), ("b", "l2"), ("c", "l3")]
    places = lay_out(["l1", "l2", "l3", "x1", "x2"], ["a", "b", "c"], links, left="a", right="b").places
    assert {places[node][1] for node in ("x1", "x2")} == {0}
    assert {places[node][1] for node in ("l1", "l2", "l3")} == {1}
    assert places["l1"][0] < places["l3"][0] < places["l2"][0]  # source left, destination right
    chain = [("s4", "s3"), ("s3", "s2"), ("s2", "s1"), ("a", "s1"), ("b", "s4")]
    row = lay_out(["s1", "s2", "s3", "s4"], ["a", "b"], chain, left="a", right="b").places
    assert [row[node] for node in ("s1", "s2", "s3", "s4")] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_the_report_carries_the_network_of_the_trials(synthetic_folder, tmp_path):
    import json
    import shutil

    from unnoticed.results.store import RunFolder

    folder = tmp_path / "run"
    shutil.copytree(synthetic_folder.path, folder)
    assert 'id="network"' not in write_report(folder).read_text(encoding="utf-8")
    for trial in RunFolder(folder).load().trials["trial_id"]:
        path = folder / "trials" / str(trial)
        path.mkdir(parents=True, exist_ok=True)
        (path / "fabric.json").write_text(json.dumps({"network": TREE}))
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count('<svg viewBox="0 0') == 1
    assert page.index('id="network"') < page.index('id="timeline"')
    for path in folder.glob("trials/*/fabric.json"):
        path.write_text("[]")
    with pytest.raises(RecordError, match=r"fabric\.json: cannot be read as the record of a fabric"):
        write_report(folder)
