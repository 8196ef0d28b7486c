#!/usr/bin/env python3
"""The analysis of a capture against tshark's on the same file, in turn: packets per second, the ratio, the verdicts.

.venv/bin/python benchmarks/analysis.py [--packets 1200000] [--flows 200] [--repeats 3] [--keep FILE]

The capture is made up: bulk flows as a sender's host sees them, which lose segments and send them again, fast and
after timeouts. What was sent again is known, so that the verdicts of both can be judged. Ours: reading, parsing,
splitting into flows, counting and typing every retransmission, in one process on one processor. tshark's: its analysis
of retransmissions, as a filter, names not resolved.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unnoticed.probes.packets import ACK, FIN, PSH, SYN, address, read_packets
from unnoticed.probes.pcap import Frames, write_pcap
from unnoticed.probes.retransmits import count_retransmits
from unnoticed.probes.tcp_flows import split_flows

MSS = 1460
SEGMENT = MSS - 12  # with timestamps
SERVER = address("10.0.0.1")
MS = 1_000_000
_STAMPS = b"\x01\x01\x08\x0a" + bytes(8)
_SYN_OPTIONS = b"\x02\x04" + MSS.to_bytes(2, "big") + b"\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07"


@dataclass
class Upload:
    """One client's upload; of each segment: time, from the client, sequence, payload, acknowledgement, flags, SACK."""

    number: int
    random: np.random.Generator
    rows: list[tuple[int, bool, int, int, int, int, tuple[int, int] | None]] = field(default_factory=list)
    truth: Counter[str] = field(default_factory=Counter)  # retransmitted segments by type

    def make(self, packets: int, start_ns: int) -> None:
        isn = int(self.random.integers(2**32))  # some wrap around
        now, position = start_ns, 1
        half_rtt = 2 * MS
        put = self.rows.append
        put((now, True, isn, 0, 0, SYN, None))
        put((now + half_rtt, False, 77, 0, isn + 1, SYN | ACK, None))
        now += half_rtt + 20_000
        put((now, True, isn + 1, 0, 78, ACK, None))
        window, probed = 20, False
        while len(self.rows) < packets:
            burst = [position + k * SEGMENT for k in range(window)]
            for k, at in enumerate(burst):
                put((now + k * 5_000, True, isn + at, SEGMENT, 78, ACK, None))
            end = position + window * SEGMENT
            dice = self.random.random()
            answered = now + half_rtt
            # A probe must be answered, and something after it, before there is another (tcp_process_tlp_ack).
            may_probe, probed = not probed, False
            if dice < 0.10:  # one segment is lost, and SACKs ask for it
                lost = int(self.random.integers(1, window - 6))
                put((answered, False, 78, 0, isn + burst[lost], ACK, None))
                for k in range(lost + 1, window):
                    edge = (burst[lost + 1], burst[k] + SEGMENT)
                    put((answered + k * 5_000, False, 78, 0, isn + burst[lost], ACK, (isn + edge[0], isn + edge[1])))
                answered += window * 5_000 + 10_000
                put((answered, True, isn + burst[lost], SEGMENT, 78, ACK, None))
                self.truth["fast"] += 1
                answered += half_rtt
                put((answered, False, 78, 0, isn + end, ACK, None))
            elif dice < 0.105 and may_probe:  # all are lost; the timer runs out after the probe's
                put((now + 8 * MS, True, isn + burst[-1], SEGMENT, 78, ACK, None))
                self.truth["tlp"] += 1
                probed = True
                now += 250 * MS
                for at in burst:
                    put((now, True, isn + at, SEGMENT, 78, ACK, None))
                    put((now + half_rtt, False, 78, 0, isn + at + SEGMENT, ACK, None))
                    now += half_rtt + 10_000
                    self.truth["rto"] += 1
                answered = now
            else:
                for k in range(1, window, 2):
                    put((answered + k * 5_000, False, 78, 0, isn + burst[k] + SEGMENT, ACK, None))
                answered += window * 5_000
            position = end
            now = answered + 20_000
        put((now, True, isn + position, 0, 78, FIN | ACK, None))
        put((now + half_rtt, False, 78, 0, isn + position + 1, FIN | ACK, None))
        put((now + half_rtt + 20_000, True, isn + position + 1, 0, 79, ACK, None))

    @property
    def name(self) -> str:
        return f"10.1.{self.number >> 8}.{self.number & 255}:{20_000 + self.number}>10.0.0.1:7000"


