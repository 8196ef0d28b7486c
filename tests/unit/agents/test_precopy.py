"""The rounds of a pre-copy, with a guest, a link and a policy that were made up for them."""

import socket
from types import SimpleNamespace

import numpy as np
import pytest

from unnoticed.agents import wire
from unnoticed.agents.migration import MigrationSettings
from unnoticed.agents.page_runs import NO_RUNS
from unnoticed.agents.policy import GIVE_UP, ITERATE, SWITCH, Action, Decision
from unnoticed.agents.precopy import GaveUpError, Precopy

PAGES = 100


def runs(*pairs):
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


class Made:
    """A pre-copy, and in one object all that it works with.

    `written`: what each harvest finds. `first` and `decisions`: what the policy says. `unsent`: what each round has no
    time for. `queued`: the bytes that each look at the connections finds.
    """

    def __init__(self, *, written, decisions, first=ITERATE, unsent=(), queued=(), mode="pre-copy"):
        self.written, self.first, self.decisions = list(written), first, list(decisions)
        self.unsent, self.queued = list(unsent), list(queued)
        self.sent, self.messages, self.paces, self.shares, self.outlooks, self.events = [], [], [], [], [], []
        self.timed = []  # whether each round had to end at some time
        self.bytes_sent, self.stopped_ns, self.rto_min_ns = 0, 0, 200_000_000
        self.content = SimpleNamespace(pages=PAGES)
        self.channel = self
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.socket = socket.create_connection(server.getsockname())
        settings = MigrationSettings(number=3, destination="10.0.0.2", mode=mode, policy="made-up")
        self.precopy = Precopy(
            settings,
            self,
            sender=self,
            tracker=self,
            throttle=self,
            connections=self,
            connection_ns=1000,
            ordered_ns=0,
            events=self,
        )

    # the policy

    def begin(self, outlook):
        self.outlooks.append(outlook)
        return self.first

    def decide(self, rounds, outlook):
        self.outlooks.append(outlook)
        return self.decisions.pop(0)

    # the sender and its channel

    def send(self, message, *, more=False):
        self.messages.append(message)
        self.bytes_sent += 10

    def send_pages(self, runs, *, end_ns=None):
        self.sent.append(runs.tolist())
        self.timed.append(end_ns is not None)
        self.bytes_sent += 4096 * int(runs[:, 1].sum())
        return self.unsent.pop(0) if self.unsent else NO_RUNS

    def take_counts(self):
        return {}

    def pace(self, rate_bit_per_s):
        self.paces.append(rate_bit_per_s)

    def expect(self, kind):
        assert kind is wire.RoundAck

    # the tracker, the throttle, the connections and the log

    def harvest(self):
        return self.written.pop(0)

    def set(self, share_ppm):
        self.shares.append(share_ppm)

    def refresh(self):
        pass

    def survey(self):
        return [self.rto_min_ns], self.queued.pop(0) if self.queued else 0

    def announce(self, send):
        send("connections")

    def write(self, event, **fields):
        self.events.append((event, fields))


@pytest.fixture
def make():
    made = []

    def make_one(**options):
        made.append(Made(**options))
        return made[-1]

    yield make_one
    for each in made:
        each.socket.close()


