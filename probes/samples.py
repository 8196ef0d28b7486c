"""Probe samples: one client's probe train of one stream, as the estimators want it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unnoticed.probes.packets import I64, PROTOCOL_UDP, Packets
from unnoticed.workload import MAGIC, PROBE, PROBE_PORT

NEVER = 0  # answered_ns of a probe without an answer

_PROBE = np.dtype([("magic", "<u4"), ("stream", "<u4"), ("sequence", "<u8"), ("intended", "<u8")])
assert _PROBE.itemsize == PROBE.size


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n probes in the order they were sent; times in ns of one clock; answered_ns is NEVER for an unanswered one."""

    intended_ns: I64
    sent_ns: I64
    answered_ns: I64
    period_ns: int

    def __len__(self) -> int:
        return len(self.sent_ns)

    def between(self, from_ns: int, to_ns: int) -> Samples:
        """The probes sent in [from_ns, to_ns)."""
        kept = (self.sent_ns >= from_ns) & (self.sent_ns < to_ns)
        return Samples(
            intended_ns=self.intended_ns[kept],
            sent_ns=self.sent_ns[kept],
            answered_ns=self.answered_ns[kept],
            period_ns=self.period_ns,
        )


def samples(
    *,
    intended_ns: npt.NDArray[np.int64],
    sent_ns: npt.NDArray[np.int64],
    answered_ns: npt.NDArray[np.int64],
    period_ns: int,
) -> Samples:
    """Samples of what a prober or a client recorded, put in the order of sending; rows never sent (0) are left out."""
    sent = np.flatnonzero(np.asarray(sent_ns) > 0)
    order = sent[np.argsort(np.asarray(sent_ns)[sent], kind="stable")]
    return Samples(
        intended_ns=np.asarray(intended_ns, np.int64)[order],
        sent_ns=np.asarray(sent_ns, np.int64)[order],
        answered_ns=np.asarray(answered_ns, np.int64)[order],
        period_ns=period_ns,
    )


def probe_samples(packets: Packets, *, stream: int, period_ns: int) -> Samples:
    """The probes of `stream` in a capture taken at the prober: the kernel's stamps, which a late process cannot shift.

    A probe that was answered more than once counts as answered when it first was.
    """
    is_probe = (packets.protocol == PROTOCOL_UDP) & (packets.payload >= PROBE.size)
    there = np.flatnonzero(is_probe & ((packets.destination_port == PROBE_PORT) | (packets.source_port == PROBE_PORT)))
    probe = np.ascontiguousarray(packets.udp_payload[there, : PROBE.size]).view(_PROBE)[:, 0]
    right = (probe["magic"] == MAGIC) & (probe["stream"] == stream)
    there, probe = there[right], probe[right]
    out = packets.destination_port[there] == PROBE_PORT
    sequence, first = np.unique(probe["sequence"][out], return_index=True)
    sent_ns = packets.time_ns[there[out]][first]
    intended_ns = probe["intended"][out][first].astype(np.int64)
    answered_ns = np.full(len(sequence), NEVER, np.int64)
    answer, first_answer = np.unique(probe["sequence"][~out], return_index=True)
    at = np.searchsorted(sequence, answer)
    known = at < len(sequence)
    known[known] = sequence[at[known]] == answer[known]
    answered_ns[at[known]] = packets.time_ns[there[~out]][first_answer[known]]
    return samples(intended_ns=intended_ns, sent_ns=sent_ns, answered_ns=answered_ns, period_ns=period_ns)
