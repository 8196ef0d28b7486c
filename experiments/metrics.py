"""What a clause or a budget can be about: the measured columns of the trials table, and the kind of each."""

from __future__ import annotations

from typing import Literal

Kind = Literal["number", "truth"]

METRICS: dict[str, Kind] = {
    "blackout_ns": "number",
    "total_ns": "number",
    "rounds": "number",
    "bytes_sent": "number",
    "rto_min_ns": "number",
    "rounds_shrink": "truth",
    "perceived_ns": "number",
    "perceived_low_ns": "number",
    "perceived_high_ns": "number",
    "retransmits": "number",
    "client_retransmits": "number",
    "guest_retransmits": "number",
    "worst_flow_retransmits": "number",
    "cutover_retransmits": "number",
    "worst_flow_cutover_retransmits": "number",
    "resets": "number",
    "host_stall_ns": "number",
    "integrity": "truth",
    "captures_complete": "truth",
    "kernel_agrees": "truth",
    "disturbed": "truth",
}

STATISTICS = ("min", "median", "mean", "p95", "p99", "max", "share")
