import numpy as np
import pytest

from unnoticed.errors import RecordError
from unnoticed.experiments.analysis.raw import CONTROL_STREAM, GUEST_STREAM

MS = 1_000_000


def without(name, **fields):
    def change(event):
        gone = event["event"] == name and all(event[key] == value for key, value in fields.items())
        return None if gone else event

    return change


def test_everything_of_a_good_trial_can_be_read(records):
    good = records()
    raw = good.raw()
    assert raw.migration.completed
    assert raw.migration.blackout_ns == good.truth["blackout_ns"]
    assert raw.clock_is_steady
    assert raw.phase_ns("warm-up") < raw.phase_ns("migration") < raw.phase_ns("quiesce")
    assert len(raw.probe("c1", GUEST_STREAM)) == len(raw.probe("c1", CONTROL_STREAM)) > 100
    assert not raw.has_capture("b")


def test_events_are_in_order_of_time_whoever_wrote_them_when(records):
    shuffled = records()
    path = shuffled.folder / "events.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    times = [event["time_ns"] for event in shuffled.raw().events]
    assert times == sorted(times)


@pytest.mark.parametrize("phase", ["warm-up", "quiesce"])
def test_a_phase_that_is_missing_is_named(records, phase):
    broken = records()
    broken.change(without("phase", phase=phase))
    with pytest.raises(RecordError, match=f"no phase '{phase}'"):
        broken.analyse()


def test_no_migration_and_two_migrations_are_errors(records):
    broken = records()
    broken.change(lambda event: [event, event] if event["event"] == "migration" else event)
    with pytest.raises(RecordError, match="2 migrations instead of one"):
        broken.analyse()
    broken.change(without("migration"))
    with pytest.raises(RecordError, match="0 migrations instead of one"):
        broken.analyse()


@pytest.mark.parametrize(("left", "said"), [("start", "1 clock samples"), ("nothing", "0 clock samples")])
def test_both_clock_samples_are_due(records, left, said):
    broken = records()
    broken.change(lambda event: None if event["event"] == "clock" and event["at"] != left else event)
    with pytest.raises(RecordError, match=said):
        broken.analyse()


def test_a_clock_that_moved_is_noted_and_its_middle_is_used(records):
    def move(event):
        if event["event"] == "clock" and event["at"] == "stop":
            event["offset_ns"] += 300_000
        return event

    moved = records()
    steady = moved.raw().packets("c1").time_ns
    moved.change(move)
    raw = moved.raw()
    assert (raw.clock_moved_ns, raw.clock_is_steady) == (300_000, False)
    assert np.array_equal(raw.packets("c1").time_ns, steady - 150_000)
    assert "clock moved by 300 us" in moved.analyse()["trials"]["notes"].iloc[0]


def test_a_clock_that_moved_a_little_is_not_worth_a_note(records):
    def move(event):
        if event["event"] == "clock" and event["at"] == "stop":
            event["offset_ns"] -= 20_000
        return event

    moved = records()
    moved.change(move)
    assert moved.analyse()["trials"]["notes"].isna().all()


@pytest.mark.parametrize("point", ["c1", "guest-a", "guest-b"])
def test_a_capture_must_be_there_and_hold_what_the_observer_wrote(records, point):
    broken = records()
    file = broken.folder / "captures" / f"{point}.pcap"
    data = file.read_bytes()
    first = 24 + 16 + int.from_bytes(data[32:36], "little")
    file.write_bytes(data[:24] + data[first:])
    with pytest.raises(RecordError, match=rf"{point}\.pcap holds \d+ frames; the observer wrote"):
        broken.analyse()
    file.write_bytes(data[:-7])
    with pytest.raises(RecordError, match=rf"{point}\.pcap"):
        broken.analyse()
    file.unlink()
    with pytest.raises(RecordError, match=rf"{point}\.pcap cannot be read"):
        broken.analyse()


def test_a_damaged_event_log_names_its_line(records):
    broken = records()
    path = broken.folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:10] + "\n", *lines[4:]]))
    with pytest.raises(RecordError, match="line 4"):
        broken.analyse()


def test_a_client_that_sent_no_probe_is_an_error(records):
    broken = records()
    (broken.folder / "captures/c1.pcap").write_bytes((broken.folder / "captures/c1.pcap").read_bytes()[:24])

    def nothing(event):
        return {**event, "frames": 0, "packets": 0} if event.get("point") == "c1" else event

    broken.change(nothing)
    with pytest.raises(RecordError, match="client c1 sent no probe"):
        broken.analyse()


def test_requests_may_be_absent_only_where_the_plan_asks_for_none(records):
    broken = records()
    (broken.folder / "c1.requests.npz").unlink()
    with pytest.raises(RecordError, match=r"c1\.requests\.npz"):
        broken.analyse()
    quiet = broken.trial.settings.model_copy(
        update={"clients": broken.trial.settings.clients.model_copy(update={"request_response": None, "connect": None})}
    )
    assert len(type(broken.raw())(broken.folder, quiet).requests("c1")) == 0


def test_what_a_socket_sends_after_it_was_dumped_is_no_packet_of_the_guest(records):
    haunted = records()
    raw = haunted.raw()
    dump = next(event for event in raw.named("socket") if event["reason"] == "dump")
    at_a = raw.packets("guest-a")
    port = int(dump["remote"].rsplit(":", 1)[1])
    of_flow = (at_a.destination_port == port) & (at_a.protocol == 6)
    last = int(at_a.time_ns[of_flow].max())
    before = len(raw.guest_packets)

    def dumped_before(event):
        same = event["event"] == "socket" and event["reason"] == "dump" and event["remote"] == dump["remote"]
        return {**event, "time_ns": last - 1} if same else event

    haunted.change(dumped_before)
    assert len(haunted.raw().guest_packets) == before - int((at_a.time_ns[of_flow] > last - 1).sum())
    assert len(haunted.raw().packets("guest-a")) == len(at_a)
