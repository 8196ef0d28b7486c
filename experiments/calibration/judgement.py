"""What each estimator makes of known outages: pure, from a session's raw records to the table `calibration`.

An estimator is asked about one outage at a time, with the samples from a little before it until the next: as in a
trial, it knows roughly when to look, but nothing of how long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.downtime import as_of, stalls_of
from unnoticed.experiments.analysis.raw import GUEST_STREAM, RawRecords, socket_events
from unnoticed.experiments.calibration.injections import NO_OUTAGE, Injection, Truth
from unnoticed.probes import outages
from unnoticed.probes.outages import Outage
from unnoticed.probes.samples import Samples, samples
from unnoticed.probes.stalls import Delivery, Interval, acknowledgements, deliveries, longest_stall, overlap_ns
from unnoticed.probes.tcp_flows import address
from unnoticed.results.calibration import COLUMNS
from unnoticed.workload import Kind

_BEFORE_NS = 350_000_000  # less than what is left between two injections
_STALL_NS = 2_000_000  # of the machine: the bench's load is small, so neither queues nor processors keep a probe longer
_QUIET_WINDOW_NS = 1_000_000_000
_CLIENT = "c1"
_NOT_STOPPED = (  # by what is no outage: the guest's window does not concern probes, nor what the guest sends
    *("lost_frames", "time_stamp", "answer_gap", "longest_answer"),
    *("delivered_download", "acknowledged_download"),
)


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A piece of time to ask about: samples from `from_ns` to `to_ns`, an outage within [begin_ns, end_ns]."""

    truth: Truth
    from_ns: int
    begin_ns: int
    end_ns: int
    to_ns: int


def truths_of(raw: RawRecords) -> list[Truth]:
    """What was injected, in order of time."""
    return [Truth.from_event(event) for event in raw.named("injected")]


