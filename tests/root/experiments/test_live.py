"""Real trials, small ones: the live bench, and what the analysis makes of its records.

Nothing here asserts how long anything takes. What must hold whatever the machine does meanwhile: counts, bytes, sums,
bounds that contain what the guest's own captures say, and limits that the network imposes.
"""

import io
import itertools
import shutil

import numpy as np
import pandas as pd
import pytest

from unnoticed.agents.ram import FIRST_DIRTIER_PAGE
from unnoticed.errors import RecordError
from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.analysis.timeline import BIN_NS
from unnoticed.experiments.analysis.trial import analyse
from unnoticed.experiments.live import LiveBench
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.progress import RunProgress
from unnoticed.experiments.run_folder import begin
from unnoticed.experiments.runner import run
from unnoticed.workload import PROBE_PORT

pytestmark = pytest.mark.root

MS = 1_000_000
PLAN = """question = "Does anybody notice?"
[fabric]
shape = "single"
[guest]
memory = "64 MiB"
working_set = "8 MiB"
dirty_rate = "2 MiB/s"
[clients]
count = 2
{loads}
[phases]
warm_up = "1 s"
cool_down = "1 s"
[[case]]
name = "it"
expect = "{expect}"
"""
LOADS = {
    "request_response": '{ connections = 2, rate = "200 Hz" }',
    "download": '{ connections = 1, rate = "20 Mbit/s" }',
    "upload": '{ connections = 1, rate = "10 Mbit/s" }',
    "connect": '{ rate = "10 Hz" }',
}
QUIET = {"request_response": '{ connections = 1, rate = "1 Hz" }'}
WORKLOADS = {"request_response": "request", "download": "download", "upload": "upload", "connect": "connect"}


class Measured:
    """A trial that was performed: its tables as they were stored, and its raw records."""

    def __init__(self, *, trial, folder, tables):
        self.trial, self.folder, self.tables = trial, folder, tables
        self.raw = RawRecords(folder, trial.settings)

    def __getitem__(self, name):
        return self.tables[name]

    @property
    def row(self):
        return self.tables.trials.iloc[0]

    def outages(self, estimator="time-stamp"):
        table = self.tables.outages
        return table[table["estimator"] == estimator].set_index("client")

    def answers(self, place, client):
        """When the guest's port at a place sent answers to a client's probe."""
        packets = self.raw.packets(f"guest-{place}")
        sent = (packets.source_port == PROBE_PORT) & packets.sent_to(self.raw.client_address(client))
        return packets.time_ns[sent]


@pytest.fixture(scope="module")
def measure(tmp_path_factory):
    """Perform one trial of the plan with these loads and overrides, as a run of its own; each is performed once."""
    known = {}

    def perform(*overrides, loads=LOADS, expect="completed"):
        key = (overrides, tuple(loads), expect)
        if key not in known:
            folder = tmp_path_factory.mktemp("live")
            lines = "\n".join(f"{name} = {value}" for name, value in loads.items())
            (folder / "plan.toml").write_text(PLAN.format(loads=lines, expect=expect))
            # Unless a test says otherwise: the policy that never gives up, however slow this machine is just now.
            has_own = any(override.startswith(("migration.mode", "migration.policy")) for override in overrides)
            policy = () if has_own else ("migration.policy=threshold",)
            plan = load_plan(folder / "plan.toml", overrides=(*overrides, *policy))
            store = begin(folder / "run", plan, {})
            bench, progress = LiveBench(output=store.path), RunProgress(stream=io.StringIO())
            result = run(plan, store, bench=bench, analyse=analyse, report=lambda path: path, progress=progress)
            assert result.unexpected == {}, result.unexpected
            (trial,) = trials(plan)
            known[key] = Measured(trial=trial, folder=store.trial_path(trial.id), tables=store.load())
        return known[key]

    return perform


