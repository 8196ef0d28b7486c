"""Probe samples out of a capture at the prober."""

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from unnoticed.probes.packets import parse
from unnoticed.probes.samples import probe_samples
from unnoticed.workload import MAGIC, PROBE, PROBE_PORT


def probe(stream, sequence, *, answer=False, magic=MAGIC):
    ends = ("10.77.1.1", "10.77.0.100")
    source, destination = ends[::-1] if answer else ends
    ports = {"sport": PROBE_PORT, "dport": 5} if answer else {"sport": 5, "dport": PROBE_PORT}
    payload = PROBE.pack(magic, stream, sequence, 1000 + sequence)
    return bytes(Ether() / IP(src=source, dst=destination) / UDP(**ports) / Raw(payload))


def test_probes_are_paired_with_their_first_answers(frames_of):
    frames = frames_of(
        [
            probe(0, 1),
            probe(1, 1),
            probe(0, 1, answer=True),
            probe(0, 2),
            probe(0, 3),
            probe(0, 3, answer=True),
            probe(0, 3, answer=True),
            probe(0, 99, answer=True),
            probe(0, 2, magic=1, answer=True),
        ]
    )
    table = parse(frames)
    found = probe_samples(table, stream=0, period_ns=10)
    assert found.intended_ns.tolist() == [1001, 1002, 1003]
    assert found.sent_ns.tolist() == table.time_ns[[0, 3, 4]].tolist()
    assert found.answered_ns.tolist() == [table.time_ns[2], 0, table.time_ns[5]]
    assert len(probe_samples(table, stream=1, period_ns=10)) == 1
    assert len(probe_samples(table, stream=2, period_ns=10)) == 0
