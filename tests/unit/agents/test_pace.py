"""The pace of the push, on a path that is computed."""

from itertools import cycle

import pytest

from unnoticed.agents.pace import Pace

MS = 1_000_000
LINK = 120_000_000  # bytes per second
BURST = 125_000  # bytes that it takes at once
LUMP = 68_500  # bytes that are acknowledged at once, ten or eleven times in the shortest window


class Path:
    """A path that takes so much, and a burst besides when it had less to do."""

    def __init__(self, pace, *, rate=LINK, burst=BURST, lump=1, ahead=0, errors=(1.0,)):
        """`lump`: what is acknowledged at once; `ahead` of the first lump is acknowledged already.

        `errors`: by what the kernel's samples of the delivery rate are off, in turn.
        """
        self.pace, self.rate, self.lump, self.ahead = pace, rate, lump, ahead
        self.errors = cycle(errors)
        self.burst = burst
        self.now_ns, self.acked, self.tokens = 0, 0.0, float(burst)
        self.demand, self.demanded = 0, 0.0  # bytes per second on demand, which come first, and what came so far
        self.paces = [pace.bytes_per_s]

    def run(self, milliseconds, *, rtt_us=100, window=None):
        """`window`: what the connection has under way at most in a look, bytes; it doubles."""
        for _ in range(0, milliseconds, 2):
            self.now_ns += 2 * MS
            self.tokens = min(self.tokens + self.rate * 0.002, self.burst + self.rate * 0.002)
            self.tokens -= self.demand * 0.002
            self.demanded += self.demand * 0.002
            paced = self.pace.bytes_per_s * 0.002
            is_starting = window is not None and paced > window
            carried = min(paced, self.tokens, window or paced)
            window = window and 2 * window
            self.tokens -= carried
            self.acked += carried
            acked = int(self.acked + self.ahead) // self.lump * self.lump
            rate = int(carried / 0.002 * next(self.errors))
            if self.pace.look(
                self.now_ns,
                acked_bytes=acked,
                demanded_bytes=int(self.demanded),
                delivery_bytes_per_s=rate,
                rtt_us=rtt_us,
                min_rtt_us=100,
                is_starting=is_starting,
            ):
                self.paces.append(self.pace.bytes_per_s)

    @property
    def share(self):
        return self.pace.bytes_per_s / self.rate


def test_it_doubles_until_the_path_carries_no_more_and_is_held_a_little_below_that():
    path = Path(Pace())
    path.run(200)
    assert path.paces[:3] == [50_000_000, 100_000_000, 200_000_000]
    assert len(path.paces) == 4
    assert 0.93 < path.share < 0.95


@pytest.mark.parametrize("ahead", range(0, LUMP, LUMP // 8))
def test_acknowledgements_that_come_in_lumps_do_not_fill_the_path(ahead):
    path = Path(Pace(), lump=LUMP, ahead=ahead)
    path.run(300)
    assert 0.9 < path.share < 0.96


@pytest.mark.parametrize("errors", [(1.0, 0.2, 1.0), (1.02, 0.98, 1.0, 1.0, 2.0), (0.0, 1.0)])
def test_a_sample_taken_while_the_machine_stood_still_does_not_matter(errors):
    path = Path(Pace(), errors=errors)
    path.run(300)
    assert 0.9 < path.share < 0.96


def test_a_moment_in_which_the_machine_stood_still_is_not_taken_for_a_full_path():
    path = Path(Pace(), errors=(20.0,))  # as where a link's bucket of tokens lets through each burst at once
    path.run(4)
    path.rate, rate = 0, path.rate
    path.run(8)
    path.rate, path.tokens = rate, BURST
    path.errors = cycle((20.0,))
    while path.pace.bytes_per_s < LINK:
        path.run(2)
    assert path.now_ns < 100 * MS
    path.errors = cycle((1.0,))
    path.run(200)
    assert 0.9 < path.share < 0.96


def test_the_queue_that_finding_out_has_built_is_let_run_dry_first():
    path = Path(Pace())
    while path.pace.bytes_per_s < LINK:
        path.run(2)
    path.run(200, rtt_us=1_700)
    full, draining, held = path.paces[2:]
    assert full > LINK
    assert draining < LINK * 0.55
    assert 0.93 < held / LINK < 0.95


def test_the_path_is_not_overfilled_for_long():
    path = Path(Pace())
    path.run(10, rtt_us=100)
    while path.pace.bytes_per_s < LINK:
        path.run(2)
    begun_ns = path.now_ns
    while path.pace.bytes_per_s > LINK:
        path.run(2)
    assert path.now_ns - begun_ns <= 16 * MS


def test_a_queue_says_at_once_that_the_path_is_full():
    path = Path(Pace())
    while path.pace.bytes_per_s < LINK:
        path.run(2)
    begun_ns = path.now_ns
    path.run(2, rtt_us=1_700)
    path.tokens = 0
    while path.pace.bytes_per_s > LINK:
        path.run(2, rtt_us=1_700)
    assert path.now_ns - begun_ns <= 8 * MS
    path.run(100)
    assert 0.93 < path.share < 0.95


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 2])
def test_the_push_makes_room_for_what_is_demanded_but_goes_on_in_any_case(share):
    path = Path(Pace())
    path.run(200)
    path.demand = share * LINK
    path.run(200)
    assert path.share == pytest.approx(min(0.94, max(0.1, 0.97 - share)), abs=0.01)
    path.demand = 0
    path.run(200)
    assert path.share == pytest.approx(0.94, abs=0.01)