def make_capture(path: Path, *, packets: int, flows: int, seed: int = 1) -> dict[str, Counter[str]]:
    """Write the capture; the truth by flow: how many segments were sent again, by type."""
    random = np.random.default_rng(seed)
    uploads = [Upload(number=number, random=random) for number in range(flows)]
    for upload in uploads:
        upload.make(packets // flows, start_ns=1_700_000_000_000_000_000 + int(random.integers(100 * MS)))
    columns = [np.array([row[:6] for row in upload.rows], np.int64) for upload in uploads]
    table = np.concatenate(columns)
    sacks = [row[6] for upload in uploads for row in upload.rows]
    which = np.repeat(np.arange(flows), [len(upload.rows) for upload in uploads])
    order = np.argsort(table[:, 0], kind="stable")
    write_pcap(path, frames(table[order], which[order], [sacks[k] for k in order.tolist()]), snap=96)
    return {upload.name: upload.truth for upload in uploads}


def frames(table: np.ndarray[Any, np.dtype[np.int64]], which: np.ndarray[Any, Any], sacks: list[Any]) -> Frames:
    """Ethernet frames of the rows (time, from the client, sequence, payload, acknowledgement, flags)."""
    count = len(table)
    time_ns, there, sequence, payload, acknowledged, flags = table.T
    syn = (flags & SYN) != 0
    selective = np.array([sack is not None for sack in sacks])
    options = np.where(syn, 20, np.where(selective, 24, 12))
    data = np.zeros((count, 96), np.uint8)

    def put(at: int, size: int, values: Any, rows: Any = slice(None)) -> None:
        wide = np.broadcast_to(np.asarray(values, np.int64), np.arange(count)[rows].shape).astype(">u8")
        data[rows, at : at + size] = np.ascontiguousarray(wide).view(np.uint8).reshape(-1, 8)[:, 8 - size :]

    client = (10 << 24 | 1 << 16) + which
    put(0, 6, np.where(there, 0x020000000001, 0x020100000000 + which))
    put(6, 6, np.where(there, 0x020100000000 + which, 0x020000000001))
    put(12, 2, 0x0800)
    put(14, 1, 0x45)
    put(16, 2, 40 + options + payload)
    put(18, 2, np.arange(count) & 0xFFFF)
    put(20, 2, 0x4000)
    put(22, 2, 64 << 8 | 6)
    put(26, 4, np.where(there, client, SERVER))
    put(30, 4, np.where(there, SERVER, client))
    put(34, 2, np.where(there, 20_000 + which, 7000))
    put(36, 2, np.where(there, 7000, 20_000 + which))
    put(38, 4, sequence & 0xFFFFFFFF)
    put(42, 4, np.where((flags & ACK) != 0, acknowledged & 0xFFFFFFFF, 0))
    put(46, 1, (20 + options) << 2)
    put(47, 1, flags | np.where(payload > 0, PSH, 0))
    put(48, 2, 50_000)
    data[:, 54:66] = np.frombuffer(_STAMPS, np.uint8)
    data[syn, 54:74] = np.frombuffer(_SYN_OPTIONS, np.uint8)
    put(66, 4, 0x0101050A, selective)
    put(70, 4, np.array([sack[0] & 0xFFFFFFFF for sack in sacks if sack]), selective)
    put(74, 4, np.array([sack[1] & 0xFFFFFFFF for sack in sacks if sack]), selective)
    length = (54 + options + payload).astype(np.uint32)
    return Frames(time_ns=time_ns, length=length, captured=np.minimum(length, 96).astype(np.uint32), data=data)


def ours(path: Path) -> tuple[dict[str, float], dict[str, Counter[str]]]:
    """(seconds by step, what was sent again by flow and type)."""
    marks = [("", time.perf_counter())]
    packets = read_packets(path)
    marks.append(("read and parse", time.perf_counter()))
    split_flows(packets)
    marks.append(("split", time.perf_counter()))
    results = count_retransmits(packets)
    marks.append(("split, count and type", time.perf_counter()))
    found = {}
    for result in results:
        kinds: Counter[str] = Counter()
        for row in result.rows:
            kinds[row.type] += row.segments
        found[result.flow.name] = kinds
    steps = {name: end - begin for (_, begin), (name, end) in itertools.pairwise(marks)}
    steps["total"] = steps["read and parse"] + steps["split, count and type"]
    return steps, found


def theirs(path: Path) -> tuple[float, Counter[str]]:
    """(seconds, frames that tshark calls sent again, by sender)."""
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp.analysis.retransmission || tcp.analysis.out_of_order"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, "-T", "fields", "-e", "ip.src", "-e", "tcp.srcport"], capture_output=True, text=True, check=True
    )
    took = time.perf_counter() - begin
    return took, Counter(":".join(line.split("\t")) for line in done.stdout.splitlines())


def main() -> None:
    """Make the capture, let both read it in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=1_200_000)
    parser.add_argument("--flows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the capture here, and leave it")
    parser.add_argument("--without-tshark", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one processor, for both
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.keep or Path(folder) / "capture.pcap"
        truth = make_capture(path, packets=arguments.packets, flows=arguments.flows)
        packets = len(read_packets(path))
        begin = time.perf_counter()
        _, found = ours(path)  # compiles, or loads what was compiled
        first = time.perf_counter() - begin
        runs, others = [], []
        with_tshark = shutil.which("tshark") is not None and not arguments.without_tshark
        for _ in range(arguments.repeats):
            runs.append(ours(path)[0])
            if with_tshark:
                others.append(theirs(path))
    print(
        f"{packets} packets, {len(truth)} connections, "
        f"{sum(sum(kinds.values()) for kinds in truth.values())} sent again"
    )
    print(f"ours: the first time {first:.2f} s; then, medians of {len(runs)}:")
    for name in runs[0]:
        took = statistics.median(run[name] for run in runs)
        print(f"  {name:<22} {took:6.3f} s   {packets / took / 1e6:6.2f} million packets/s")
    right = sum(found.get(name) == kinds for name, kinds in truth.items())
    alarms = sum(sum(kinds.values()) for name, kinds in found.items() if name not in truth)
    same = sum(sum(found.get(name, Counter()).values()) == sum(kinds.values()) for name, kinds in truth.items())
    print(f"  counts right for {same} of {len(truth)} flows, counts and types for {right}; false alarms: {alarms}")
    if not others:
        print("tshark: not here, nothing to compare with")
        return
    took = statistics.median(seconds for seconds, _ in others)
    ratio = took / statistics.median(run["total"] for run in runs)
    seen = others[0][1]
    agrees = sum(seen[name.split(">")[0]] == sum(kinds.values()) for name, kinds in truth.items())
    print(
        f"tshark: {took:.2f} s, {packets / took / 1e6:.4f} million packets/s; counts right for {agrees} of {len(truth)}"
    )
    print(f"ours is {ratio:.0f} times as fast")


if __name__ == "__main__":
    main()
