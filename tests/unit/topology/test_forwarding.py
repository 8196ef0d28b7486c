"""TABLE is what nft 1.0.6 (Debian 12) printed for the ways asked for here."""

from __future__ import annotations

from unnoticed.topology.forwarding import Way, lost_frames, table_lines, way_differences

LOSSY = Way(inlet="l0-0", outlet="l0-1", loss_ppm=10_000)
PLAIN = Way(inlet="l0-1", outlet="l0-0", loss_ppm=0)


def chain(name):
    hook = {"type": "filter", "hook": "ingress", "prio": 0, "policy": "drop"}
    return {"chain": {"family": "netdev", "table": "emulator", "name": name, "handle": 1, **hook}}


def rule(inlet, *expressions):
    return {"rule": {"family": "netdev", "table": "emulator", "chain": inlet, "handle": 3, "expr": [*expressions]}}


def counter(inlet, packets):
    return {"counter": {"name": f"lost-{inlet}", "table": "emulator", "handle": 2, "packets": packets, "bytes": 0}}


NUMBER = {"numgen": {"mode": "random", "mod": 1000000, "offset": 0}}
DRAW = {"match": {"op": "<", "left": NUMBER, "right": 10000}}
DROP = rule("l0-0", DRAW, {"counter": "lost-l0-0"}, {"drop": None})
TABLE = [
    {"metainfo": {"version": "1.0.6"}},
    {"table": {"family": "netdev", "name": "emulator", "handle": 1}},
    counter("l0-0", 17),
    counter("l0-1", 0),
    chain("l0-0"),
    DROP,
    rule("l0-0", {"fwd": {"dev": "l0-1"}}),
    chain("l0-1"),
    rule("l0-1", {"fwd": {"dev": "l0-0"}}),
]


def test_a_way_drops_a_share_and_forwards_the_rest():
    assert LOSSY.rules() == [
        'numgen random mod 1000000 < 10000 counter name "lost-l0-0" drop',
        'fwd to "l0-1"',
    ]
    assert PLAIN.rules() == ['fwd to "l0-0"']
    assert Way(inlet="l0-0", outlet="l0-1", loss_ppm=1_000_000).rules()[0] == 'counter name "lost-l0-0" drop'
    assert table_lines([PLAIN]) == [
        "add table netdev emulator",
        "add counter netdev emulator lost-l0-1",
        'add chain netdev emulator l0-1 { type filter hook ingress device "l0-1" priority 0; policy drop; }',
        'add rule netdev emulator l0-1 fwd to "l0-0"',
    ]


def test_what_was_asked_for_is_found_in_what_nft_prints():
    assert way_differences([LOSSY, PLAIN], TABLE) == []
    assert lost_frames(TABLE) == {"l0-0": 17, "l0-1": 0}


def test_another_share_a_missing_rule_and_another_outlet_are_told():
    [wrong] = way_differences([Way(inlet="l0-0", outlet="l0-1", loss_ppm=20_000)], TABLE)
    assert "'right': 10000" in wrong
    assert "'right': 20000" in wrong
    assert way_differences([LOSSY], [each for each in TABLE if each is not DROP])
    assert way_differences([Way(inlet="l0-1", outlet="l9-9", loss_ppm=0)], TABLE)
    assert way_differences([Way(inlet="l7-0", outlet="l7-1", loss_ppm=0)], TABLE)
