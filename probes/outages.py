"""Estimators of an outage: pure functions from probe samples to a duration with bounds.

What an outage is: from `start` to `end` the path or the guest is away. A probe that meets it is lost (a cut), or held
and answered once it is over (a freeze). Each estimator says what it takes for the outage, and `low_ns` and `high_ns`
such that the truth lies within. Where the time that answers take varies around an outage, as it does behind a queue
that others fill, the bounds are the wider for it; `resolution_ns` widens them further on both sides.

- `lost_frames`: the packet-loss method of RFC 6201 and RFC 6413: lost probes x period, over the whole window. Blind to
  outages that hold frames: where probes were held, only its upper bound knows of that.
- `time_stamp`: the timestamp method of RFC 6413: the longest run of probes that were lost or late.
- `answer_gap`: the longest time without an answer, less a period.
- `first_success`: from a known beginning until the first answer to a probe sent after it.
- `longest_answer`: the longest wait from the intended time of sending (no coordinated omission).
- `overtaken_frames`: probes that later ones overtook x period: what reordering is, and an outage is not.

An outage that is not over by the end of the samples, or was there from their beginning, has no upper bound
(`high_ns` is None, `censored` is True) and `outage_ns` is what was seen of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unnoticed.probes.packets import I64, Bool
from unnoticed.probes.samples import NEVER, Samples

_NO_ANSWER = np.int64((1 << 63) - 1)


@dataclass(frozen=True, kw_only=True)
class Outage:
    """One estimate."""

    estimator: str
    outage_ns: int
    low_ns: int
    high_ns: int | None
    start_ns: int | None  # None if there was no outage to place
    end_ns: int | None  # None also if it was not over
    censored: bool = False


def _outage(
    estimator: str,
    value: float,
    low: float,
    high: float | None,
    *,
    start: float | None = None,
    end: float | None = None,
    censored: bool = False,
    resolution_ns: int = 0,
) -> Outage:
    value_ns = max(round(value), 0)
    return Outage(
        estimator=estimator,
        outage_ns=value_ns,
        low_ns=min(max(int(low) - resolution_ns, 0), value_ns),
        high_ns=None if high is None else max(int(high) + resolution_ns, value_ns),
        start_ns=None if start is None else int(start),
        end_ns=None if end is None else int(end),
        censored=censored,
    )


def _runs(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """The maximal runs of True, as (first, one behind the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _overlapping(run: tuple[int, int], samples: Samples, from_ns: int, to_ns: int) -> bool:
    """Whether the time between the probes around a run meets the window."""
    first, behind = run
    begin = samples.sent_ns[max(first - 1, 0)]
    end = samples.sent_ns[min(behind, len(samples) - 1)]
    end = max(end, samples.answered_ns[first:behind].max())
    return bool(begin < to_ns and end > from_ns)


def lost_frames(samples: Samples, *, from_ns: int, to_ns: int, resolution_ns: int = 0) -> Outage:
    """Lost probes x period, of all runs of lost probes that meet the window [from_ns, to_ns).

    The bounds are the sums over the runs of: from the first lost to the last lost, and from the probe before to the
    probe after. With nothing lost, less than a gap between two probes can have been lost. An outage may as well have
    held probes, so the upper bound is that of the time-stamp method, if that has one and it is wider.
    """
    name, sent = "lost_frames", samples.sent_ns
    is_lost = samples.answered_ns == NEVER
    runs = [run for run in _runs(is_lost) if _overlapping(run, samples, from_ns, to_ns)]
    silences = _silences_ns(samples, usual_ns=usual_answer_ns(samples))
    held = _held(samples, silences, late_ns=samples.period_ns)
    lost = sum(behind - first for first, behind in runs)
    low = sum(int(sent[behind - 1] - sent[first]) for first, behind in runs)
    censored = bool(runs) and (runs[0][0] == 0 or runs[-1][1] == len(samples))
    high = _longest_gap(samples, from_ns, to_ns)
    if runs:
        high = sum(int(sent[min(behind, len(sent) - 1)] - sent[max(first - 1, 0)]) for first, behind in runs)
    longest = time_stamp(samples, from_ns=from_ns, to_ns=to_ns).high_ns
    high = high if longest is None or high is None else max(high, longest)
    return _outage(
        name,
        lost * samples.period_ns,
        low,
        None if censored else high,
        start=sent[runs[0][0]] if runs else None,
        end=None if not runs or runs[-1][1] == len(samples) else sent[runs[-1][1]],
        censored=censored,
        resolution_ns=resolution_ns * max(len(runs), 1)
        + sum(_variation_ns(samples, ~(is_lost | held), run) for run in runs),
    )


def _longest_gap(samples: Samples, from_ns: int, to_ns: int) -> int | None:
    """The longest time between two probes sent one after the other, of those that meet the window."""
    if len(samples) < 2:
        return None
    meets = (samples.sent_ns[:-1] < to_ns) & (samples.sent_ns[1:] > from_ns)
    return int(np.diff(samples.sent_ns)[meets].max()) if meets.any() else None


def usual_answer_ns(samples: Samples) -> int:
    """The median time an answer takes, of those at most a period slower than the lower quartile; 0 without any.

    Of all answers it would be a held one's wait where a long outage holds more than half of the probes.
    """
    answered = samples.answered_ns != NEVER
    if not answered.any():
        return 0
    took = (samples.answered_ns - samples.sent_ns)[answered]
    return int(np.median(took[took <= np.quantile(took, 0.25) + samples.period_ns]))


def time_stamp(
    samples: Samples, *, from_ns: int, to_ns: int, late_ns: int | None = None, resolution_ns: int = 0
) -> Outage:
    """The longest outage that meets the window [from_ns, to_ns), by the times of sending around it.

    A run of probes, each lost or held, is an outage. Held is a probe answered `late_ns` (default: one period) later
    than usual after nothing at all was answered for that long: where others' answers came in the meantime, the path
    was there, and the probe only stood in a queue. The outage began between the last probe before the run and the first
    in it: half-way is the estimate. It ended between the last lost probe and the next one answered in time (or what
    that one waited longer than usual), half-way again; but no later than the first held answer of the run left the
    other end, and then if the run has one. For lost probes sent regularly, this is the gap between the send times of
    the answered ones around, less the period. Without a run it is the longest silence in which an answer was due.

    Nothing is answered in an outage, but for what stands in a queue on the way back. So a run in which answers came
    all along, as behind a full queue that drops most probes and holds the others, is several outages, of which the
    longest lies in the longest time between two answers (RFC 6413, section 2.3.3, by the times of arrival).
    """
    name = "time_stamp"
    usual = usual_answer_ns(samples)
    lost = samples.answered_ns == NEVER
    silences = _silences_ns(samples, usual_ns=usual)
    held = _held(samples, silences, late_ns=samples.period_ns if late_ns is None else late_ns)
    found = [
        _time_stamp_of_run(samples, run, silences, usual=usual, good=~(lost | held), resolution_ns=resolution_ns)
        for run in _runs(lost | held)
        if _overlapping(run, samples, from_ns, to_ns)
    ]
    if found:
        longest = max(found, key=lambda outage: outage.outage_ns)
        return _without_answers_within(samples, longest)
    meets = np.flatnonzero((samples.sent_ns < to_ns) & (samples.answered_ns > from_ns))
    if len(meets) < 2:
        return _outage(name, 0, 0, None, censored=True)
    worst = int(meets[np.argmax(silences[meets])])
    # An outage between two probes, or one that held a probe for less than late_ns, does not show. Nothing is answered
    # while it lasts, except what stands in a queue on the way back.
    first, behind = int(meets[0]), int(meets[-1]) + 1
    quiet = np.diff(np.sort(samples.answered_ns[max(first - 1, 0) : behind + 1]))
    took = (samples.answered_ns - samples.sent_ns)[~lost]
    queued = int(np.sort((samples.answered_ns - samples.sent_ns)[meets])[-2] - took.min())  # all but the worst
    high = max(int(quiet.max()), _longest_gap(samples, from_ns, to_ns) or 0) + queued
    start, end = samples.sent_ns[worst], samples.answered_ns[worst]
    return _outage(name, int(silences[worst]), 0, high, start=start, end=end, resolution_ns=resolution_ns)


def _held(samples: Samples, silences: I64, *, late_ns: int) -> Bool:
    """Which probes waited through a silence of more than `late_ns`, or more where answers come less regularly."""
    arrivals = np.sort(samples.answered_ns[samples.answered_ns != NEVER])
    if len(arrivals) > 1:
        late_ns = max(late_ns, int(np.quantile(np.diff(arrivals), 0.99)))
    held: Bool = silences > late_ns
    return held


def _silences_ns(samples: Samples, *, usual_ns: int) -> I64:
    """For each probe: the longest time without any answer between when its own was due and when it came; 0 if lost."""
    arrivals = np.sort(samples.answered_ns[samples.answered_ns != NEVER])
    due = samples.sent_ns + usual_ns
    wait = samples.answered_ns - due
    silences = np.zeros(len(samples), np.int64)
    first = np.searchsorted(arrivals, due, side="right")
    behind = np.searchsorted(arrivals, samples.answered_ns, side="left")
    alone = (samples.answered_ns != NEVER) & (wait > 0)
    silences[alone & (behind <= first)] = wait[alone & (behind <= first)]
    for k in np.flatnonzero(alone & (behind > first)):
        between = np.concatenate([due[k : k + 1], arrivals[first[k] : behind[k]], samples.answered_ns[k : k + 1]])
        silences[k] = np.diff(between).max()
    return silences


_AROUND = 1000  # probes on each side of an outage that tell how much the time of an answer varies there
_AT_ITS_END = 2  # probes that it may have held too, but for less than what counts


def _variation_ns(samples: Samples, good: Bool, run: tuple[int, int]) -> int:
    """By how much the answers around a run differ in the time they took, those of `good` probes, from the fastest."""
    took = samples.answered_ns - samples.sent_ns
    if not good.any():
        return 0
    behind = run[1] + _AT_ITS_END
    near = np.concatenate([np.flatnonzero(good[: run[0]])[-_AROUND:], behind + np.flatnonzero(good[behind:])[:_AROUND]])
    return int(took[near].max() - took[good].min()) if len(near) else 0


def _released_ns(samples: Samples, run: tuple[int, int], silences: I64) -> int | None:
    """When the first probe was answered that the outage of a run held; None when it held none.

    A probe beside it that waited through a far shorter silence, in a queue before the outage say, tells nothing of its
    end.
    """
    answered = samples.answered_ns[slice(*run)]
    waited = np.where(answered == NEVER, 0, silences[slice(*run)])
    return int(answered[waited * 2 >= waited.max()].min()) if waited.any() else None


def _without_answered_before(samples: Samples, run: tuple[int, int], came_ns: int) -> tuple[int, int]:
    """The run without those at its beginning that were answered before what the outage held: it had not yet begun."""
    first, behind = run
    while NEVER < samples.answered_ns[first] < came_ns:
        first += 1
    return first, behind


def _time_stamp_of_run(
    samples: Samples, run: tuple[int, int], silences: I64, *, usual: int, good: Bool, resolution_ns: int
) -> Outage:
    came = _released_ns(samples, run, silences)
    if came is not None:
        run = _without_answered_before(samples, run, came)
    first, behind = run
    sent, answered = samples.sent_ns, samples.answered_ns
    known_start, known_end = first > 0, behind < len(samples)
    lost_in_run = np.flatnonzero(answered[first:behind] == NEVER) + first
    start_low = start_high = float(sent[first])
    if known_start:
        start_low = float(sent[first - 1])
    end_low = float(sent[lost_in_run[-1]]) if len(lost_in_run) else start_high
    # The first probe answered in time may have been held too, for less than it takes to count as late.
    end_high = max(float(sent[behind]), float(answered[behind] - usual)) if known_end else None
    # The first probe lost may have got to the gate late, and so may the first one through, or its answer back.
    late = _variation_ns(samples, good, run)
    if came is not None:
        # What was held left when the outage was over: the first held answer says when.
        released = float(came - usual)
        end_high = released if end_high is None else min(end_high, released)
        end_low = max(end_low, released - late) if end_low <= released else end_low
        known_end = True
        end_high = max(end_high, end_low)
    end_middle = end_low if end_high is None else (end_low + end_high) / 2
    if came is not None and end_high is not None:
        end_middle = end_high  # an answer that took as long as they do tells it; that it took longer is only possible
    start_middle = (start_low + start_high) / 2
    censored = not (known_start and known_end)
    return _outage(
        "time_stamp",
        end_middle - start_middle,
        end_low - start_high - late,
        None if censored or end_high is None else end_high - start_low + late,
        start=start_middle,
        end=end_middle if known_end else None,
        censored=censored,
        resolution_ns=resolution_ns,
    )


def _without_answers_within(samples: Samples, outage: Outage) -> Outage:
    """The outage itself; where answers came all along, the longest time without one in it."""
    if outage.start_ns is None or outage.end_ns is None:
        return outage
    gap = answer_gap(samples, from_ns=outage.start_ns, to_ns=outage.end_ns)
    if gap.high_ns is None or outage.low_ns <= gap.high_ns:
        return outage
    return replace(gap, estimator=outage.estimator)


def answer_gap(samples: Samples, *, from_ns: int, to_ns: int, resolution_ns: int = 0) -> Outage:
    """The longest time between two answers that meets the window [from_ns, to_ns), less one period.

    Low: a cut begins up to one gap of sending after the last probe that came through, and ends up to one before the
    next. High: all of it. Needs no record of what was sent but the two gaps.
    """
    name = "answer_gap"
    if len(samples) == 0:
        return _outage(name, 0, 0, None, censored=True)
    good = samples.answered_ns != NEVER
    answered = np.flatnonzero(good)
    order = answered[np.argsort(samples.answered_ns[answered], kind="stable")]
    times = samples.answered_ns[order]
    last_sent = int(samples.sent_ns[-1])
    candidates = [
        _outage(
            name,
            times[k + 1] - times[k] - samples.period_ns,
            times[k + 1]
            - times[k]
            - _gap_after(samples, int(order[k]))
            - _gap_before(samples, int(order[k + 1]))
            - late,
            times[k + 1] - times[k],
            start=times[k],
            end=times[k + 1],
            resolution_ns=resolution_ns + late,
        )
        for k in _longest_answer_gaps(times, from_ns, to_ns)
        for late in [
            _variation_ns(samples, good, (int(order[k]) + 1, int(np.searchsorted(samples.sent_ns, times[k + 1]))))
        ]
    ]
    # The end of the samples is an answer that was never seen.
    if len(times) == 0 or (samples.answered_ns[-1] == NEVER and last_sent >= from_ns):
        start = int(times[-1]) if len(times) else int(samples.sent_ns[0])
        gap = last_sent - start
        candidates.append(_outage(name, gap, gap - 2 * samples.period_ns, None, start=start, censored=True))
    if not candidates:
        return _outage(name, 0, 0, None, censored=True)
    return max(candidates, key=lambda outage: outage.outage_ns)


def _longest_answer_gaps(times: I64, from_ns: int, to_ns: int) -> list[int]:
    gaps = np.where((times[:-1] < to_ns) & (times[1:] > from_ns), np.diff(times), -1)
    return [int(gaps.argmax())] if len(gaps) and gaps.max() >= 0 else []


def _gap_after(samples: Samples, k: int) -> int:
    return int(samples.sent_ns[k + 1] - samples.sent_ns[k]) if k + 1 < len(samples) else samples.period_ns


def _gap_before(samples: Samples, k: int) -> int:
    return int(samples.sent_ns[k] - samples.sent_ns[k - 1]) if k > 0 else samples.period_ns


def first_success(samples: Samples, *, from_ns: int, resolution_ns: int = 0) -> Outage:
    """From `from_ns`, when the outage is known to have begun, to the first answer to a probe sent since.

    Also for new connections, with `sent_ns` and `answered_ns` those of the attempts. The way back is in the value: the
    end of the outage lies between the last probe lost before that answer, and the answer.
    """
    name = "first_success"
    since = np.flatnonzero(samples.sent_ns >= from_ns)
    answered = since[samples.answered_ns[since] != NEVER]
    if len(answered) == 0:
        last = int(samples.sent_ns[since[-1]]) if len(since) else from_ns
        return _outage(name, last - from_ns, last - from_ns, None, start=from_ns, censored=True)
    end = int(samples.answered_ns[answered].min())
    failed = since[(samples.answered_ns[since] == NEVER) & (samples.sent_ns[since] < end)]
    # An unanswered probe sent after the one that was answered first was lost for another reason.
    failed = failed[samples.sent_ns[failed] < samples.sent_ns[answered].min()]
    low = int(samples.sent_ns[failed].max()) - from_ns if len(failed) else 0
    return _outage(name, end - from_ns, low, end - from_ns, start=from_ns, end=end, resolution_ns=resolution_ns)


def overtaken_frames(samples: Samples, *, from_ns: int, to_ns: int) -> Outage:
    """Probes sent in [from_ns, to_ns) that were answered after one sent later, x period (RFC 4737, type P reordered).

    At most as many more were late as took a period longer than usual and had nobody behind them in that time.
    """
    answered = samples.answered_ns != NEVER
    soonest_behind = np.full(len(samples), _NO_ANSWER)
    soonest = np.minimum.accumulate(np.where(answered, samples.answered_ns, _NO_ANSWER)[::-1])[::-1]
    soonest_behind[:-1] = soonest[1:]
    asked = answered & (samples.sent_ns >= from_ns) & (samples.sent_ns < to_ns)
    overtaken = asked & (samples.answered_ns > soonest_behind)
    slow = samples.answered_ns - samples.sent_ns > usual_answer_ns(samples) + samples.period_ns
    count, unclear = int(overtaken.sum()), int((asked & slow & ~overtaken).sum())
    which = np.flatnonzero(overtaken)
    return _outage(
        "overtaken_frames",
        count * samples.period_ns,
        count * samples.period_ns,
        (count + unclear) * samples.period_ns,
        start=samples.sent_ns[which[0]] if count else None,
        end=samples.answered_ns[which[-1]] if count else None,
    )


def longest_answer(samples: Samples, *, from_ns: int, to_ns: int) -> Outage:
    """The longest wait for an answer of the probes or requests meant for [from_ns, to_ns), from when they were meant.

    What a user waits. TCP rounds an outage up to its retransmission schedule: nothing bounds the outage from below.
    """
    name = "longest_answer"
    meant = np.flatnonzero((samples.intended_ns >= from_ns) & (samples.intended_ns < to_ns))
    if len(meant) == 0:
        return _outage(name, 0, 0, None, censored=True)
    lost = samples.answered_ns[meant] == NEVER
    wait = np.where(lost, 0, samples.answered_ns[meant] - samples.intended_ns[meant])
    k = int(wait.argmax())
    start = int(samples.intended_ns[meant[k]])
    if lost.any():
        # Those without an answer waited at least until the last thing known to have happened.
        first_lost = int(samples.intended_ns[meant[lost]].min())
        seen = max(int(samples.answered_ns.max()), int(samples.sent_ns.max())) - first_lost
        return _outage(name, max(seen, int(wait[k])), 0, None, start=first_lost, censored=True)
    return _outage(name, int(wait[k]), 0, int(wait[k]) + samples.period_ns, start=start, end=start + int(wait[k]))
