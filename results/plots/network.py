"""The picture of a network: its switches, hosts and links, who plays which part, and what each link is like.

It draws what `topology.description` says of a network, as JSON holds it. SVG is written directly: the shapes are few,
and what a link is like should be text that can be found and copied.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from unnoticed.results.plots import style
from unnoticed.results.plots.labels import LETTER_WIDTH, LINE_HEIGHT, Box, Point, Way, placed, wrapped
from unnoticed.results.plots.layout import Layout, lay_out
from unnoticed.results.quantities import format_bit_per_s, format_ns, format_share, unbroken

_COLUMN, _LAYER, _MARGIN = 124.0, 118.0, 22.0
_WIDTH = {"host": 108.0, "switch": 84.0, "router": 104.0, "firewall": 104.0}
_HEIGHT = {"host": 46.0, "switch": 34.0, "router": 46.0, "firewall": 46.0}
_GUEST_HEIGHT, _GUEST_GAP = 24.0, 8.0
_FEW_CLIENTS, _FEW_HOSTS = 3, 14  # with more at one switch, in a network of more, clients are drawn as one
_WORDS = {"control": "never migrates", "idle": "draws no load"}
_COLOURS = {"source": style.BLUE, "destination": style.BLUE, "client": style.GREEN}
_BENDS = (0.0, 46.0, -46.0, 92.0, -92.0, 140.0)  # how far a link goes out of its way to pass a node, tried in order
_APART = 44.0  # links between the same two nodes, in their middle
_CURVE_STEPS = 24
_EDGE = 6.0  # from a label or a bent link to the edge of the drawing
Network = Mapping[str, Any]


def draw(network: Network, *, name: str) -> str:
    """The SVG, ready to stand in an HTML page; `name` prefixes its ids."""
    return _Drawing(network, name=name).svg(style.variable)


def draw_alone(network: Network) -> str:
    """The SVG as a file of its own, with the colours of paper."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _Drawing(network, name="network", alone=True).svg(str)


def common(network: Network) -> dict[str, Any]:
    """What most directions of the links are like, of several the plainest; the others are labelled."""
    counts = Counter(_frozen(each) for link in network["links"] for each in (link["there"], link["back"]))
    ranked = sorted(counts, key=lambda each: (-counts[each], len(words(dict(each)))))
    return dict(ranked[0]) if ranked else {}


def about(network: Network) -> str:
    """What all links have in common, in a sentence or two."""
    usual, links = common(network), network["links"]
    alike = all(_frozen(each) == _frozen(usual) for link in links for each in (link["there"], link["back"]))
    which = "Every link" if alike else "Links without a label"
    spare = " The spanning tree keeps the dotted ones as spares." if any(link["spare"] for link in links) else ""
    return f"{which}: {words(usual)} in each direction.{spare}"


