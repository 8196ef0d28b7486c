"""The analysis finds what the fake bench injected: both are put to the test against a known truth."""

import json

import pytest

from unnoticed.errors import RecordError
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.experiments.fake.model import DELAY_NS, TRACKED_SHARE
from unnoticed.experiments.planning.plan import load_plan, trials

analysis = pytest.importorskip("unnoticed.experiments.analysis.trial")


@pytest.fixture
def measure(tmp_path):
    def perform_and_analyse(trial, **given):
        folder = tmp_path / trial.id
        folder.mkdir()
        FakeBench(**given).perform(trial, folder, lambda phase: None)
        return analysis.analyse(trial, folder), json.loads((folder / "truth.json").read_text())

    return perform_and_analyse


@pytest.mark.parametrize("case", ["announced", "silent"])
def test_retransmissions_are_those_injected_flow_by_flow(trial_of, measure, case):
    tables, truth = measure(trial_of(case=case))
    sent = tables["flows"][tables["flows"]["sender"] == "client"].set_index("local")["retransmits"].to_dict()
    assert sent == {flow: counted["client_retransmits"] for flow, counted in truth["flows"].items()}
    assert sum(sent.values()) > 0
    assert bool(tables["trials"]["kernel_agrees"].iloc[0])


@pytest.mark.parametrize("case", ["announced", "silent"])
def test_the_blackout_is_exact_and_the_perceived_downtime_within_a_probe_s_period(trial_of, measure, case):
    tables, truth = measure(trial_of(case=case))
    row = tables["trials"].iloc[0]
    start, end = truth["probe_cut"]
    assert row["blackout_ns"] == truth["blackout_ns"]
    assert row["perceived_low_ns"] <= end - start <= row["perceived_high_ns"]
    assert abs(row["perceived_ns"] - (end - start)) <= 1_000_000


@pytest.fixture(params=["clients.count=1", "clients.count=2"])
def held(request, tmp_path, small_plan_text, measure):
    """Tables and truth of a trial whose frames are held."""
    path = tmp_path / "held.toml"
    path.write_text(small_plan_text[: small_plan_text.index("[[case]]")] + '[migration]\ngap = "hold"\n')
    return measure(trials(load_plan(path, overrides=[request.param]))[0])


def test_where_frames_are_held_nothing_is_sent_again_and_the_wait_is_what_they_waited(held):
    tables, truth = held
    row, announced, released = tables["trials"].iloc[0], *truth["held"]
    assert (row["retransmits"], row["held_refused"]) == (0, 0)
    assert row["held_frames"] > 0
    assert row["blackout_ns"] == truth["blackout_ns"] < released - announced
    assert row["perceived_low_ns"] <= released - announced + 300_000
    assert abs(row["perceived_ns"] - (released - announced)) <= 1_200_000
    assert bool(row["kernel_agrees"])
    assert bool(row["integrity"])
    parts = tables["waterfall"]
    assert "not attributed" not in set(parts["part"])
    assert set(tables["relearned"]["cause"]) == {"announcement"}


@pytest.mark.parametrize("mode", ["post-copy", "hybrid"])
def test_pages_that_came_after_the_guest_are_told(tmp_path, small_plan_text, measure, mode):
    path = tmp_path / "later.toml"
    path.write_text(small_plan_text[: small_plan_text.index("[[case]]")] + f'[migration]\nmode = "{mode}"\n')
    tables, truth = measure(trials(load_plan(path))[0])
    row = tables["trials"].iloc[0]
    assert row["outcome"] == "completed"
    assert row["total_ns"] == truth["completed_ns"] - truth["start_ns"]
    assert row["catch_up_ns"] == truth["completed_ns"] - truth["resumed_ns"]
    assert row["pushed_bytes"] + row["demanded_bytes"] == truth["later_bytes"] > 0
    assert len(tables["faults"]) == row["faults"] == 100
    assert (row["fault_p50_ns"], row["fault_p99_ns"], row["fault_max_ns"]) == (505_000, 990_100, 1_000_000)
    assert (row["rounds"] > 0) == (mode == "hybrid")


def test_where_all_pages_came_before_the_guest_nothing_is_told_of_later_ones(trial_of, measure):
    tables, _ = measure(trial_of())
    assert tables["trials"]["catch_up_ns"].isna().all()
    assert not len(tables["faults"])