def test_each_round_sends_what_was_written_in_the_one_before_and_the_first_sends_all(make):
    made = make(written=[runs((3, 4), (50, 1)), runs((9, 2)), runs((1, 1))], decisions=[ITERATE, ITERATE, SWITCH])
    made.precopy.iterate()
    assert made.sent == [[[0, PAGES]], [[3, 4], [50, 1]], [[9, 2]]]
    assert made.precopy.pending.tolist() == [[1, 1]]
    assert [each.sent_bytes // 4096 for each in made.precopy.rounds] == [PAGES, 5, 2]
    assert [each.remaining_bytes // 4096 for each in made.precopy.rounds] == [5, 2, 1]
    assert made.decisions == []


def test_a_round_begins_with_its_number_and_the_connections_and_ends_with_its_pages(make):
    made = make(written=[runs((3, 4)), runs()], decisions=[ITERATE, SWITCH])
    made.precopy.iterate()
    assert made.messages == [
        wire.RoundStart(0),
        "connections",
        wire.RoundEnd(PAGES),
        wire.RoundStart(1),
        "connections",
        wire.RoundEnd(4),
    ]


def test_each_round_and_each_decision_is_logged_in_turn(make):
    made = make(written=[runs((3, 4)), runs()], decisions=[ITERATE, SWITCH])
    made.precopy.iterate()
    assert [(event, fields["migration"], fields["round"]) for event, fields in made.events] == [
        ("round", 3, 0),
        ("forecast", 3, 0),
        ("round", 3, 1),
        ("forecast", 3, 1),
    ]
    second = made.events[2][1]
    assert (second["pages"], second["bytes"], second["wire_bytes"], second["dirty_pages"]) == (
        4,
        4 * 4096,
        4 * 4096 + 30,
        0,
    )
    assert [fields["decision"] for event, fields in made.events if event == "forecast"] == ["iterate", "switch"]


def test_what_a_round_had_no_time_for_is_sent_with_what_was_written_meanwhile(make):
    made = make(
        written=[runs((3, 4)), runs((0, 2))],
        first=Decision(Action.ITERATE, limit_ns=1),
        unsent=[runs((5, 10))],
        decisions=[ITERATE, SWITCH],
    )
    made.precopy.iterate()
    assert made.sent[1] == [[3, 12]]
    assert made.timed == [True, False]
    assert made.precopy.rounds[0].sent_bytes == (PAGES - 10) * 4096


def test_pace_and_throttle_hold_for_the_next_round_and_those_of_a_switch_for_what_is_left(make):
    made = make(
        written=[runs((3, 4)), runs((9, 2))],
        first=Decision(Action.ITERATE, rate_bit_per_s=1000),
        decisions=[
            Decision(Action.ITERATE, rate_bit_per_s=2000, throttle_ppm=7),
            Decision(Action.SWITCH, rate_bit_per_s=3000, throttle_ppm=8),
        ],
    )
    made.precopy.iterate()
    assert (made.paces, made.shares) == ([1000, 2000], [0, 7])
    made.precopy.go_on()
    assert (made.paces[-1], made.shares[-1]) == (3000, 8)


def test_giving_up_says_what_was_to_be_expected(make):
    made = make(written=[runs((0, 64))], decisions=[GIVE_UP])
    with pytest.raises(
        GaveUpError, match=r"After 1 rounds 0\.2 MiB were still dirty: .* timeout is 200 ms; the made-up"
    ):
        made.precopy.iterate()
    assert made.events[-1][1]["decision"] == "give-up"


def test_a_hybrid_switches_where_a_pre_copy_gives_up(make):
    made = make(written=[runs((0, 64))], decisions=[GIVE_UP], mode="hybrid")
    made.precopy.iterate()
    assert made.events[-1][1]["decision"] == "switch"
    assert made.precopy.pending.tolist() == [[0, 64]]


def test_a_second_look_counts_what_was_written_since_for_the_last_round(make):
    made = make(written=[runs((3, 4)), runs((5, 5))], decisions=[SWITCH, SWITCH])
    made.precopy.iterate()
    assert made.precopy.look_again()
    assert made.precopy.pending.tolist() == [[3, 7]]
    assert [each.remaining_bytes for each in made.precopy.rounds] == [7 * 4096]
    (seen,) = [fields for event, fields in made.events if event == "looked-again"]
    assert (seen["round"], seen["dirty_pages"]) == (0, 7)


def test_rounds_go_on_where_the_second_look_finds_too_much(make):
    made = make(
        written=[runs((3, 4)), runs((5, 5)), runs()],
        decisions=[SWITCH, Decision(Action.ITERATE, rate_bit_per_s=5), SWITCH],
    )
    made.precopy.iterate()
    assert not made.precopy.look_again()
    made.precopy.iterate()
    assert made.sent == [[[0, PAGES]], [[3, 7]]]
    assert made.paces == [None, 5]
    assert len(made.precopy.rounds) == 2


def test_the_last_scan_finds_what_is_pending_and_what_was_written_since(make):
    made = make(written=[runs((3, 4)), runs((90, 10))], decisions=[SWITCH])
    made.precopy.iterate()
    assert made.precopy.scan().tolist() == [[3, 4], [90, 10]]


def test_the_fuller_of_the_last_two_looks_at_the_queues_counts(make):
    made = make(written=[runs()] * 3, decisions=[ITERATE, ITERATE, SWITCH], queued=[5, 900, 2, 1])
    made.precopy.iterate()
    assert [each.queued_bytes for each in made.outlooks] == [5, 900, 900, 2]
    assert all(each.smallest_rto_ns == 200_000_000 and each.connections == 1 for each in made.outlooks)