def words(direction: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """What a direction of a link is like: all of it, or what is unlike `usual`."""
    said = []
    rate = direction.get("rate_bit_per_s")
    if usual is None or rate != usual.get("rate_bit_per_s"):
        said.append("no limit" if rate is None else _whole(format_bit_per_s(rate)))
    for key, title in (("delay_ns", ""), ("jitter_ns", "± "), ("queue_ns", "queue ")):
        value = direction.get(key)
        if (value and usual is None) or (usual is not None and value != usual.get(key)):
            said.append(f"{title}{_whole(format_ns(value or 0))}")
    for key in ("loss_ppm", "reorder_ppm", "duplicate_ppm"):
        value = direction.get(key)
        if (value and usual is None) or (usual is not None and value != usual.get(key)):
            said.append(f"{key.removesuffix('_ppm')} {format_share((value or 0) / 1e6)}")
    return unbroken(", ".join(said))


def _whole(text: str) -> str:
    """1.00 Gbit/s is what was measured; what is asked is 1 Gbit/s."""
    return re.sub(r"(\d)\.(\d*?)0+ ", lambda found: f"{found[1]}{'.' if found[2] else ''}{found[2]} ", text)


def _frozen(direction: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(direction.items()))


class _Drawing:
    """One picture while it is drawn. Lengths are in units of the SVG, of which a text is about ten high."""

    def __init__(self, network: Network, *, name: str, alone: bool = False) -> None:
        self._name, self._alone = name, alone
        self._network = network
        self._nodes, self._links, self._more = _gathered(network)
        core = [node["name"] for node in self._nodes.values() if node["kind"] != "host"]
        leaves = [node["name"] for node in self._nodes.values() if node["kind"] == "host"]
        self._players = {node["role"]: node["name"] for node in self._nodes.values() if node["role"]}
        pairs = [(link["ends"][0], link["ends"][1]) for link in self._links]
        self._layout: Layout = lay_out(
            core, leaves, pairs, left=self._players["source"], right=self._players["destination"]
        )
        self._usual = common(network)
        self._boxes = {name: self._box_of(node) for name, node in self._nodes.items()}
        self._ways = self._all_ways()
        self._labels = placed(
            [self._label(link) for link in self._links],
            self._ways,
            boxes=[*self._boxes.values(), *(self._guest_box(role) for role in ("source", "destination"))],
        )

    def svg(self, colour: Any) -> str:
        extent = self._extent()
        width, height = extent.right - extent.left, extent.bottom - extent.top
        body = [*self._drawn_links(), *self._drawn_nodes(), *self._drawn_guest(), *self._drawn_words(extent)]
        title = f"The network {self._network['shape']}: {len(self._network['nodes'])} nodes. {about(self._network)}"
        if self._alone:
            corner = f'x="{extent.left:g}" y="{extent.top:g}"'
            body.insert(0, f'<rect {corner} width="{width:g}" height="{height:g}" fill="{style.PAPER}"/>')
            look = f'width="{width:g}" height="{height:g}" font-family="sans-serif"'
        else:
            look = f'class="plot network" style="max-width: {width:g}px; min-width: min({width:g}px, 46rem)"'
        text = "\n".join(body)
        text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colour(found.group()), text)
        view = f"{extent.left:g} {extent.top:g} {width:g} {height:g}"
        head = f'viewBox="{view}" xmlns="http://www.w3.org/2000/svg" role="img"'
        return f'<svg {head} aria-label="{escape(title, {chr(34): "&quot;"})}" {look}>\n{text}\n</svg>\n'

    # -- where things are ------------------------------------------------------------------------------------------

    def _middle(self, node: str) -> tuple[float, float]:
        column, layer = self._layout.places[node]
        return _MARGIN + (column + 0.5) * _COLUMN, _MARGIN + _HEIGHT["host"] / 2 + layer * _LAYER

    def _box_of(self, node: Mapping[str, Any]) -> Box:
        return Box.around(self._middle(node["name"]), (_WIDTH[node["kind"]], _HEIGHT[node["kind"]]))

    def _guest_box(self, role: str) -> Box:
        """Where the guest stands, below the host that plays this role."""
        x, y = self._middle(self._players[role])
        middle = y + _HEIGHT["host"] / 2 + _GUEST_GAP + _GUEST_HEIGHT / 2
        return Box.around((x, middle), (_WIDTH["host"], _GUEST_HEIGHT))

    @property
    def _floor(self) -> float:
        """Below everything else: where the guest's way goes."""
        boxes = [*self._boxes.values(), *(label.box for label in self._labels), self._guest_box("source")]
        lowest = max(box.bottom for box in [*boxes, self._guest_box("destination")])
        return max(lowest, *(y for way in self._ways for _, y in way.points)) + _GUEST_HEIGHT

    def _extent(self) -> Box:
        """All of the drawing, with what stands below it."""
        points = [point for way in self._ways for point in way.points]
        for label in self._labels:
            points += [(label.box.left, label.box.top), (label.box.right, label.box.bottom)]
        left = min(0.0, *(x - _EDGE for x, _ in points))
        right = max(self._layout.columns * _COLUMN + 2 * _MARGIN, *(x + _EDGE for x, _ in points))
        below = LINE_HEIGHT * (1 + len(self._words(right - left))) if self._alone else 0.0
        top, bottom = min(0.0, *(y - _EDGE for _, y in points)), self._floor + _MARGIN + below
        return Box(left=left, top=top, right=right, bottom=bottom)

    def _words(self, width: float) -> list[str]:
        """What all links have in common, in lines for a drawing of this width. A page says it beside the drawing."""
        return wrapped(about(self._network), int((width - 2 * _MARGIN) / LETTER_WIDTH)) if self._alone else []

    def _all_ways(self) -> list[Way]:
        """Each link's way; those between the same two nodes bend away from one another."""
        between = Counter(frozenset(link["ends"]) for link in self._links)
        seen: Counter[frozenset[str]] = Counter()
        ways = []
        for link in self._links:
            pair = frozenset(link["ends"])
            ways.append(self._way(sorted(link["ends"]), aside=_APART * (seen[pair] - (between[pair] - 1) / 2)))
            seen[pair] += 1
        return ways

    def _way(self, ends: Sequence[str], *, aside: float) -> Way:
        """The way of a link past all nodes that it does not belong to; in its middle it is so far `aside`."""
        start, end = (self._middle(node) for node in ends)
        (x1, y1), (x2, y2) = start, end
        is_flat = abs(y2 - y1) <= abs(x2 - x1)
        alien = [box.wider(3.0) for node, box in self._boxes.items() if node not in ends]
        alien += [self._guest_box(role).wider(3.0) for role in ("source", "destination")]
        points: tuple[Point, ...] = ()
        for bend in _BENDS:
            out = aside + bend
            middle = ((x1 + x2) / 2 + (0 if is_flat else out), (y1 + y2) / 2 + (out if is_flat else 0))
            points = tuple(_on_curve(start, middle, end, step / _CURVE_STEPS) for step in range(_CURVE_STEPS + 1))
            if not any(box.holds(point) for box in alien for point in points):
                break
        return Way(points=points, is_level=abs(y2 - y1) < 1, side=aside)

    # -- what is drawn ---------------------------------------------------------------------------------------------

    def _drawn_links(self) -> list[str]:
        drawn = []
        for link, way in zip(self._links, self._ways, strict=True):
            dashes = ' stroke-dasharray="2 5"' if link["spare"] else ""
            look = f'fill="none" stroke="{style.MUTED}" stroke-width="1.5"{dashes}'
            drawn.append(f'<path d="{_path(way.points)}" {look}/>')
        for label in self._labels:  # first the ground of each, which hides the links below it
            drawn += [_box(box.middle, box.size, radius=3, look=f'fill="{style.PAPER}"') for box in label.grounds]
        return drawn + [_text(label.x, y, line) for label in self._labels for y, line in label.baselines]

    def _drawn_words(self, extent: Box) -> list[str]:
        lines = self._words(extent.right - extent.left)
        x, last = (extent.left + extent.right) / 2, extent.bottom - _MARGIN / 2
        return [
            _text(x, last - LINE_HEIGHT * (len(lines) - 1 - number), line, colour=style.MUTED)
            for number, line in enumerate(lines)
        ]

    def _label(self, link: Mapping[str, Any]) -> list[str]:
        there, back = (words(link[way], self._usual) for way in ("there", "back"))
        spare = ["spare"] if link["spare"] else []
        if there == back:
            return [*([there] if there else []), *spare]
        one, other = link["ends"]
        ways = ((one, other, there), (other, one, back))
        return [f"{start} → {end}: {said}" for start, end, said in ways if said] + spare

    def _drawn_nodes(self) -> list[str]:
        return [line for node in self._nodes.values() for line in self._drawn_node(node)]

    def _drawn_node(self, node: Mapping[str, Any]) -> list[str]:
        kind, role = node["kind"], node["role"]
        x, y = self._middle(node["name"])
        width, height = _WIDTH[kind], _HEIGHT[kind]
        colour = _COLOURS.get(role, style.VERMILION if kind == "firewall" else style.MUTED)
        ground = style.SHADE if kind == "switch" else style.PAPER
        radius = {"switch": 4.0, "host": 10.0}.get(kind, height / 2)
        look = f'fill="{ground}" stroke="{colour}" stroke-width="{1.25 if colour == style.MUTED else 1.75:g}"'
        more = self._more.get(node["name"], 0)
        lines = [_box((x, y), (width, height), radius=radius, look=look)]
        if more:  # a stack of cards
            lines.insert(0, _box((x + 5, y - 5), (width, height), radius=radius, look=look))
        if kind == "switch":
            return [*lines, _text(x, y + 4, node["name"], bold=True)]
        title = f"{node['name']} and {more} more" if more else node["name"]
        if kind in ("router", "firewall"):
            return [*lines, _text(x, y - 2, title, bold=True), _text(x, y + 12, kind, colour=style.MUTED)]
        said = _WORDS.get(role, role)
        address = next(iter(node.get("ipv6") or node["ipv4"]), "")  # what clients speak
        return [
            *lines,
            _text(x, y - 8, title, bold=True),
            _text(x, y + 4.5, "clients" if more else said, colour=style.MUTED),
            _text(x, y + 17, address, colour=style.MUTED, size=9),
        ]

    def _drawn_guest(self) -> list[str]:
        """The guest below the two hosts, and its way from one to the other: a line where that is a link of its own."""
        drawn, places = [], []
        address = self._network["guest"].get("ipv6") or self._network["guest"]["ipv4"]
        for role, said, look in (
            ("source", f"guest {address}", f'fill="{style.BLUE}" stroke="{style.BLUE}"'),
            ("destination", "guest, afterwards", f'fill="{style.PAPER}" stroke="{style.BLUE}" stroke-dasharray="4 3"'),
        ):
            box = self._guest_box(role)
            x, top, middle, width = (box.left + box.right) / 2, box.top, (box.top + box.bottom) / 2, _WIDTH["host"]
            drawn.append(f'<path d="M{x:g} {top - _GUEST_GAP:g}V{top:g}" stroke="{style.BLUE}" stroke-width="1.5"/>')
            drawn.append(
                _box((x, middle), (width, _GUEST_HEIGHT), radius=_GUEST_HEIGHT / 2, look=f'{look} stroke-width="1.5"')
            )
            inside = style.PAPER if role == "source" else style.BLUE
            drawn.append(_text(x, top + _GUEST_HEIGHT / 2 + 3.5, said, colour=inside, size=9.5))
            places.append((x, top + _GUEST_HEIGHT))
        (x1, y1), (x2, y2) = places
        low, turn = self._floor, math.copysign(12.0, x2 - x1)
        path = f"M{x1:g} {y1 + 2:g}V{low - 12:g}Q{x1:g} {low:g} {x1 + turn:g} {low:g}H{x2 - turn:g}"
        path += f"Q{x2:g} {low:g} {x2:g} {low - 12:g}V{y2 + 9:g}"
        tip = f"M{x2 - 4:g} {y2 + 10:g}L{x2:g} {y2 + 2:g}L{x2 + 4:g} {y2 + 10:g}Z"
        own = next((link for link in self._network["links"] if link.get("migration")), None)
        dashes = ' stroke-dasharray="4 3"' if own is None else ""
        drawn.append(f'<path d="{path}" fill="none" stroke="{style.BLUE}" stroke-width="1.5"{dashes}/>')
        drawn.append(f'<path d="{tip}" fill="{style.BLUE}"/>')
        mac = " and gets another MAC address" if self._network["guest"]["mac"] == "new" else ""
        way = "" if own is None else "; ".join([" over a link of its own", *self._label(own)])
        drawn.append(_text((x1 + x2) / 2, low + 3.5, f"migrates{mac}{way}", colour=style.BLUE, halo=True))
        return drawn