def test_retransmissions_are_told_apart_by_when_they_were_sent(trial_of, measure):
    tables, _ = measure(trial_of())
    row = tables["trials"].iloc[0]
    parts = [row[f"{phase}_retransmits"] for phase in ("rounds", "cutover", "after")]
    assert sum(parts) == row["retransmits"] > 0


def test_the_waterfall_of_each_client_sums_to_what_it_felt(trial_of, measure):
    tables, _ = measure(trial_of("clients.count=2"))
    outages = tables["outages"].set_index(["client", "estimator"])["outage_ns"]
    parts = tables["waterfall"]
    sums = (parts["end_ns"] - parts["start_ns"]).groupby([parts["client"], parts["estimator"]]).sum()
    assert set(sums.index) == {(client, view) for client in ("c1", "c2") for view in ("time-stamp", "request-latency")}
    assert all(abs(sums[of] - outages[of]) <= 1_000_000 for of in sums.index)


@pytest.mark.parametrize(("workload", "metric"), [("request", "slowest_request_ns"), ("connect", "slowest_connect_ns")])
def test_the_slowest_of_all_clients_is_the_row_s(trial_of, measure, workload, metric):
    tables, _ = measure(trial_of("clients.count=2", "clients.connect.rate='100 Hz'"))
    row, requests = tables["trials"].iloc[0], tables["requests"]
    meant = requests[
        (requests["workload"] == workload) & requests["intended_ns"].between(row["start_ns"], row["end_ns"])
    ]
    assert len(meant)
    assert row[metric] == (meant["answered_ns"] - meant["intended_ns"]).max()


def test_a_reset_is_found(trial_of, measure):
    tables, _ = measure(trial_of(), faults={trial_of().number: "reset"})
    assert tables["trials"]["resets"].iloc[0] == 1


def test_an_incomplete_capture_is_not_taken_for_a_measurement(trial_of, measure):
    try:
        tables, _ = measure(trial_of(), faults={trial_of().number: "incomplete-capture"})
    except RecordError:
        return
    assert not bool(tables["trials"]["captures_complete"].iloc[0])


def test_the_dirtier_s_pace_in_the_rounds_is_held_against_that_of_the_warm_up(trial_of, measure):
    tables, _ = measure(trial_of("clients.request_response.rate='1 kHz'"))
    row, spans = tables["trials"].iloc[0], tables["brownout"].set_index("span")
    assert list(spans.index) == ["warm-up", "rounds"]
    assert row["baseline_dirty_pages_per_s"] == pytest.approx((10 << 20) / 4096, rel=0.02)
    assert row["brownout_dirty_share"] == pytest.approx(TRACKED_SHARE, rel=0.03)
    assert row["brownout_skipped_pages_per_s"] == pytest.approx(
        (1 - TRACKED_SHARE) * row["baseline_dirty_pages_per_s"], rel=0.1
    )
    assert spans.loc["rounds", "end_ns"] == row["paused_ns"]
    assert row["brownout_request_p99_ns"] == row["baseline_request_p99_ns"] == 2 * DELAY_NS


def test_a_guest_that_stands_still_all_the_while_has_no_brownout(trial_of, measure):
    tables, _ = measure(trial_of("migration.mode=stop-and-copy"))
    row = tables["trials"].iloc[0]
    assert list(tables["brownout"]["span"]) == ["warm-up"]
    assert row["baseline_dirty_pages_per_s"] > 0
    assert all(row[name] is None for name in ("brownout_request_p99_ns", "brownout_dirty_share"))


@pytest.mark.parametrize(("mode", "spans"), [("post-copy", ["after"]), ("hybrid", ["rounds", "after"])])
def test_pages_that_come_after_the_guest_make_a_brownout_until_the_last_of_them(trial_of, measure, mode, spans):
    tables, _ = measure(trial_of(f"migration.mode={mode}"))
    row, found = tables["trials"].iloc[0], tables["brownout"].set_index("span")
    assert list(found.index) == ["warm-up", *spans]
    assert found.loc["after", "start_ns"] == row["resumed_ns"]
    assert found.loc["after", "end_ns"] - found.loc["after", "start_ns"] == row["catch_up_ns"]
