import collections
import itertools
import json

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.utils import PcapNgReader, PcapReader

from unnoticed.errors import FabricError
from unnoticed.events import read_events
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.workload import MAGIC, PROBE


@pytest.fixture
def perform(tmp_path):
    def run(trial, **given):
        folder = tmp_path / trial.id
        folder.mkdir(exist_ok=True)
        FakeBench(**given).perform(trial, folder, lambda phase: None)
        return folder, json.loads((folder / "truth.json").read_text())

    return run


def frames(path):
    with PcapReader(str(path)) as reader:
        assert not isinstance(reader, PcapNgReader)
        return list(reader)


def repeated_segments(packets, source, port):
    """Segments of one flow that end at or before the highest sequence number already sent."""
    highest, count = None, 0
    for packet in packets:
        if TCP in packet and packet[IP].src == source and packet[TCP].sport == port:
            length = packet[IP].len - 20 - packet[TCP].dataofs * 4
            length += bool(packet[TCP].flags & 0x03)
            end = packet[TCP].seq + length
            if length and highest is not None and end <= highest:
                count += 1
            highest = end if highest is None else max(highest, end)
    return count


def test_the_captures_hold_the_retransmissions_of_the_truth(trial_of, perform):
    folder, truth = perform(trial_of())
    packets = frames(folder / "captures" / "c1.pcap")
    expected = {flow: counted["client_retransmits"] for flow, counted in truth["flows"].items()}
    assert sum(expected.values()) > 0
    for flow, count in expected.items():
        address, port = flow.split(":")
        assert repeated_segments(packets, address, int(port)) == count


def test_the_kernel_counters_of_the_events_are_those_of_the_truth(trial_of, perform):
    folder, truth = perform(trial_of(case="silent"))
    counted = collections.Counter()
    for event in read_events(folder / "events.jsonl"):
        if event["event"] == "socket" and event["who"] == "c1":
            counted[event["local"]] += event["total_retrans"]
    assert dict(counted) == {flow: entry["client_retransmits"] for flow, entry in truth["flows"].items()}


def test_probes_are_lost_exactly_while_the_path_is_cut(trial_of, perform):
    folder, truth = perform(trial_of())
    start, end = truth["probe_cut"]
    with np.load(folder / "c1.probe.npz") as probes:
        to_guest = probes["stream"] == 0
        sent = probes["sent_ns"][to_guest] + 100_000
        lost = probes["answered_ns"][to_guest] == 0
        assert lost.sum() > 5
        assert np.array_equal(lost, (sent >= start) & (sent < end))
        assert (probes["answered_ns"][~to_guest] != 0).all()


def test_stamps_are_realtime_and_probes_can_be_read_within_the_snap(trial_of, perform):
    folder, _truth = perform(trial_of())
    offset = next(event["offset_ns"] for event in read_events(folder / "events.jsonl") if event["event"] == "clock")
    probe = next(packet for packet in frames(folder / "captures" / "c1.pcap") if UDP in packet)
    magic, _, _, intended_ns = PROBE.unpack(bytes(probe[UDP].payload)[: PROBE.size])
    assert magic == MAGIC
    assert round(probe.time * 10**9) == intended_ns + offset


def test_frames_at_the_guest_move_from_a_to_b(trial_of, perform):
    folder, truth = perform(trial_of())
    offset = 1_700_000_000 * 10**9
    last_at_a = round(frames(folder / "captures" / "guest-a.pcap")[-1].time * 10**9) - offset
    first_at_b = round(frames(folder / "captures" / "guest-b.pcap")[0].time * 10**9) - offset
    assert last_at_a < truth["resumed_ns"] <= first_at_b


def test_the_blackout_is_the_sum_of_the_steps(trial_of, perform):
    folder, truth = perform(trial_of())
    steps = [event for event in read_events(folder / "events.jsonl") if event["event"] == "step"]
    assert steps[0]["start_ns"] == truth["paused_ns"]
    assert steps[-1]["end_ns"] == truth["resumed_ns"]
    assert all(one["end_ns"] == two["start_ns"] for one, two in itertools.pairwise(steps))


def test_a_dirty_rate_above_the_link_gives_up(trial_of, perform):
    trial = trial_of("guest.memory=256 MiB", "guest.working_set=100 MiB", "guest.dirty_rate=300 MiB/s")
    _, truth = perform(trial)
    assert truth["outcome"] == "gave-up"
    assert truth["blackout_ns"] is None


def test_the_same_trial_gives_the_same_bytes(trial_of, perform, tmp_path):
    trial = trial_of()
    first = {path.name: path.read_bytes() for path in perform(trial)[0].rglob("*.*") if path.suffix != ".npz"}
    for path in (tmp_path / trial.id).rglob("*.*"):
        path.unlink()
    second = {path.name: path.read_bytes() for path in perform(trial)[0].rglob("*.*") if path.suffix != ".npz"}
    assert first == second


def test_a_capture_that_lost_frames_says_so(trial_of, perform):
    folder, _ = perform(trial_of(), faults={trial_of().number: "incomplete-capture"})
    captures = [event for event in read_events(folder / "events.jsonl") if event["event"] == "capture"]
    assert [event["point"] for event in captures if event["frames"] != event["packets"] - event["drops"]] == ["c1"]


def test_a_reset_is_in_the_capture_and_in_the_events(trial_of, perform):
    folder, truth = perform(trial_of(), faults={trial_of().number: "reset"})
    resets = [packet for packet in frames(folder / "captures" / "c1.pcap") if TCP in packet and packet[TCP].flags & 4]
    assert len(resets) == 1
    reasons = [event["reason"] for event in read_events(folder / "events.jsonl") if event["event"] == "socket"]
    assert reasons.count("reset") == 1
    assert sum(flow["reset"] for flow in truth["flows"].values()) == 1


def test_an_injected_failure_is_raised(trial_of, perform):
    with pytest.raises(FabricError):
        perform(trial_of(), faults={trial_of().number: "raise"})
