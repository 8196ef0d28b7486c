"""What a clause or a budget can be about: the measured columns of the trials table, and what follows from the outcome.

The names are those of `unnoticed.results.metrics`, listed again so that a plan can be checked without loading pandas.
"""

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
    "slowest_request_ns": "number",
    "slowest_connect_ns": "number",
    "unfinished": "truth",
    "retransmits": "number",
    "client_retransmits": "number",
    "guest_retransmits": "number",
    "worst_flow_retransmits": "number",
    "cutover_retransmits": "number",
    "worst_flow_cutover_retransmits": "number",
    "rounds_retransmits": "number",
    "push_retransmits": "number",
    "after_retransmits": "number",
    "held_frames": "number",
    "held_refused": "number",
    "held_answers": "number",
    "catch_up_ns": "number",
    "faults": "number",
    "fault_p50_ns": "number",
    "fault_p99_ns": "number",
    "fault_max_ns": "number",
    "pushed_bytes": "number",
    "demanded_bytes": "number",
    "resets": "number",
    "baseline_request_median_ns": "number",
    "baseline_request_p99_ns": "number",
    "brownout_request_median_ns": "number",
    "brownout_request_p99_ns": "number",
    "baseline_dirty_pages_per_s": "number",
    "brownout_dirty_pages_per_s": "number",
    "brownout_skipped_pages_per_s": "number",
    "brownout_dirty_share": "number",
    "host_stall_ns": "number",
    "integrity": "truth",
    "captures_complete": "truth",
    "kernel_agrees": "truth",
    "disturbed": "truth",
    "completed": "truth",
    "gave_up": "truth",
    "lost": "truth",
    "as_expected": "truth",  # it ended as the plan expects
}

STATISTICS = ("min", "median", "mean", "p95", "p99", "max", "share")
