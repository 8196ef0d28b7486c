"""How others measure the downtime of a live migration: their rules, applied to what our own probes know of the path.

Each rule is a pure function from an `Availability`, and the instant of its first probe, to the one figure that the
method would have reported. It sends its own probe train, with its own period and time-out, over the whole record: the
projects do not look at the migration alone either. Where a method's phase against the outage is chance (always), its
figure is: `figures` gives it for many phases.

Facts, by the projects' own sources as read in 2026:

- tempest (OpenStack), `NetDowntimeMeter`: `ping -i 0.2` in the background; at the end, pings sent less pings answered
  (by SIGQUIT), x 0.2 s. A late answer is an answer.
- yardstick (OPNFV), `scenarios/lib/migrate.py`: one echo after another, each waited for 0.05 s, with 0.01 s of sleep
  between; those without an answer x 0.06 s.
- xenrt (XenServer), `TCTimeVMMigrateDowntime`: `ping -i 0.1`; at the first answer whose number is not the count of
  answers so far, the difference x 0.1 s. Later losses are not looked at; without any loss it waits for ever.
- mig_mon (Peter Xu), `client` and `server`: a datagram every 50 ms to a server in the guest, which prints the longest
  time between two arrivals in whole milliseconds; its spike log has those of at least twice the first such time.
- ping as it is called by hand: 1 s, lost x 1 s.
- fping -p 10 -o: its own account of the outage, lost x period, where an answer after a period counts as lost.
- iperf3 -u at 1 kHz: lost datagrams, as its server counts them, x 1 ms (what scripts around it do). It counts numbers
  that an arrival has skipped: what is lost after the last arrival is in no figure (3.12, by trying).
- sockperf, UDP ping-pong at 1 kHz: its maximum. A datagram without an answer stops it, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unnoticed.probes.availability import Availability
from unnoticed.probes.packets import I64
from unnoticed.probes.samples import NEVER

_MS, _S = 1_000_000, 1_000_000_000
PHASES = 100

Figure = int | None  # nanoseconds; None where the method reports nothing
Rule = Callable[[Availability, int], Figure]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One published method. `period_ns`: what its phase is taken from. `rule`, `why`: a few words for a table."""

    name: str
    rule: str
    why: str
    period_ns: int
    report: Rule
    needs_answers: bool = False  # it sees an outage only by the answer that ends it


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a method reports, over the phases of its train, in the order of the phase. `guessed`: see Availability."""

    figures: tuple[Figure, ...]
    guessed: float  # share of its probes whose fate is a guess, 0 to 1

    @property
    def known(self) -> list[int]:
        """The figures that there are, in order of size."""
        return sorted(figure for figure in self.figures if figure is not None)

    @property
    def silent(self) -> float:
        """The share of phases in which it reports nothing at all."""
        return 1 - len(self.known) / len(self.figures) if self.figures else 1.0

    @property
    def median_ns(self) -> Figure:
        """A figure that it does report: the lower one of the middle two."""
        known = self.known
        return known[(len(known) - 1) // 2] if known else None


# -- the rules -------------------------------------------------------------------------------------------------------


def train(path: Availability, first_ns: int, period_ns: int) -> I64:
    """The instants of a regular train from its first probe to the end of the record."""
    return np.arange(first_ns, path.to_ns + 1, period_ns, dtype=np.int64)


def lost_times_interval(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """Unanswered probes x period: tempest at 0.2 s, ping by hand at 1 s. Late answers count as answers."""
    answers = path.answered_ns(train(path, first_ns, period_ns))
    return int((answers == NEVER).sum()) * period_ns


def skipped_times_interval(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """iperf3: datagrams that did not arrive although a later one did, x period. None where none arrived."""
    arrived = np.flatnonzero(path.answered_ns(train(path, first_ns, period_ns)) != NEVER)
    return int(arrived[-1] + 1 - len(arrived)) * period_ns if len(arrived) else None


def late_times_interval(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """fping: the same, but an answer that takes longer than a period counts as none."""
    sent = train(path, first_ns, period_ns)
    answers = path.answered_ns(sent)
    return int(((answers == NEVER) | (answers - sent > period_ns)).sum()) * period_ns


def ping_pong(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """sockperf: the longest round trip until the first loss, after which it waits for ever. None without any."""
    longest_ns, now_ns = None, first_ns
    for due_ns in train(path, first_ns, period_ns).tolist():
        if due_ns < now_ns:  # it was waiting then: what was due meanwhile is not sent
            continue
        now_ns = path.answer_ns(due_ns)
        if now_ns == NEVER:
            return longest_ns
        longest_ns = max(longest_ns or 0, now_ns - due_ns)
    return longest_ns


def yardstick(path: Availability, first_ns: int) -> Figure:
    """Echoes one after another, 50 ms of waiting and 10 ms of sleep; unanswered in time x 60 ms."""
    wait_ns, sleep_ns = 50 * _MS, 10 * _MS
    now_ns, lost = first_ns, 0
    while now_ns <= path.to_ns:
        answer_ns = path.answer_ns(now_ns)
        in_time = answer_ns != NEVER and answer_ns - now_ns <= wait_ns
        lost += not in_time
        now_ns = (answer_ns if in_time else now_ns + wait_ns) + sleep_ns
    return lost * (wait_ns + sleep_ns)


def first_gap_in_numbers(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """xenrt: how many numbers the first answer out of count has skipped, x period; None if none ever does."""
    answers = path.answered_ns(train(path, first_ns, period_ns))
    numbers = np.flatnonzero(answers != NEVER)
    numbers = numbers[np.argsort(answers[numbers], kind="stable")]
    skipped = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(skipped) == 0:
        return None
    return int(numbers[skipped[0]] - skipped[0]) * period_ns


def _arrival_gaps_ms(path: Availability, first_ns: int, period_ns: int) -> I64:
    answers = path.answered_ns(train(path, first_ns, period_ns))
    # The way back is in these times, and about the same in all: the gaps are those at the server.
    gaps: I64 = np.diff(np.sort(answers[answers != NEVER]) // _MS)
    return gaps


def longest_arrival_gap(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """mig_mon: the longest time between two arrivals, whole milliseconds, the first gap left out. None without two."""
    gaps = _arrival_gaps_ms(path, first_ns, period_ns)
    return int(gaps[1:].max()) * _MS if len(gaps) > 1 else None


def longest_spike(path: Availability, first_ns: int, *, period_ns: int) -> Figure:
    """mig_mon's spike log: the longest of the gaps of at least twice the first one; 0 if none is. None without two."""
    gaps = _arrival_gaps_ms(path, first_ns, period_ns)
    if len(gaps) < 2:
        return None
    spikes = gaps[1:][gaps[1:] >= 2 * gaps[0]]
    return int(spikes.max()) * _MS if len(spikes) else 0