def _gathered(network: Network) -> tuple[dict[str, Any], list[Any], dict[str, int]]:
    """Nodes and links to draw: of many clients with like links to one switch the first, and how many it stands for."""
    nodes = {node["name"]: node for node in network["nodes"]}
    links, more = [link for link in network["links"] if not link.get("migration")], {}
    if len(nodes) <= _FEW_HOSTS:
        return nodes, links, {}
    for switch in [name for name, node in nodes.items() if node["kind"] != "host"]:
        alike: dict[Any, list[str]] = {}  # by what their links are like
        for link in (link for link in links if switch in link["ends"]):
            is_first = link["ends"][0] == switch
            other = link["ends"][1 if is_first else 0]
            if nodes[other]["role"] in ("client", "idle"):
                ways = (link["there"], link["back"]) if is_first else (link["back"], link["there"])
                alike.setdefault(tuple(map(_frozen, ways)), []).append(other)
        for first, *rest in alike.values():
            if len(rest) >= _FEW_CLIENTS:
                more[first] = len(rest)
                links = [link for link in links if not set(rest) & set(link["ends"])]
                nodes = {name: node for name, node in nodes.items() if name not in rest}
    return nodes, links, more


def _on_curve(start: Point, middle: Point, end: Point, share: float) -> Point:
    """A point of the quadratic curve that goes through `middle` halfway."""
    knee = tuple(2 * m - (s + e) / 2 for s, m, e in zip(start, middle, end, strict=True))
    x, y = (
        (1 - share) ** 2 * s + 2 * share * (1 - share) * k + share**2 * e
        for s, k, e in zip(start, knee, end, strict=True)
    )
    return x, y


def _path(points: Sequence[Point]) -> str:
    """A link in SVG's words: a line, or the quadratic curve that goes through these points."""
    (x1, y1), (x2, y2), (x, y) = points[0], points[-1], points[len(points) // 2]
    knee_x, knee_y = 2 * x - (x1 + x2) / 2, 2 * y - (y1 + y2) / 2
    if math.dist((x, y), ((x1 + x2) / 2, (y1 + y2) / 2)) < 0.5:
        return f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
    return f"M{x1:g} {y1:g}Q{knee_x:g} {knee_y:g} {x2:g} {y2:g}"


def _box(middle: Point, size: Point, *, radius: float, look: str) -> str:
    """A rectangle around a point."""
    (x, y), (width, height) = middle, size
    corner = f'x="{x - width / 2:g}" y="{y - height / 2:g}"'
    return f'<rect {corner} width="{width:g}" height="{height:g}" rx="{radius:g}" {look}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    colour: str = style.INK,
    size: float = 10.5,
    bold: bool = False,
    halo: bool = False,
) -> str:
    look = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="middle" fill="{colour}"'
    look += ' font-weight="600"' if bold else ""
    look += f' stroke="{style.PAPER}" stroke-width="5" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    return f"<text {look}>{escape(text)}</text>"
