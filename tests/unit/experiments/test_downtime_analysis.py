from dataclasses import replace

import numpy as np
import pytest

from unnoticed.experiments.analysis.downtime import Downtime, as_of, stalls_of
from unnoticed.experiments.analysis.flows import analyse_flows
from unnoticed.experiments.analysis.raw import CONTROL_STREAM
from unnoticed.probes.samples import NEVER, Samples, samples
from unnoticed.probes.stalls import Interval
from unnoticed.results import glossary

MS, S = 1_000_000, 10**9


def of(raw):
    return Downtime(raw, analyse_flows(raw).retransmits)


def requests(*rows):
    """Of (intended, answered) in ms; 0: never."""
    intended, answered = np.array(rows, np.int64).T * MS
    return samples(intended_ns=intended, sent_ns=intended, answered_ns=answered, period_ns=10 * MS)


def test_an_answer_that_came_too_late_was_none():
    known = as_of(requests((1, 2), (10, 90)), until_ns=50 * MS)
    assert known.answered_ns.tolist() == [2 * MS, 0]


def test_a_request_still_open_that_waited_less_than_others_had_to_says_nothing():
    known = as_of(requests((1, 9), (20, 21), (45, 51), (49, 0)), until_ns=50 * MS)
    assert known.intended_ns.tolist() == [1 * MS, 20 * MS]
    assert (known.answered_ns > 0).all()


def test_requests_after_the_end_are_left_out_and_none_may_be_left():
    assert len(as_of(requests((60, 61)), until_ns=50 * MS)) == 0
    assert len(as_of(requests((40, 61)), until_ns=50 * MS)) == 1


def test_the_truth_lies_within_every_client_s_bounds(records):
    made = records("clients.count=4")
    start, end = made.truth["probe_cut"]
    felt = of(made.raw()).felt
    assert [one.client for one in felt] == ["c1", "c2", "c3", "c4"]
    for one in felt:
        assert one.outage.low_ns <= end - start <= one.outage.high_ns
        assert sum(part.end_ns - part.start_ns for part in one.parts) == one.outage.outage_ns


def test_each_estimator_has_a_row_for_each_client(records):
    table = of(records("clients.count=2", "clients.connect.rate=100 Hz").raw()).outages_table()
    names = ["time-stamp", "lost-frames", "answer-gap", "request-latency", "new-connection"]
    assert table.groupby("client")["estimator"].apply(list).to_dict() == {"c1": names, "c2": names}
    assert set(names) == set(glossary.ESTIMATORS)
    assert (table["low_ns"] <= table["outage_ns"]).all()
    assert (table["outage_ns"] <= table["high_ns"]).all()


def test_without_requests_only_the_probe_is_asked(records):
    made = records("clients.request_response.connections=0")
    assert "request-latency" not in set(of(made.raw()).outages_table()["estimator"])


def test_an_estimator_that_saw_nothing_in_the_window_has_no_row(records):
    made = records("clients.connect.rate=1 Hz")
    made.change(quiesce_at(made.truth["resumed_ns"] + MS))
    table = of(made.raw()).outages_table()
    assert "new-connection" not in set(table["estimator"])


def test_a_request_waits_no_shorter_than_the_path_was_cut_for_tcp(records):
    made = records("clients.request_response.rate=1 kHz")
    table = of(made.raw()).outages_table().set_index("estimator")
    start, end = made.truth["tcp_cut"]
    assert table["outage_ns"]["request-latency"] >= end - start - 2 * MS


def quiesce_at(time_ns):
    def change(event):
        is_it = event["event"] == "phase" and event["phase"] == "quiesce"
        return {**event, "time_ns": time_ns} if is_it else event

    return change


def test_an_outage_that_the_end_of_the_cool_down_cuts_off_is_open_and_said_to_be(records):
    made = records(case="silent")
    start, end = made.truth["probe_cut"]
    middle = (start + end) // 2
    made.change(quiesce_at(middle))
    tables = made.analyse()
    row = tables["trials"].iloc[0]
    assert row["perceived_high_ns"] is None
    assert abs(row["perceived_ns"] - (middle - start)) <= 2 * MS
    assert "its outage is a lower bound" in row["notes"]
    parts = tables["waterfall"][tables["waterfall"]["estimator"] == "time-stamp"]
    assert parts["part"].iloc[-1] == "switches s1, s2 and s3 not re-taught"
    assert (parts["end_ns"] - parts["start_ns"]).sum() == row["perceived_ns"]
    assert tables["relearned"].empty  # what the switches learned later was not of their own accord