# -- all of them -----------------------------------------------------------------------------------------------------


def _every(rule: Callable[..., Figure], period_ns: int) -> Rule:
    return lambda path, first_ns: rule(path, first_ns, period_ns=period_ns)


METHODS: tuple[Method, ...] = (
    Method(
        name="ping, 1 s",
        rule="lost pings x 1 s",
        why="steps of 1 s: sees an outage in proportion to its length, or not at all",
        period_ns=_S,
        report=_every(lost_times_interval, _S),
    ),
    Method(
        name="tempest",
        rule="ping -i 0.2, lost x 0.2 s",
        why="steps of 200 ms; losses of the whole test are summed, late answers count as fine",
        period_ns=200 * _MS,
        report=_every(lost_times_interval, 200 * _MS),
    ),
    Method(
        name="xenrt",
        rule="ping -i 0.1, first gap in the numbers x 0.1 s",
        why="steps of 100 ms; only the first gap counts, whatever caused it; says nothing where none is lost",
        period_ns=100 * _MS,
        report=_every(first_gap_in_numbers, 100 * _MS),
        needs_answers=True,
    ),
    Method(
        name="yardstick",
        rule="echo, 50 ms time-out, 10 ms sleep, lost x 0.06 s",
        why="steps of 60 ms; an answer after 50 ms counts as lost, sums over the whole test",
        period_ns=10 * _MS,
        report=yardstick,
    ),
    Method(
        name="mig_mon, longest gap",
        rule="UDP every 50 ms, longest time between arrivals",
        why="the period is in the figure: reads 50 ms where nothing happens",
        period_ns=50 * _MS,
        report=_every(longest_arrival_gap, 50 * _MS),
        needs_answers=True,
    ),
    Method(
        name="mig_mon, spike log",
        rule="gaps of at least twice the first",
        why="below two periods there is no entry; one lost packet makes one or none, by a millisecond",
        period_ns=50 * _MS,
        report=_every(longest_spike, 50 * _MS),
        needs_answers=True,
    ),
    Method(
        name="fping, 10 ms",
        rule="fping -p 10 -o: lost pings x 10 ms",
        why="steps of 10 ms; sums every loss of the test, and every answer later than 10 ms",
        period_ns=10 * _MS,
        report=_every(late_times_interval, 10 * _MS),
    ),
    Method(
        name="iperf3 -u, 1 kHz",
        rule="lost datagrams x 1 ms",
        why="fine steps, but sums every loss of the test, misses frames that were held and an outage that is not over",
        period_ns=_MS,
        report=_every(skipped_times_interval, _MS),
    ),
    Method(
        name="sockperf, 1 kHz",
        rule="UDP ping-pong, longest round trip",
        why="stops for good at the first lost datagram, and leaves that wait out of its maximum",
        period_ns=_MS,
        report=_every(ping_pong, _MS),
    ),
)


def figures(method: Method, path: Availability, *, phases: int = PHASES) -> Reported:
    """What the method reports, for phases spread evenly over its period. Nothing where nothing was recorded."""
    if len(path.samples) == 0:
        return Reported(figures=(), guessed=0.0)
    starts = [path.from_ns + k * method.period_ns // phases for k in range(phases)]
    sent = train(path, path.from_ns, method.period_ns)
    return Reported(
        figures=tuple(method.report(path, start) for start in starts),
        guessed=float(path.is_guess(sent).mean()),
    )


def of_names(names: Sequence[str]) -> list[Method]:
    """The methods of these names, in that order. Raises KeyError."""
    known = {method.name: method for method in METHODS}
    return [known[name] for name in names]
