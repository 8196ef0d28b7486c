"""One direction of a link: its rate and queue, and what else befalls the frames in it. And how links are named. Pure.

The words are those of netem (tc-netem(8)). A frame waits in the queue for its turn at the rate, may then be lost, and
arrives `delay_ns` after it was sent, give or take `jitter_ns`, evenly spread. Jitter keeps the order of the frames; a
share `reorder_ppm` of them does not wait for the delay and so overtakes others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unnoticed.errors import PlanError
from unnoticed.topology.shaping import Shaping

WHOLE_PPM = 1_000_000
_LONGEST_DELAY_NS = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What one direction of a link is asked to be. Raises PlanError where a value cannot be."""

    rate_bit_per_s: int | None = 1_000_000_000  # in Ethernet frames; None: unshaped
    queue_ns: int = 10_000_000  # length of the queue, as time at the rate; no effect when unshaped
    delay_ns: int = 0
    jitter_ns: int = 0
    loss_ppm: int = 0
    reorder_ppm: int = 0
    duplicate_ppm: int = 0

    def __post_init__(self) -> None:
        problems: list[str] = []
        try:
            _ = self.shaping
        except PlanError as error:
            problems += error.problems
        problems += [
            f"A share of frames must be 0 % to 100 %, not {getattr(self, name)} ppm ({name.removesuffix('_ppm')})."
            for name in ("loss_ppm", "reorder_ppm", "duplicate_ppm")
            if not 0 <= getattr(self, name) <= WHOLE_PPM
        ]
        if self.delay_ns > _LONGEST_DELAY_NS:
            problems.append(f"A delay must be at most {_LONGEST_DELAY_NS / 1e9:g} s, not {self.delay_ns / 1e9:g} s.")
        if not 0 <= self.jitter_ns <= self.delay_ns:
            problems.append(
                f"A jitter of {self.jitter_ns / 1e6:g} ms needs a delay of at least as much, not of "
                f"{self.delay_ns / 1e6:g} ms."
            )
        if self.reorder_ppm and not self.delay_ns:
            problems.append("Frames can overtake others only on a link with a delay: give it one, or no reordering.")
        if problems:
            raise PlanError(*problems)

    @property
    def shaping(self) -> Shaping | None:
        """Rate and queue; None where there is no rate."""
        if self.rate_bit_per_s is None:
            return None
        return Shaping(rate_bit_per_s=self.rate_bit_per_s, queue_ns=self.queue_ns)

    @property
    def is_impaired(self) -> bool:
        """Whether more befalls frames than to wait for their turn."""
        return self.loss_ppm > 0 or self.needs_holding

    @property
    def needs_holding(self) -> bool:
        """Whether frames must be held or repeated, which not every kernel can do."""
        return self.delay_ns > 0 or self.duplicate_ppm > 0


