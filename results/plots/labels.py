"""Where the label of a link goes in a drawing: on the link or beside it, where it covers nothing else. Pure.

Lengths are in units of the SVG. How wide a text will be is guessed, since whoever shows it chooses the font.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Point = tuple[float, float]
LINE_HEIGHT, LETTER_WIDTH = 12.0, 5.9  # of a text of size 10.5, generously
_BASELINE = 9.5  # below the top of its line
_BESIDE = 5.0  # from a level link to its label
_WIDTHS = (28, 18, 11)  # letters of a line; the narrower ones where there is no room
_PER_WIDTH, _PER_SIDE, _PER_STEP, _PER_LINK, _COVERING = 5.0, 3.0, 1.5, 30.0, 1000.0  # what is bad about a place
_ROUNDS = 5
_MARGIN = 2.0  # around a label


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle along the axes; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, middle: Point, size: Point) -> Box:
        """The one with this middle, width and height."""
        (x, y), (width, height) = middle, size
        return cls(left=x - width / 2, top=y - height / 2, right=x + width / 2, bottom=y + height / 2)

    @property
    def middle(self) -> Point:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def size(self) -> Point:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    def wider(self, margin: float) -> Box:
        """The one that is so much larger on each side."""
        return Box(
            left=self.left - margin, top=self.top - margin, right=self.right + margin, bottom=self.bottom + margin
        )

    def shared(self, other: Box) -> float:
        """The area that it has in common with another."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def holds(self, point: Point) -> bool:
        """Whether a point is in it."""
        x, y = point
        return self.left < x < self.right and self.top < y < self.bottom


@dataclass(frozen=True, kw_only=True)
class Label:
    """Lines of text, centred at `x`, from `top` downwards."""

    lines: tuple[str, ...]
    x: float
    top: float

    @property
    def box(self) -> Box:
        width, height = LETTER_WIDTH * max(map(len, self.lines)), LINE_HEIGHT * len(self.lines)
        return Box.around((self.x, self.top + height / 2), (width, height))

    @property
    def grounds(self) -> list[Box]:
        """Where each line stands."""
        tops = (self.top + LINE_HEIGHT * number for number in range(len(self.lines)))
        return [
            Box.around((self.x, top + LINE_HEIGHT / 2), (LETTER_WIDTH * len(line), LINE_HEIGHT))
            for top, line in zip(tops, self.lines, strict=True)
        ]

    @property
    def baselines(self) -> Iterator[tuple[float, str]]:
        """Each line with the y of its baseline."""
        return ((self.top + _BASELINE + LINE_HEIGHT * number, line) for number, line in enumerate(self.lines))


@dataclass(frozen=True, kw_only=True)
class Way:
    """A link as it is drawn: points along it, evenly, and whether its label stands beside it, else on it.

    `side`: to which side of others between the same ends it bends; its label is on that side first.
    """

    points: tuple[Point, ...]
    is_level: bool
    side: float = 0.0

    @cached_property
    def extent(self) -> Box:
        """The rectangle that it is in."""
        xs, ys = zip(*self.points, strict=True)
        return Box(left=min(xs), top=min(ys), right=max(xs), bottom=max(ys)).wider(_MARGIN)


def wrapped(text: str, letters: int, *, at: str = " ") -> list[str]:
    """A text in lines of at most so many letters, if that can be had by breaks where `at` is (", ": behind a comma)."""
    lines: list[str] = []
    for piece in text.split(at):
        if lines and len(lines[-1]) + len(at) + len(piece) <= letters:
            lines[-1] += at + piece
        else:
            lines.append(piece)
    return [line + at.rstrip() for line in lines[:-1]] + lines[-1:]


def placed(said: Sequence[Sequence[str]], ways: Sequence[Way], *, boxes: Sequence[Box]) -> list[Label]:
    """A label for each of the `ways` of which something is said, where it covers the least.

    `said`: the texts of each, in the order of the ways; `boxes`: what else must not be covered. Each label is placed
    once the ones before it are, and then again, a few times, among all others.
    """
    choices = []
    for number, (texts, way) in enumerate(zip(said, ways, strict=True)):
        others = [other for place, other in enumerate(ways) if place != number]
        if texts:
            choices.append([
                (bad + _covering(label.box, boxes) + _crossing(label.box, others), label)
                for bad, label in _places(texts, way)
            ])  # fmt: skip
    found: dict[int, Label] = {}
    for _ in range(_ROUNDS):
        before = dict(found)
        for number, choice in enumerate(choices):
            taken = [label.box for other, label in found.items() if other != number]
            found[number] = min(choice, key=lambda each: each[0] + _covering(each[1].box, taken))[1]
        if found == before:
            break
    return list(found.values())


def _places(texts: Sequence[str], way: Way) -> Iterator[tuple[float, Label]]:
    """The places that a label may have, each with what is bad about it by itself."""
    middle = len(way.points) // 2
    for narrow, letters in enumerate(_WIDTHS):
        lines = tuple(line for text in texts for line in wrapped(text, letters, at=", "))
        height = LINE_HEIGHT * len(lines)
        for place in range(middle // 4, len(way.points) - middle // 4):
            x, y = way.points[place]
            tops = [y - _BESIDE - height, y + _BESIDE] if way.is_level else [y - height / 2]
            for beside, top in enumerate(reversed(tops) if way.side > 0 else tops):
                bad = _PER_WIDTH * narrow + _PER_STEP * abs(place - middle) + _PER_SIDE * beside
                yield bad, Label(lines=lines, x=x, top=top)


def _covering(box: Box, others: Iterable[Box]) -> float:
    wide = box.wider(_MARGIN)
    return sum(_COVERING + area for each in others if (area := wide.shared(each)))


def _crossing(box: Box, ways: Iterable[Way]) -> float:
    wide = box.wider(_MARGIN)
    near = (way for way in ways if wide.shared(way.extent))
    return _PER_LINK * sum(any(map(wide.holds, way.points)) for way in near)