def test_what_is_demanded_meanwhile_belongs_to_what_the_path_takes():
    path = Path(Pace())
    path.demand = 0.3 * LINK
    path.run(300)
    assert path.share == pytest.approx(0.67, abs=0.02)


def test_who_begins_to_wait_is_given_room_until_it_is_known_what_is_demanded():
    path = Path(Pace())
    path.run(200)
    path.pace.begin(path.now_ns)
    assert path.share == pytest.approx(0.67, abs=0.01)
    path.run(100)
    assert path.share == pytest.approx(0.94, abs=0.01)


def test_rounds_that_take_long_do_not_have_more_tried_when_somebody_begins_to_wait():
    path = Path(Pace())
    path.run(200)
    path.now_ns += 60_000 * MS
    path.pace.begin(path.now_ns)
    path.run(3_900)
    assert max(path.paces[4:]) < LINK
    path.run(200)
    assert max(path.paces[4:]) > LINK


@pytest.mark.parametrize("milliseconds", range(2, 60, 2))
def test_one_that_is_not_found_yet_is_looked_for_further(milliseconds):
    path = Path(Pace())
    path.run(milliseconds, rtt_us=900)
    path.pace.begin(path.now_ns)
    path.run(250)
    assert path.share == pytest.approx(0.94, abs=0.01)


def test_a_connection_that_starts_slowly_is_not_taken_for_a_full_path():
    path = Path(Pace())
    path.run(200, window=1_000)
    assert 0.93 < path.share < 0.95


def test_a_queue_counts_for_a_connection_that_starts_slowly_too():
    path = Path(Pace(), rate=LINK // 8)
    path.run(6, window=20_000)
    path.run(400, rtt_us=9_000, window=160_000)
    assert 0.93 < path.share < 0.95


def test_a_moment_of_delay_in_a_slow_start_is_not_taken_for_a_queue():
    path = Path(Pace())
    path.run(2, window=1_000)
    path.run(2, rtt_us=1_700, window=2_000)
    path.run(200, window=4_000)
    assert 0.93 < path.share < 0.95


def test_it_is_found_once_no_queue_is_left():
    path = Path(Pace())
    while path.pace.bytes_per_s < LINK:
        path.run(2)
    while path.pace.bytes_per_s > LINK:
        assert not path.pace.is_found
        path.run(2, rtt_us=3_000)
    assert not path.pace.is_found
    path.run(20)
    assert path.pace.is_found


def test_a_path_that_takes_less_than_the_first_pace_is_measured_too():
    path = Path(Pace(), rate=5_000_000)
    path.run(800)
    assert 0.93 < path.share < 0.95


def test_a_queue_all_the_same_has_it_measured_again_but_not_at_once():
    path = Path(Pace())
    path.run(200)
    path.rate = LINK // 4
    path.run(600, rtt_us=9_000)
    assert len(path.paces) == 4
    path.run(600, rtt_us=9_000)
    assert 0.9 < path.share < 0.96


def test_trying_for_more_takes_one_window_where_there_is_no_more_and_is_done_less_and_less_often():
    path = Path(Pace())
    path.run(5_000)
    held = path.paces[3]
    above = path.paces[4]
    assert above == pytest.approx(1.5 * LINK, rel=0.01)
    assert path.paces[4:] == [above, held]
    path.run(8_000)
    assert path.paces[4:] == [above, held] * 2
    path.run(51_000)
    assert len(path.paces) == 4 + 2 * (1 + 7)  # after 4 s, and every 8


def test_it_is_measured_again_in_time_since_the_path_may_have_got_faster():
    path = Path(Pace())
    path.run(200)
    path.rate = 3 * LINK
    path.run(4_500)
    assert 0.93 < path.share < 0.95


@pytest.mark.parametrize("burst", [0, BURST // 2, BURST])
@pytest.mark.parametrize("share", [0.7, 0.8, 0.85, 0.9, 0.93])
def test_a_measurement_that_was_too_low_is_put_right(share, burst):
    path = Path(Pace(), rate=share * LINK, burst=burst)
    path.run(300)
    path.rate = LINK
    path.run(6_000)
    assert 0.93 < path.share < 0.95


@pytest.mark.parametrize("rate", [100_000, 300_000, 1_250_000])
def test_on_a_slow_path_it_drains_and_stays_below_its_limit_all_the_same(rate):
    limit = rate * 4 // 3
    path = Path(Pace(limit_bytes_per_s=limit), rate=rate, burst=15_000)
    path.run(10)
    path.run(1_100, rtt_us=90_000)
    assert max(path.paces) <= limit
    assert min(path.paces) == pytest.approx(rate / 2, rel=0.05)
    path.run(300)
    assert 0.93 < path.share < 0.95


def test_it_never_exceeds_its_limit():
    path = Path(Pace(limit_bytes_per_s=LINK // 2))
    path.run(3_000)
    assert max(path.paces) == path.pace.bytes_per_s == LINK // 2