SETTINGS = {
    "pre-copy, one switch": (),
    "pre-copy, tree, 4 clients": ("fabric.shape=tree", "clients.count=4"),
    "stop-and-copy, tree": ("fabric.shape=tree", "migration.mode=stop-and-copy"),
    "post-copy": ("migration.mode=post-copy",),
    "1 client, verified": ("clients.count=1", "migration.verify=true", "clients.congestion_control=reno"),
    "IPv6, tree": ("clients.ip=ipv6", "fabric.shape=tree", "migration.announce_at=0 ms, 50 ms"),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def completed(request, measure):
    return measure(*SETTINGS[request.param])


def test_nothing_is_lost_changed_or_reset(completed):
    assert completed.row["integrity"]
    assert completed.row["resets"] == 0
    assert completed["flows"]["integrity"].all()
    assert completed["flows"]["wrong_bytes"].sum() == 0


def test_every_load_of_every_client_was_there(completed):
    flows = completed["flows"]
    clients = {f"c{number + 1}" for number in range(completed.trial.settings.clients.count)}
    assert set(zip(flows["client"], flows["workload"], strict=True)) == set(
        itertools.product(clients, WORKLOADS.values())
    )
    assert all(sorted(senders) == ["client", "guest"] for _, senders in flows.groupby("connection")["sender"])


def test_every_capture_is_complete(completed):
    assert completed.row["captures_complete"]
    points = {"guest-a", "guest-b", "b", *completed.raw.clients}
    assert set(completed["captures"]["point"]) == points


def test_the_pages_that_the_picture_shows_are_those_that_arrived(completed):
    bins = completed["timeline"].query("client == 'migration'")
    arrived = (bins["value"] * BIN_NS / 8e9).sum()
    # With the headers of frames as large as GSO lets them be, and what was needlessly sent again.
    assert completed.row["bytes_sent"] <= arrived <= 1.1 * completed.row["bytes_sent"]


def test_every_flow_s_retransmissions_are_those_the_kernel_counted(completed):
    flows = completed["flows"]
    assert flows["kernel_retransmits"].notna().all()
    differing = flows[flows["retransmits"] != flows["kernel_retransmits"]]
    named = differing[["local", "remote", "workload", "retransmits", "kernel_retransmits"]]
    assert named.to_dict("records") == [], (completed.folder, named.to_string())
    assert completed.row["kernel_agrees"]
    namespaces = completed["captures"].dropna(subset=["kernel_retransmits", "retransmits"])
    assert {"c1", "guest-a", "guest-b"} <= set(namespaces["point"])
    assert namespaces["retransmits"].tolist() == namespaces["kernel_retransmits"].tolist()


def test_each_client_s_waterfall_sums_to_what_it_felt(completed):
    parts = completed["waterfall"].sort_values(["client", "estimator", "order"])
    felt = completed["outages"].set_index(["client", "estimator"])["outage_ns"]
    for of, rows in parts.groupby(["client", "estimator"]):
        assert abs((rows["end_ns"] - rows["start_ns"]).sum() - felt[of]) <= MS
        assert rows["start_ns"].iloc[1:].tolist() == rows["end_ns"].iloc[:-1].tolist()
        assert (rows["end_ns"] > rows["start_ns"]).all()
    assert set(parts["client"]) == set(completed.raw.clients)


def test_no_client_s_upper_bound_is_below_the_blackout(completed):
    # The last probe answered before the outage was sent before the pause; the first one after it was answered after the
    # resume, a usual answer's time later than it left, or less than a period later than that.
    resolution_ns = 2 * MS
    assert (completed.outages()["high_ns"] >= completed.row["blackout_ns"] - resolution_ns).all()


def test_no_client_s_lower_bound_is_above_the_guest_s_own_longest_silence_toward_it(completed):
    # Silence in the captures at the guest. Not only around the blackout: a busy machine may hold the guest up later.
    for client, outage in completed.outages().iterrows():
        answers = np.concatenate([completed.answers("a", client)[-1:], completed.answers("b", client)])
        # Where the probe was sent, not where it arrived, and one period of probing to each side.
        waits_ns = 2 * MS + 2 * completed.trial.settings.fabric.link.queue_ns
        if np.diff(answers).max() > completed.row["blackout_ns"] + 20 * MS:
            continue  # the machine held the guest up for so long that probes overflowed its socket
        assert outage["low_ns"] <= np.diff(answers).max() + waits_ns


def test_the_guest_answers_nobody_in_the_blackout(completed):
    for client in completed.raw.clients:
        assert completed.answers("a", client)[-1] <= completed.row["paused_ns"] + MS
        assert completed.answers("b", client)[0] >= completed.row["resumed_ns"] - MS


def test_the_worst_client_s_outage_is_the_trial_s(completed):
    outages = completed.outages()
    assert completed.row["perceived_ns"] == outages["outage_ns"].max()
    assert (outages["low_ns"] <= outages["outage_ns"]).all()
    assert (outages["outage_ns"] <= outages["high_ns"]).all()


def test_each_switch_that_had_to_relearn_did_after_the_gate_closed(completed):
    switches = {"s1", "s2", "s3"} if completed.trial.settings.fabric.shape == "tree" else {"s1"}
    assert set(completed["relearned"]["switch"]) == switches
    steps = completed["steps"].set_index("step")
    assert (completed["relearned"]["time_ns"] >= steps["start_ns"]["close-gate"]).all()


def test_the_steps_lie_in_order_between_pause_and_resume(completed):
    row, steps = completed.row, completed["steps"].set_index("step")
    order = ["pause", "close-gate", "dump", "restore", "relinquish", "open-gate", "resume"]
    assert steps.loc[order, "start_ns"].is_monotonic_increasing
    assert (steps["end_ns"] >= steps["start_ns"]).all()
    assert row["start_ns"] < row["paused_ns"] < row["resumed_ns"] <= row["end_ns"]
    assert row["blackout_ns"] == row["resumed_ns"] - row["paused_ns"]
    assert steps["start_ns"]["pause"] <= row["paused_ns"] <= steps["end_ns"]["pause"]
    assert row["resumed_ns"] <= steps["end_ns"]["resume"]


def test_rounds_shrink_and_account_for_all_of_ram(completed):
    rounds = completed["rounds"].set_index("round")
    if not completed.trial.settings.migration.has_rounds:
        assert len(rounds) == 0
        return
    assert rounds["pages"][0] == (64 << 20) // 4096
    assert completed.row["rounds"] == len(rounds)
    pairs = list(itertools.pairwise(rounds.itertuples()))
    assert completed.row["rounds_shrink"] == all(after.pages < before.pages for before, after in pairs)
    for before, after in pairs:
        assert after.pages == before.dirty_pages


def test_pages_that_come_after_the_guest_are_counted_with_each_wait(completed):
    row, faults = completed.row, completed["faults"]
    if not completed.trial.settings.migration.has_later_pages:
        assert row["catch_up_ns"] is pd.NA
        assert len(faults) == 0
        return
    assert row["total_ns"] == row["resumed_ns"] + row["catch_up_ns"] - row["start_ns"]
    assert row["pushed_bytes"] + row["demanded_bytes"] == (64 << 20) - FIRST_DIRTIER_PAGE * 4096
    assert row["faults"] == len(faults) > 0
    assert row["fault_p50_ns"] <= row["fault_p99_ns"] <= row["fault_max_ns"] == faults["latency_ns"].max()


def test_stop_and_copy_takes_what_the_link_takes_for_all_of_ram(measure):
    trial = measure(*SETTINGS["stop-and-copy, tree"])
    at_least_ns = trial.row["bytes_sent"] * 8 * 10**9 // 10**9  # 1 Gbit/s
    assert trial.row["bytes_sent"] > 32 << 20
    assert trial.row["blackout_ns"] >= 0.9 * at_least_ns
    assert trial.row["cutover_retransmits"] > 0  # no flow sits that out


def test_a_rate_limit_is_kept_and_the_round_says_so(measure):
    trial = measure("migration.rate_limit=200 Mbit/s", loads=QUIET)
    first = trial["rounds"].set_index("round").loc[0]
    assert first["bytes"] * 8 / (first["duration_ns"] / 1e9) <= 1.1 * 200e6
    assert first["bit_per_s"] <= 1.1 * 200e6


@pytest.mark.parametrize("missing", list(LOADS))
def test_any_load_may_be_missing(measure, missing):
    trial = measure("clients.count=1", loads={name: load for name, load in LOADS.items() if name != missing})
    assert set(trial["flows"]["workload"]) == set(WORKLOADS.values()) - {WORKLOADS[missing]}
    assert trial.row["integrity"]
    assert trial.row["kernel_agrees"]


@pytest.mark.parametrize("loads", [("download", "upload"), ()], ids=["bulk alone", "only probes"])
def test_there_need_be_no_requests_at_all(measure, loads):
    trial = measure("clients.count=1", loads={name: LOADS[name] for name in loads})
    assert len(trial["requests"]) == 0
    assert set(trial["flows"]["workload"]) == set(loads)
    assert trial.row["integrity"]
    assert len(trial["waterfall"]) > 0


@pytest.fixture(scope="module")
def unannounced(measure):
    return measure("fabric.shape=tree", "migration.announce=none", loads=QUIET)


def test_without_an_announcement_a_quiet_guest_is_not_found_and_the_outage_is_open(unannounced):
    outages = unannounced.outages()
    assert outages["end_ns"].isna().all()
    assert outages["high_ns"].isna().all()
    assert unannounced["relearned"].empty
    assert unannounced["trials"]["perceived_high_ns"].isna().all()
    cool_down_ns = unannounced.trial.settings.phases.cool_down_ns
    assert (outages["low_ns"] >= cool_down_ns - 100 * MS).all()
    assert "still without answers" in unannounced.row["notes"]


def test_what_nobody_re_taught_the_switches_is_named_in_the_waterfall(unannounced):
    parts = unannounced["waterfall"]
    parts = parts[parts["estimator"] == "time-stamp"].sort_values("order")
    assert set(parts.groupby("client")["part"].last()) == {"switches s1, s2 and s3 not re-taught"}
    sums = (parts["end_ns"] - parts["start_ns"]).groupby(parts["client"])
    assert (abs(sums.sum() - unannounced.outages()["outage_ns"]) <= MS).all()


def test_an_unannounced_guest_is_checked_all_the_same(unannounced):
    assert unannounced.row["integrity"]
    assert unannounced.row["resets"] == 0
    assert unannounced.row["kernel_agrees"]
    assert unannounced["flows"]["kernel_retransmits"].notna().all()


@pytest.fixture(scope="module")
def given_up(measure):
    overrides = ("guest.working_set=32 MiB", "guest.dirty_rate=200 MiB/s", "migration.policy=tcp-timeout")
    return measure(*overrides, "migration.max_rounds=4", "fabric.link.rate=500 Mbit/s", expect="gave-up")


def test_a_migration_that_gives_up_leaves_the_guest_where_it_was(given_up):
    assert given_up.row["outcome"] == "gave-up"
    assert given_up.row["reason"]
    assert given_up["steps"].empty
    assert given_up["relearned"].empty
    assert len(given_up.raw.packets("guest-b")) == 0 or all(
        len(given_up.answers("b", client)) == 0 for client in given_up.raw.clients
    )
    for client in given_up.raw.clients:
        assert given_up.answers("a", client)[-1] > given_up.raw.phase_ns("quiesce") - 100 * MS
    for name in ("blackout_ns", "paused_ns", "resumed_ns", "total_ns"):
        assert given_up["trials"][name].isna().all()


def test_a_migration_that_gives_up_harms_no_client(given_up):
    assert given_up.row["integrity"]
    assert given_up.row["resets"] == 0
    assert given_up.row["kernel_agrees"]
    requests = given_up["requests"]
    assert requests["answered_ns"].notna().all()
    assert requests["right"].all()
    assert given_up.outages()["high_ns"].notna().all()


@pytest.fixture
def copied(measure, tmp_path):
    """A copy of a good trial's folder, to be damaged."""
    trial = measure()
    shutil.copytree(trial.folder, tmp_path / "copy")
    return trial.trial, tmp_path / "copy"


def test_an_intact_copy_gives_the_same_tables(copied, measure):
    tables = analyse(*copied)
    assert tables["flows"]["retransmits"].tolist() == measure()["flows"]["retransmits"].tolist()


@pytest.mark.parametrize("point", ["c1", "guest-a", "guest-b"])
@pytest.mark.parametrize("damage", ["cut short", "missing", "not a capture", "a record's length is wrong"])
def test_a_damaged_capture_fails_loudly_and_names_the_file(copied, point, damage):
    trial, folder = copied
    file = folder / "captures" / f"{point}.pcap"
    data = file.read_bytes()
    match damage:
        case "cut short":
            file.write_bytes(data[: len(data) // 2 + 3])
        case "missing":
            file.unlink()
        case "not a capture":
            file.write_bytes(b"\0" * len(data))
        case "a record's length is wrong":
            file.write_bytes(data[:32] + b"\xff\xff\xff\x7f" + data[36:])
    with pytest.raises(RecordError, match=rf"{point}\.pcap"):
        analyse(trial, folder)


def test_a_capture_that_ends_too_early_at_a_record_s_border_is_not_complete(copied):
    trial, folder = copied
    file = folder / "captures" / "c1.pcap"
    data = file.read_bytes()
    first = 24 + 16 + int.from_bytes(data[32:36], "little")
    file.write_bytes(data[:24] + data[first:])  # one frame less than the observer counted
    with pytest.raises(RecordError, match=r"c1\.pcap"):
        analyse(trial, folder)


def test_the_brownout_holds_the_rounds_against_the_warm_up_and_the_dirtier_s_pages_against_the_dirty_ones(completed):
    row, spans = completed.row, completed["brownout"].set_index("span")
    asked = (2 << 20) / 4096
    migration = completed.trial.settings.migration
    during = ["rounds"] * migration.has_rounds + ["after"] * migration.has_later_pages
    assert list(spans.index) == ["warm-up", *during]
    assert spans.loc["warm-up", "end_ns"] == row["start_ns"]
    # A guest that was kept from running catches up on 100 ms of it, or says what it left out.
    warm_up_s = float(spans.loc["warm-up", "end_ns"] - spans.loc["warm-up", "start_ns"]) / 1e9
    done = spans.loc["warm-up", "dirty_pages_per_s"] + spans.loc["warm-up", "skipped_pages_per_s"]
    assert done == pytest.approx(asked, rel=0.35 / warm_up_s)
    assert spans.loc["warm-up", "requests"] > 0
    assert (row["brownout_dirty_share"] is not pd.NA) == bool(during)
