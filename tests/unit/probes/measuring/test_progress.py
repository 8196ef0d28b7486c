"""Stalls of a TCP direction and the outage behind them, on a model of a sender whose path goes away at known times."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unnoticed.probes.byte_stream import byte_stream
from unnoticed.probes.packets import ACK, FIN, RST, SYN
from unnoticed.probes.progress import closed_windows, longest_stall
from unnoticed.probes.tcp_flows import split_flows

MS = 1_000_000
SIZE = 100


def stall_of(trace, **more):
    packets = trace.table()
    rows = next(rows for rows in split_flows(packets) if rows.flow.local_port == 40000)
    return longest_stall(byte_stream(packets, rows), last_ns=int(packets.time_ns[-1]), **more)


def test_a_stall_lasts_from_the_last_progress_to_the_next_while_something_was_outstanding(trace):
    one = trace().send(0, 100).hear(100, after_ns=5 * MS).send(100, 100, after_ns=900 * MS)
    one.send(100, 100, after_ns=250 * MS).hear(200, after_ns=5 * MS)
    stall = stall_of(one)
    assert stall.duration_ns == 255 * MS
    assert stall.end_ns - stall.start_ns == 255 * MS
    assert stall.low_ns == 0  # one frame was lost: that needs no outage
    # From when the frame was sent that arrived at last, until the answer to the next one that did.
    assert stall.high_ns == (5 + 900 + 255) * MS


def test_a_time_in_which_nothing_was_outstanding_is_no_stall(trace):
    one = trace().send(0, 100).hear(100, after_ns=2 * MS).send(100, 100, after_ns=5000 * MS).hear(200, after_ns=3 * MS)
    assert stall_of(one).duration_ns == 3 * MS


def test_what_was_never_answered_is_a_stall_without_an_end(trace):
    one = trace().send(0, 100).hear(100, after_ns=5 * MS).send(100, 100, after_ns=10 * MS)
    for wait in (200, 400, 800):
        one.send(100, 100, after_ns=wait * MS)
    stall = stall_of(one)
    assert (stall.end_ns, stall.high_ns) == (None, None)
    assert stall.duration_ns == 1400 * MS
    assert 1390 * MS - 800 * MS <= stall.low_ns <= 1400 * MS


def test_after_a_reset_nothing_is_due(trace):
    one = trace().send(0, 100).hear(100, after_ns=5 * MS).send(100, 100, after_ns=10 * MS)
    one.send(100, 100, after_ns=800 * MS).hear(100, flags=RST | ACK)
    assert stall_of(one, reset=True).duration_ns == 5 * MS


def test_a_syn_that_is_sent_again_stalls_from_the_first_and_has_no_upper_bound(trace):
    one = trace().send(0, 0, flags=SYN).send(0, 0, flags=SYN, after_ns=1000 * MS)
    one.hear(1, flags=SYN | ACK, after_ns=5 * MS).send(1, 100).hear(101, after_ns=5 * MS)
    stall = stall_of(one)
    assert stall.duration_ns == 1005 * MS
    assert stall.high_ns is None  # the path may have been away before it was asked for
    assert stall.end_ns is not None


def test_a_closed_window_is_the_receivers_will_and_no_stall(trace):
    one = trace().send(0, 100).hear(100, after_ns=5 * MS).send(100, 100).hear(150, after_ns=6 * MS, window=0)
    one.hear(200, after_ns=3000 * MS, window=500).send(200, 10, flags=ACK | FIN).hear(211, after_ns=4 * MS)
    packets = one.table()
    (rows,) = (rows for rows in split_flows(packets) if rows.flow.local_port == 40000)
    stream = byte_stream(packets, rows)
    assert stall_of(one).duration_ns == 6 * MS
    assert [window.duration_ns for window in closed_windows(stream, last_ns=0)] == [3000 * MS]


def test_a_direction_without_data_or_without_answers_has_no_stall(trace):
    assert stall_of(trace().send(0, 0).hear(0).send(0, 0)) is None
    assert stall_of(trace().send(0, 100).send(100, 100)) is None


class Model:
    """A sender of a segment each millisecond, with SACK, timeouts of 200 ms doubled, and recovery by answers."""

    def __init__(self, *, delay_us, begin_us, length_us, what, jitter):
        self.delay, self.begin, self.end, self.what, self.jitter = (
            delay_us,
            begin_us,
            begin_us + length_us,
            what,
            jitter,
        )
        self.events, self.log, self.number = [], [], 0

    def through(self, now, way):
        """When a frame arrives that enters the path now; None if it is lost."""
        passed = now + self.delay // 2 + self.jitter[self.number % len(self.jitter)]
        self.number += 1
        if self.begin <= passed < self.end and self.what in ("cut", way, "freeze"):
            if self.what != "freeze":
                return None
            passed = self.end
        return passed + self.delay // 2

    def run(self, *, count, until_us):
        received, arrivals, answers = set(), [], []
        una, top, timeout, timer = 0, 0, 200_000, None
        lost_below = 0  # recovery: what was outstanding at the timeout

        def send(k, now):
            self.log.append(("sent", now, k, None))
            if (at := self.through(now, "there")) is not None:
                arrivals.append((at, k))

        for now in range(0, until_us, 250):
            for at, k in sorted(one for one in arrivals if one[0] <= now):
                arrivals.remove((at, k))
                is_twice = k in received
                received.add(k)
                edge = next(n for n in range(count + 1) if n not in received)
                sacks = [(k, k + 1)] if is_twice or k > edge else []
                if (back := self.through(now, "back")) is not None:
                    answers.append((back, edge, sacks))
            for answer in sorted(one for one in answers if one[0] <= now):
                answers.remove(answer)
                self.log.append(("heard", now, max(answer[1], 0), answer[2]))
                if answer[1] > una:
                    una, timeout, timer = answer[1], 200_000, now + 200_000
                    for k in range(una, min(una + 2, lost_below)):
                        send(k, now)
            if now % 1000 == 0 and top < count and top - una < 40:
                send(top, now)
                top += 1
                timer = timer or now + timeout
            if una == top:
                timer = None
            elif timer is not None and now >= timer:
                lost_below = top
                send(una, now)
                timeout *= 2
                timer = now + timeout
        return self.log


@given(
    delay_us=st.sampled_from([500, 2000, 8000]),
    begin_us=st.integers(60_000, 61_000),
    length_us=st.integers(1, 900) | st.integers(1_000, 700_000),
    what=st.sampled_from(["cut", "there", "back", "freeze"]),
    jitter=st.lists(st.integers(0, 900), min_size=1, max_size=5),
)
# The frame before those that failed had arrived: its answer was lost.
@example(delay_us=500, begin_us=60_000, length_us=37_752, what="cut", jitter=[501])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_the_outage_lies_within_its_bounds(trace, *, delay_us, begin_us, length_us, what, jitter):
    model = Model(delay_us=delay_us, begin_us=begin_us, length_us=length_us, what=what, jitter=jitter)
    one = trace()
    last = 0
    for kind, now, position, sacks in model.run(count=110, until_us=2_500_000):
        if kind == "sent":
            one.send(position * SIZE, SIZE, after_ns=(now - last) * 1000)
        else:
            blocks = [(first * SIZE, behind * SIZE) for first, behind in sacks]
            one.hear(position * SIZE, sacks=blocks, after_ns=(now - last) * 1000)
        last = now
    stall = stall_of(one)
    if stall.low_ns == 0 and length_us < 20_000:
        return  # nothing that is claimed
    assert stall.low_ns <= length_us * 1000 <= stall.high_ns