def judge(raw: RawRecords) -> pd.DataFrame:
    """One row per injected outage and estimator, and per second of quiet and estimator; see `results.calibration`."""
    evidence = _Evidence(raw)
    rows = [row for span in _spans(raw) for row in evidence.rows(span)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _spans(raw: RawRecords) -> Iterator[_Span]:
    """For each outage until the next one begins; of quiet, each second."""
    truths = truths_of(raw)
    ends = [truth.begin_low_ns for truth in truths[1:]] + [raw.phase_ns("quiesce")]
    for truth, next_ns in zip(truths, ends, strict=True):
        begin, end = truth.begin_low_ns, truth.end_high_ns
        if truth.injection.kind != "quiet":
            yield _Span(truth=truth, from_ns=begin - _BEFORE_NS, begin_ns=begin, end_ns=end, to_ns=next_ns)
            continue
        for start in range(begin, end - _QUIET_WINDOW_NS + 1, _QUIET_WINDOW_NS):
            stop = start + _QUIET_WINDOW_NS
            quiet = replace(truth, begin_low_ns=start, begin_high_ns=start, end_low_ns=start, end_high_ns=start)
            yield _Span(truth=quiet, from_ns=start - _BEFORE_NS, begin_ns=start, end_ns=stop, to_ns=stop + _BEFORE_NS)


class _Evidence:
    """Everything that was recorded of a session, as the estimators want it."""

    def __init__(self, raw: RawRecords) -> None:
        self._stalls = stalls_of(raw, late_ns=_STALL_NS, queues_fill=False)
        self._probe = raw.probe(_CLIENT, GUEST_STREAM)
        self._requests = {kind: _requests(raw, kind) for kind in (Kind.REQUEST, Kind.CONNECT)}
        self._bulk = _bulk(raw)

    def rows(self, span: _Span) -> Iterator[dict[str, Any]]:
        """One per estimator."""
        truth, injection = span.truth, span.truth.injection
        for outage in self._estimates(span, injection):
            truth_ns = truth.truth_ns
            if injection.kind == "loss":  # what was dropped of the probes, each for a period
                truth_ns = truth.dropped_udp * self._probe.period_ns
            elif outage.estimator == "overtaken_frames":
                truth_ns = truth.late_udp * self._probe.period_ns
            elif injection.kind in NO_OUTAGE and outage.estimator in _NOT_STOPPED:
                truth_ns = 0
            about = (span.begin_ns, span.end_ns) if outage.start_ns is None else (outage.start_ns, outage.end_ns)
            until = span.end_ns if about[1] is None else max(about[1], span.end_ns)
            since = min(int(about[0] or span.begin_ns), span.begin_ns)
            if injection.kind == "quiet" and outage.start_ns is not None:
                since, until = outage.start_ns, outage.end_ns or span.end_ns
            yield {
                "kind": injection.kind,
                "share": injection.share,
                "asked_ns": injection.duration_ns if injection.kind != "quiet" else 0,
                "truth_ns": truth_ns,
                "uncertainty_ns": truth.uncertainty_ns,
                "begin_ns": span.begin_ns,
                "estimator": outage.estimator.replace("_", "-"),
                "outage_ns": outage.outage_ns,
                "low_ns": outage.low_ns,
                "high_ns": outage.high_ns,
                "stalled_ns": overlap_ns(self._stalls, from_ns=since, to_ns=until),
            }

    def _estimates(self, span: _Span, injection: Injection) -> Iterator[Outage]:
        probe = self._probe.between(span.from_ns, span.to_ns)
        window = {"from_ns": span.begin_ns, "to_ns": span.end_ns}
        yield outages.lost_frames(probe, **window)
        if injection.kind == "loss":  # drops one by one are no outage that any other could place
            return
        if injection.kind == "reordering":
            yield outages.overtaken_frames(probe, **window)
        yield outages.time_stamp(probe, **window)
        yield outages.answer_gap(probe, **window)
        yield outages.longest_answer(probe, **window)
        if injection.kind == "reordering":  # what TCP makes of it is no wait for the end of anything
            return
        if injection.kind not in ("quiet", *NO_OUTAGE):  # of nothing, there is no beginning to count from
            begun_ns = span.truth.begin_high_ns  # what was sent earlier may have slipped through
            yield outages.first_success(probe, from_ns=begun_ns)
            connects = self._requests[Kind.CONNECT].between(span.from_ns, span.to_ns)
            yield replace(outages.first_success(connects, from_ns=begun_ns), estimator="first_connection")
        for name, kind in (("request_latency", Kind.REQUEST), ("new_connection", Kind.CONNECT)):
            waits = as_of(self._requests[kind].between(span.from_ns, span.to_ns), until_ns=span.to_ns)
            longest = outages.longest_answer(waits, from_ns=span.begin_ns - _BEFORE_NS, to_ns=span.end_ns)
            if injection.kind == "zero-window":  # it ends with the sender's next look, and begins with an answer
                longest = replace(longest, high_ns=None)
            yield replace(longest, estimator=name)
        for name, delivery in self._bulk.items():
            stall = longest_stall(delivery, from_ns=span.begin_ns, to_ns=span.end_ns)
            if stall is not None:
                yield _felt(name, stall, until_ns=span.to_ns)


def _felt(name: str, stall: Interval, *, until_ns: int) -> Outage:
    """A stall as an outage: TCP lengthens it, buffers hide it, so it bounds the outage from neither side."""
    end_ns = min(stall.end_ns, until_ns)
    return Outage(
        estimator=name,
        outage_ns=end_ns - stall.start_ns,
        low_ns=0,
        high_ns=None,
        start_ns=stall.start_ns,
        end_ns=end_ns,
    )


def _requests(raw: RawRecords, kind: Kind) -> Samples:
    records = raw.requests(_CLIENT)
    chosen = records.workload == kind
    intended = np.sort(records.intended_ns[chosen])
    return samples(
        intended_ns=records.intended_ns[chosen],
        sent_ns=records.sent_ns[chosen],
        answered_ns=records.answered_ns[chosen],
        period_ns=int(np.median(np.diff(intended))) if len(intended) > 1 else 0,
    )


def _bulk(raw: RawRecords) -> dict[str, Delivery]:
    """The download and the upload, each seen by its receiver and, by the acknowledgements, by its sender."""
    client, guest = raw.client_address(_CLIENT), None
    ports: dict[str, int] = {}
    for reading in socket_events(raw, of_clients=True):
        if reading["workload"] in ("download", "upload"):
            ports[str(reading["workload"])] = int(str(reading["local"]).rsplit(":", 1)[1])
            guest = address(str(reading["remote"]).rsplit(":", 1)[0])
    if guest is None:
        return {}
    found: dict[str, Delivery] = {}
    at_client, at_guest = raw.packets(_CLIENT), raw.guest_packets
    for workload, receiver, sender in (("download", client, guest), ("upload", guest, client)):
        received, sent = (at_client, at_guest) if workload == "download" else (at_guest, at_client)
        for name, each in (
            (f"delivered_{workload}", deliveries(received, receivers=[receiver])),
            (f"acknowledged_{workload}", acknowledgements(sent, senders=[sender])),
        ):
            for delivery in each:
                if ports.get(workload) in (delivery.flow.local_port, delivery.flow.remote_port):
                    found[name] = delivery
    return found