def test_a_migration_that_gave_up_is_judged_from_its_start_and_nobody_felt_it(records):
    made = records("guest.memory=256 MiB", "guest.working_set=100 MiB", "guest.dirty_rate=300 MiB/s")
    raw = made.raw()
    downtime = of(raw)
    assert made.truth["outcome"] == "gave-up"
    assert downtime.window == (raw.migration.start_ns, raw.phase_ns("quiesce"))
    assert downtime.worst.low_ns == 0
    assert downtime.worst.outage_ns <= MS
    assert not downtime.worst.censored
    assert {part.name for one in downtime.felt for part in one.parts} <= {"no cutover"}
    assert downtime.relearned_table().empty


@pytest.mark.parametrize(
    ("case", "shape", "switches"), [("announced", "tree", {"s1", "s2", "s3"}), ("announced", "single", {"s1"})]
)
def test_a_switch_that_learns_right_after_the_announcement_learned_from_it(records, case, shape, switches):
    table = of(records(f"fabric.shape={shape}", case=case).raw()).relearned_table()
    assert set(table["switch"]) == switches
    assert set(table["cause"]) == {"announcement"}


def test_without_an_announcement_switches_learn_from_the_guest_s_traffic(records):
    assert set(of(records(case="silent").raw()).relearned_table()["cause"]) == {"traffic of the guest"}


def test_what_switches_learned_first_or_before_the_pause_is_no_relearning(records):
    made = records()

    def change(event):
        if event["event"] != "relearned":
            return event
        first = {**event, "previous": None}
        early = {**event, "time_ns": made.truth["paused_ns"] - 1}
        return [event, first, early]

    before = len(of(made.raw()).relearned_table())
    made.change(change)
    assert len(of(made.raw()).relearned_table()) == before


@pytest.mark.parametrize(("share", "disturbed"), [(0.05, False), (0.5, True)])
def test_a_machine_that_stood_still_for_a_notable_part_of_the_outage_disturbed_the_trial(records, share, disturbed):
    downtime = of(records(case="silent").raw())
    assert not downtime.disturbed
    assert downtime.longest_stall_ns == 0
    start = downtime.window[0]
    downtime.stalls = [Interval(start_ns=start, end_ns=start + int(share * downtime.worst.outage_ns))]
    assert downtime.disturbed == disturbed


def test_a_stall_is_the_outage_s_where_that_began_before_the_cutover_too(records):
    downtime = of(records(case="silent").raw())
    start, until = downtime.worst.start_ns, downtime.window[1]
    end = start + downtime.worst.outage_ns
    downtime.window = end - 1, until
    downtime.stalls = [Interval(start_ns=start, end_ns=end)]
    assert downtime.disturbed


def test_a_stall_before_the_pause_disturbs_nothing_but_is_reported(records):
    downtime = of(records().raw())
    begin = downtime._raw.phase_ns("warm-up")
    downtime.stalls = [Interval(start_ns=begin, end_ns=begin + 77 * MS)]
    assert not downtime.disturbed
    assert downtime.longest_stall_ns == 77 * MS


def test_a_stall_that_ends_after_the_trial_counts_as_far_as_it_lies_within(records):
    downtime = of(records().raw())
    end = downtime._raw.phase_ns("quiesce")
    downtime.stalls = [Interval(start_ns=end - 30 * MS, end_ns=end + 50 * MS)]
    assert downtime.longest_stall_ns == 30 * MS


