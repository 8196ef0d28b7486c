"""Where the nodes of a network go in a drawing: layers from the core down to the hosts, without crossings in a tree.

Pure: names and links in, a column and a layer for each node out. Columns are in units of one host's width, layers count
from 0 at the top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Column (may be a fraction) and layer of each node."""

    places: Mapping[str, tuple[float, int]]

    @property
    def columns(self) -> float:
        return 1 + max(column for column, _ in self.places.values())

    @property
    def layers(self) -> int:
        return 1 + max(layer for _, layer in self.places.values())


def lay_out(
    core: Sequence[str], leaves: Sequence[str], links: Sequence[tuple[str, str]], *, left: str, right: str
) -> Layout:
    """Place a network of switches and routers, the `core`, with `leaves`: hosts with one link each.

    The branch with the leaf `left` goes to the left and that with `right` to the right, so that what lies between the
    two is in the middle. Links that close a loop have no say; whoever draws them sees that they cross nothing.
    """
    beside: dict[str, list[str]] = {node: [] for node in (*core, *leaves)}
    for one, other in links:
        beside[one].append(other)
        beside[other].append(one)
    inner = {node: [other for other in dict.fromkeys(beside[node]) if other in set(core)] for node in core}
    roots = _roots(core, inner, beside, near=left)
    below, layer = _tree(roots, beside)
    order = _order(below, core=set(core), left=left, right=right)
    places: dict[str, tuple[float, int]] = {}
    slots = 0

    def place(node: str) -> float:
        nonlocal slots
        children = order(node)
        if children:
            middle = [place(child) for child in children]
            column = (middle[0] + middle[-1]) / 2
        else:
            column, slots = float(slots), slots + 1
        places[node] = (column, layer[node])
        return column

    if len(roots) == 1 or any(set(inner[root]) & set(roots) for root in roots):
        for root in roots:
            place(root)
    else:  # spines, whose leaves all hang from one of them in the tree
        for child in (child for root in roots for child in order(root)):
            place(child)
        width = max(slots, len(roots))
        for number, root in enumerate(roots):
            places[root] = ((slots - width) / 2 + (number + 0.5) * width / len(roots) - 0.5, layer[root])
    for node in beside:  # parts without a link to the rest
        if node not in places:
            places[node] = (float(slots), 0)
            slots += 1
    first = min((column for column, _ in places.values()), default=0.0)
    return Layout(places={node: (column - first, layer) for node, (column, layer) in places.items()})


def _roots(
    core: Sequence[str], inner: Mapping[str, Sequence[str]], beside: Mapping[str, Sequence[str]], *, near: str
) -> list[str]:
    """The nodes of the top layer: all of a chain; spines, where they close loops; else the core's centre."""
    ends = [node for node in core if len(inner[node]) == 1]
    count = sum(len(others) for others in inner.values()) // 2
    if len(core) != 3 and len(ends) == 2 and count == len(core) - 1 and all(len(each) <= 2 for each in inner.values()):
        first = min(ends, key=lambda end: _distances(end, beside).get(near, len(beside)))
        return sorted(core, key=_distances(first, inner).__getitem__)
    bare = [node for node in core if len(beside[node]) == len(inner[node])]
    others = [node for node in core if node not in bare]
    are_spines = count >= len(core) and all(len(inner[node]) > 1 and set(inner[node]) <= set(others) for node in bare)
    if len(bare) > 1 and are_spines and all(set(inner[node]) & set(bare) for node in others):
        return bare
    reach = {node: sorted(_distances(node, inner).values()) for node in core}
    return sorted(core, key=lambda node: (-len(reach[node]), reach[node][-1], sum(reach[node])))[:1]


def _distances(start: str, beside: Mapping[str, Sequence[str]]) -> dict[str, int]:
    found = {start: 0}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for other in beside[node]:
            if other not in found:
                found[other] = found[node] + 1
                waiting.append(other)
    return found


def _tree(roots: Sequence[str], beside: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Who hangs below whom, and the layer of each, from the roots down by the shortest ways."""
    layer = dict.fromkeys(roots, 0)
    below: dict[str, list[str]] = {node: [] for node in beside}
    waiting = deque(roots)
    while waiting:
        node = waiting.popleft()
        for other in beside[node]:
            if other not in layer:
                layer[other] = layer[node] + 1
                below[node].append(other)
                waiting.append(other)
    return below, layer


def _order(below: Mapping[str, Sequence[str]], *, core: Set[str], left: str, right: str) -> Callable[[str], list[str]]:
    """The children of a node from left to right: in the left half of the drawing those of the core last, so that what
    closes a loop below finds them in the middle, and in the right half first.
    """
    holds = {side: _above(below, leaf) for side, leaf in (("left", left), ("right", right))}

    def order(node: str) -> list[str]:
        children = list(below[node])
        if node in holds["left"] and node not in holds["right"]:
            return sorted(children, key=lambda child: (child in core, child == left))
        if node in holds["right"] and node not in holds["left"]:
            return sorted(children, key=lambda child: (child not in core, child != right))
        side = {child: (child in holds["right"]) - (child in holds["left"]) for child in children}
        return sorted(children, key=lambda child: side[child])

    return order


def _above(below: Mapping[str, Sequence[str]], leaf: str) -> set[str]:
    """The leaf and all that it hangs from."""
    found = {leaf}
    while more := {node for node, children in below.items() if node not in found and found & set(children)}:
        found |= more
    return found