@dataclass(frozen=True, kw_only=True)
class LinkChange:
    """What differs on some links: `link` says on which ("s1-s2", or one way "s1>s2"); None leaves a value as it is.

    The two parts are names of nodes, or a kind of them: clients, hosts, switches, routers, control. `number` is that of
    the one link that is meant, both ways: two nodes may have several links, and then their names do not tell which.
    """

    link: str
    number: int | None = None
    rate_bit_per_s: int | None = None
    queue_ns: int | None = None
    delay_ns: int | None = None
    jitter_ns: int | None = None
    loss_ppm: int | None = None
    reorder_ppm: int | None = None
    duplicate_ppm: int | None = None

    def applied(self, direction: Direction) -> Direction:
        """The direction with this change. Raises PlanError where a value cannot be."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(Direction)}
        return dataclasses.replace(direction, **{name: value for name, value in given.items() if value is not None})

    def meant(self, pairs: Sequence[tuple[str, str]], kinds: Mapping[str, str]) -> set[tuple[int, bool]]:
        """Which directions of the links `pairs` this concerns, as `select` has it."""
        if self.number is None:
            return select(self.link, pairs, kinds)
        return {(self.number, True), (self.number, False)}


def readings(link: str) -> Iterator[tuple[str, str, bool]]:
    """How the name of a link can be understood: its two parts and whether both directions are meant.

    More than one where the name of a node has a dash.
    """
    if ">" in link:
        one, _, other = link.partition(">")
        if one.strip() and other.strip() and ">" not in other:
            yield one.strip(), other.strip(), False
        return
    words = link.split("-")
    for cut in range(1, len(words)):
        one, other = "-".join(words[:cut]).strip(), "-".join(words[cut:]).strip()
        if one and other:
            yield one, other, True


def select(link: str, pairs: Sequence[tuple[str, str]], kinds: Mapping[str, str]) -> set[tuple[int, bool]]:
    """Which directions of the links `pairs` (their two nodes) are meant, as (number of the link, from its first node).

    `kinds`: what each node is, if anything ("clients", "switches"). A word that a node is called by means that node,
    and no kind. Empty if none is meant.
    """
    called = {node for pair in pairs for node in pair}

    def is_meant(part: str, node: str) -> bool:
        return part == node if part in called else part == kinds.get(node)

    found: set[tuple[int, bool]] = set()
    for one, other, both in readings(link):
        for number, (first, second) in enumerate(pairs):
            there = is_meant(one, first) and is_meant(other, second)
            back = is_meant(one, second) and is_meant(other, first)
            found |= {(number, True)} if there or (both and back) else set()
            found |= {(number, False)} if back or (both and there) else set()
    return found


Pair = tuple[str, str]
Both = tuple[Direction, Direction]  # what a link is asked to be, from its first node and from its second


def directions(
    pairs: Sequence[Pair], *, base: Direction, changes: Iterable[LinkChange], kinds: Mapping[str, str]
) -> list[Both]:
    """What each link is asked to be; later changes are laid over earlier.

    Raises PlanError with a sentence for each change that concerns no link, or cannot be.
    """
    asked = [(base, base) for _ in pairs]
    states = _all_states(pairs, asked, changes=changes, named=(), kinds=kinds)
    return [(there[-1], back[-1]) for there, back in states]


def futures(
    pairs: Sequence[Pair],
    asked: Sequence[Both],
    *,
    later: Iterable[LinkChange],
    cut: Iterable[str],
    kinds: Mapping[str, str],
) -> list[tuple[list[Direction], list[Direction]]]:
    """All that each direction of each link will be, one after the other, if `later` is asked of it in that order.

    `cut`: links that will be cut, in both directions. Raises PlanError with a sentence for each that is no link, or
    cannot be.
    """
    return _all_states(pairs, asked, changes=later, named=cut, kinds=kinds)


def _all_states(
    pairs: Sequence[Pair],
    asked: Sequence[Both],
    *,
    changes: Iterable[LinkChange],
    named: Iterable[str],
    kinds: Mapping[str, str],
) -> list[tuple[list[Direction], list[Direction]]]:
    states = [([there], [back]) for there, back in asked]
    problems: list[str] = []

    def known(link: str, found: set[tuple[int, bool]]) -> list[tuple[int, bool]]:
        if not found:
            problems.append(no_such_link(link, pairs))
        return sorted(found)

    for change in changes:
        for number, there in known(change.link, change.meant(pairs, kinds)):
            line = states[number][0 if there else 1]
            try:
                line.append(change.applied(line[-1]))
            except PlanError as error:
                problems += [f"The link {change.link}: {problem}" for problem in error.problems]
    for link in named:
        known(link, select(link, pairs, kinds))
        problems += [f"The link {link}: {problem}" for problem in cut_problems(link)]
    if problems:
        raise PlanError(*dict.fromkeys(problems))
    return states


def cut_problems(link: str) -> list[str]:
    """Why a link cannot be cut by this name: a cable that is pulled carries nothing in either direction."""
    one_way = [(one, other) for one, other, both in readings(link) if not both]
    return [
        f'"{one}>{other}" is one direction, and a cut takes both: cut "{one}-{other}", or give "{one}>{other}" '
        "a loss of 100 %."
        for one, other in one_way
    ]


def no_such_link(link: str, pairs: Sequence[Pair]) -> str:
    """The sentence for a link that a fabric does not have."""
    known = ", ".join(f"{one}-{other}" for one, other in pairs)
    return f"The fabric has no link {link!r}; its links are {known}."