def test_the_table_of_stalls_holds_them_as_far_as_they_lie_within_the_trial(records):
    downtime = of(records().raw())
    begin, end = downtime._raw.phase_ns("warm-up"), downtime._raw.phase_ns("quiesce")
    downtime.stalls = [
        Interval(start_ns=begin - 50 * MS, end_ns=begin - 10 * MS),
        Interval(start_ns=begin - 5 * MS, end_ns=begin + 6 * MS),
        Interval(start_ns=begin + 20 * MS, end_ns=begin + 40 * MS),
        Interval(start_ns=end - 7 * MS, end_ns=end + 90 * MS),
        Interval(start_ns=end, end_ns=end + 8 * MS),
    ]
    table = downtime.stalls_table()
    assert [(row.start_ns - begin) // MS for row in table[:2].itertuples()] == [0, 20]
    assert ((table["end_ns"] - table["start_ns"]) // MS).tolist() == [6, 20, 7]
    assert downtime.longest_stall_ns == 20 * MS


def later(probes, chosen, by_ns):
    """Those chosen left and were answered `by_ns` later."""
    shift = np.where(chosen, by_ns, 0)
    return Samples(
        intended_ns=probes.intended_ns,
        sent_ns=probes.sent_ns + shift,
        answered_ns=np.where(probes.answered_ns > 0, probes.answered_ns + shift, 0),
        period_ns=probes.period_ns,
    )


def test_a_queue_at_the_client_is_no_stall_of_the_machine_and_a_late_prober_is(records, monkeypatch):
    """Seen with an unpaced upload: what waited 15 ms in the client's own queue passed for stalls of 1.4 s."""
    raw = records().raw()
    captured, noted = raw.probe("c1", 1), raw.prober("c1", 1)
    run = (np.arange(len(captured)) >= 100) & (np.arange(len(captured)) < 200)
    monkeypatch.setattr(raw, "probe", lambda client, stream: later(captured, run, 15 * MS))
    assert of(raw).stalls == []
    monkeypatch.setattr(raw, "prober", lambda client, stream: later(noted, np.arange(len(noted)) == 100, 15 * MS))
    (stall,) = of(raw).stalls
    assert (stall.start_ns, stall.duration_ns) == (noted.intended_ns[100], 15 * MS)


def test_the_slowest_request_waits_for_its_client_s_timer_and_its_parts_sum_to_its_latency(records):
    made = records("clients.request_response.rate=1 kHz")
    tables = made.analyse()
    parts = tables["waterfall"][tables["waterfall"]["estimator"] == "request-latency"]
    outage = tables["outages"].set_index("estimator").loc["request-latency"]
    assert (parts["end_ns"] - parts["start_ns"]).sum() == outage["outage_ns"]
    lengths = dict(zip(parts["part"], parts["end_ns"] - parts["start_ns"], strict=True))
    assert "not attributed" not in lengths
    timers = {name: length for name, length in lengths.items() if "timer" in name}
    assert set(timers) <= {f"client's retransmission timer, {rung} time" for rung in ("1st", "2nd", "3rd")}
    start, end = made.truth["tcp_cut"]
    assert sum(timers.values()) >= outage["outage_ns"] - (end - start) - 5 * MS


def test_probes_that_a_cut_link_swallows_say_nothing_about_the_machine(records):
    made = records("fabric.shape=single")
    raw = made.raw()
    begin = raw.phase_ns("warm-up") + 500 * MS
    control = raw.probe("c1", CONTROL_STREAM)
    swallowed = (control.sent_ns >= begin) & (control.sent_ns < begin + 300 * MS)
    gap = replace(control, answered_ns=np.where(swallowed, NEVER, control.answered_ns))

    def with_gap(client, stream):
        return gap if (client, stream) == ("c1", CONTROL_STREAM) else raw.probe(client, stream)

    class Cut:
        """The records, with that gap, and with what a schedule did."""

        settings, clients, prober = raw.settings, raw.clients, raw.prober
        probe = staticmethod(with_gap)

        def __init__(self, *changes):
            self.changes = [
                {"event": "link", "link": "c1-s1", "change": change, "start_ns": at, "end_ns": at + MS}
                for change, at in changes
            ]

        def named(self, *names):
            return iter(self.changes) if names == ("link",) else raw.named(*names)

    longest = max(stall.duration_ns for stall in stalls_of(Cut()))
    assert longest >= 290 * MS
    cut = Cut(("cut", begin), ("restored", begin + 300 * MS))
    assert max((stall.duration_ns for stall in stalls_of(cut)), default=0) < 290 * MS
    elsewhere = Cut(("cut", begin + 2000 * MS), ("restored", begin + 2001 * MS))
    assert max(stall.duration_ns for stall in stalls_of(elsewhere)) == longest


@pytest.mark.parametrize(("looked_ms", "starved_ms", "stood_ms"), [(6, 3, 3), (200, 9, 9), (200, 190, 190), (4, 30, 4)])
def test_a_guest_that_waited_for_something_else_as_well_was_starved_for_a_part_of_it_only(
    records, looked_ms, starved_ms, stood_ms
):
    raw = records("fabric.shape=single").raw()
    end_ns = raw.phase_ns("warm-up") + 700 * MS
    event = {"event": "starved", "since_ns": end_ns - looked_ms * MS, "time_ns": end_ns, "starved_ns": starved_ms * MS}

    class Starved:
        """The records, and one such event."""

        settings, clients, prober, probe = raw.settings, raw.clients, raw.prober, raw.probe

        @staticmethod
        def named(*names):
            return iter([event]) if names == ("starved",) else raw.named(*names)

    assert max(stall.duration_ns for stall in stalls_of(Starved())) == stood_ms * MS
