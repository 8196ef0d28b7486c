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
Network = Mapping[str, Any]
Point = tuple[float, float]


def draw(network: Network, *, name: str) -> str:
    """The SVG, ready to stand in an HTML page; `name` prefixes its ids."""
    return _Drawing(network, name=name).svg(style.variable)


def draw_alone(network: Network) -> str:
    """The SVG as a file of its own, with the colours of paper."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _Drawing(network, name="network", alone=True).svg(str)


def common(network: Network) -> dict[str, Any]:
    """What most directions of the links are like; the others are labelled."""
    directions = [_frozen(each) for link in network["links"] for each in (link["there"], link["back"])]
    return dict(Counter(directions).most_common(1)[0][0]) if directions else {}


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

    def svg(self, colour: Any) -> str:
        width = self._layout.columns * _COLUMN + 2 * _MARGIN
        height = self._floor + _MARGIN
        body = [*self._drawn_links(), *self._drawn_nodes(), *self._drawn_guest()]
        title = f"The network {self._network['shape']}: {len(self._network['nodes'])} nodes. {about(self._network)}"
        if self._alone:
            body.insert(0, f'<rect width="{width:g}" height="{height:g}" fill="{style.PAPER}"/>')
            look = f'width="{width:g}" height="{height:g}" font-family="sans-serif"'
        else:
            look = f'class="plot network" style="max-width: {width:g}px; min-width: min({width:g}px, 46rem)"'
        text = "\n".join(body)
        text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colour(found.group()), text)
        head = f'viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg" role="img"'
        return f'<svg {head} aria-label="{escape(title, {chr(34): "&quot;"})}" {look}>\n{text}\n</svg>\n'

    # -- where things are ------------------------------------------------------------------------------------------

    def _middle(self, node: str) -> tuple[float, float]:
        column, layer = self._layout.places[node]
        return _MARGIN + (column + 0.5) * _COLUMN, _MARGIN + _HEIGHT["host"] / 2 + layer * _LAYER

    @property
    def _floor(self) -> float:
        """Below everything else: where the guest's way goes."""
        lowest = max(self._middle(node)[1] + _HEIGHT[each["kind"]] / 2 for node, each in self._nodes.items())
        hosts = (self._players["source"], self._players["destination"])
        guests = max(self._middle(host)[1] for host in hosts) + _HEIGHT["host"] / 2 + _GUEST_GAP + _GUEST_HEIGHT
        return max(lowest, guests) + _GUEST_HEIGHT

    # -- what is drawn ---------------------------------------------------------------------------------------------

    def _drawn_links(self) -> list[str]:
        drawn, labels = [], []
        between = Counter(frozenset(link["ends"]) for link in self._links)
        seen: Counter[frozenset[str]] = Counter()
        for link in self._links:
            pair = frozenset(link["ends"])
            offset = 7.0 * (seen[pair] - (between[pair] - 1) / 2)
            seen[pair] += 1
            (x1, y1), (x2, y2) = (self._middle(end) for end in link["ends"])
            dashes = ' stroke-dasharray="2 5"' if link["spare"] else ""
            path, (x, y) = self._way(link["ends"], (x1 + offset, y1), (x2 + offset, y2))
            drawn.append(f'<path d="{path}" fill="none" stroke="{style.MUTED}" stroke-width="1.5"{dashes}/>')
            said = self._label(link)
            is_level = abs(y2 - y1) < 1  # then the label stands above it, else on it
            first = y - 7 - 12 * (len(said) - 1) if is_level else y + 3.5 - 6 * (len(said) - 1)
            labels += [_text(x, first + 12 * line, each, halo=True) for line, each in enumerate(said)]
        return drawn + labels

    def _way(self, ends: Sequence[str], start: Point, end: Point) -> tuple[str, Point]:
        """The path of a link, past all nodes that it does not belong to, and where its label goes."""
        (x1, y1), (x2, y2) = start, end
        is_level = abs(y2 - y1) <= abs(x2 - x1)
        middle = halfway = ((x1 + x2) / 2, (y1 + y2) / 2)
        for bend in _BENDS:
            middle = (halfway[0] + (0 if is_level else bend), halfway[1] + (bend if is_level else 0))
            points = [_on_curve(start, middle, end, step / 24) for step in range(25)]
            if not any(self._is_on(node, point) for node in self._nodes if node not in ends for point in points):
                break
        if middle == halfway:
            return f"M{x1:g} {y1:g}L{x2:g} {y2:g}", middle
        knee = tuple(2 * m - h for m, h in zip(middle, halfway, strict=True))
        return f"M{x1:g} {y1:g}Q{knee[0]:g} {knee[1]:g} {x2:g} {y2:g}", middle

    def _is_on(self, node: str, point: Point) -> bool:
        (x, y), kind = self._middle(node), self._nodes[node]["kind"]
        return abs(point[0] - x) < _WIDTH[kind] / 2 + 3 and abs(point[1] - y) < _HEIGHT[kind] / 2 + 3

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
            x, y = self._middle(self._players[role])
            top = y + _HEIGHT["host"] / 2 + _GUEST_GAP
            width = _WIDTH["host"]
            middle = top + _GUEST_HEIGHT / 2
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
    """Nodes and links to draw: of many clients at one switch only the first, and how many more it stands for."""
    nodes = {node["name"]: node for node in network["nodes"]}
    links, more = [link for link in network["links"] if not link.get("migration")], {}
    if len(nodes) <= _FEW_HOSTS:
        return nodes, links, {}
    for switch in [name for name, node in nodes.items() if node["kind"] != "host"]:
        at = [link for link in links if switch in link["ends"]]
        clients = [
            other
            for link in at
            for other in link["ends"]
            if other != switch and nodes[other]["role"] in ("client", "idle")
        ]
        if len(clients) > _FEW_CLIENTS:
            more[clients[0]] = len(clients) - 1
            gone = set(clients[1:])
            links = [link for link in links if not gone & set(link["ends"])]
            nodes = {name: node for name, node in nodes.items() if name not in gone}
    return nodes, links, more


def _on_curve(start: Point, middle: Point, end: Point, share: float) -> Point:
    """A point of the quadratic curve that goes through `middle` halfway."""
    knee = tuple(2 * m - (s + e) / 2 for s, m, e in zip(start, middle, end, strict=True))
    x, y = (
        (1 - share) ** 2 * s + 2 * share * (1 - share) * k + share**2 * e
        for s, k, e in zip(start, knee, end, strict=True)
    )
    return x, y


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
