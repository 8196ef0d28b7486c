from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from unnoticed.results.plots.labels import Box, Way, placed, wrapped


def way(start, end, **more):
    (x1, y1), (x2, y2) = start, end
    points = [(x1 + (x2 - x1) * step / 24, y1 + (y2 - y1) * step / 24) for step in range(25)]
    return Way(points=tuple(points), is_level=y1 == y2, **more)


def test_a_label_with_room_stands_on_the_middle_of_a_steep_link_and_above_a_level_one():
    [on, above] = placed([["5 ms"], ["5 ms"]], [way((0, 0), (0, 100)), way((200, 0), (400, 0))], boxes=[])
    assert on.box.middle == (0, 50)
    assert (above.x, above.box.bottom) == (300, -5)


def test_links_beside_one_another_between_the_same_ends_have_their_labels_outside():
    pair = [way((0, y), (200, y), side=y) for y in (-22, 22)]
    upper, lower = placed([["5 ms"], ["6 ms"]], pair, boxes=[])
    assert upper.box.bottom < -22 < 22 < lower.box.top


def test_a_label_evades_what_stands_in_its_middle_and_what_says_nothing_has_none():
    node = Box.around((0, 50), (80, 20))
    assert placed([[]], [way((0, 0), (0, 100))], boxes=[]) == []
    [label] = placed([["5 ms"]], [way((0, 0), (0, 120))], boxes=[node])
    assert label.box.shared(node) == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_labels_of_a_fan_do_not_cover_one_another(lengths):
    texts = ["100 Mbit/s", "5 ms", "queue 50 ms", "loss 1 %"]
    said = [[", ".join(texts[: length + 1])] for length in lengths]
    ways = [way((300, 0), (124 * number, 118)) for number in range(len(lengths))]
    labels = placed(said, ways, boxes=[Box.around((300, 0), (84, 34))])
    assert len(labels) == len(lengths)
    for one, other in itertools.combinations(labels, 2):
        assert one.box.shared(other.box) == 0


def test_text_is_broken_only_where_it_may_be():
    assert wrapped("10 Mbit/s, 20 ms, queue 56 ms", 20, at=", ") == ["10 Mbit/s, 20 ms,", "queue 56 ms"]
    assert wrapped("a sentence of words", 10) == ["a sentence", "of words"]
    assert wrapped("longer-than-that", 3) == ["longer-than-that"]
