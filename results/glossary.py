"""Glossary: a line on each step of a cutover, each estimator and each kind of retransmission, for a report's reader."""

from __future__ import annotations

from unnoticed.results.schema import BROWNOUT_SPANS, NEW_CONNECTION, REQUEST_LATENCY, TIME_STAMP

# In the order in which they begin.
STEPS: dict[str, str] = {
    "hush": "A: new connections have to wait, and those half open are finished. The guest still runs.",
    "owe": "A: names the pages that come after the guest, so that B forgets what it has of them. The guest still runs.",
    "divert": "A: what comes for the guest is from now on to go to B, which holds it.",
    "plug": "B: begins to hold what comes for the guest.",
    "await-announcement": "A: waits until it sees the guest announced at B: nothing later will come A's way.",
    "close-in": "A: nothing reaches the guest any more; what still comes is sent after it.",
    "pause": "A: the guest is told to stop, and the blackout begins when it stands still.",
    "hold": "A: its connections send nothing new.",
    "scan": "A: finds the pages written since the last round.",
    "send": "A: hands these pages to the network.",
    "settle": "A: what is on its way from the guest is acknowledged, as far as a short wait sees it.",
    "close-gate": "A: the guest's port is closed. Frames for it are lost from here on.",
    "dump": "A: reads out the TCP connections (numbers, windows, what is queued) and sends them, part by part.",
    "receive": "B: takes the pages in.",
    "restore": "B: completes the connections that it has prepared for, as they arrive; they keep silent.",
    "await-ready": "A: waits for B to say that it holds all and has checked it. What B does meanwhile is the reason.",
    "await-relinquish": "B: waits for A to let go.",
    "relinquish": "A: lets go. From here on the guest can only run at B; before, it would have gone on at A.",
    "announce-early": "B: broadcasts where the guest is going to be, behind a port that is still closed.",
    "open-gate": "B: opens the guest's port there.",
    "announce": "B: broadcasts where the guest is now, so that switches learn its port.",
    "revive": "B: lets the connections speak.",
    "release": "B: gives the guest what was held for it.",
    "resume": "B: lets the guest run. The blackout ends.",
}

SPANS: dict[str, str] = dict(
    zip(
        BROWNOUT_SPANS,
        (
            "The second half of the warm-up; in the first, connections begin.",
            "From the order to migrate until the cutover.",
            "Of post-copy: from the resume until all pages had come.",
        ),
        strict=True,
    )
)

ESTIMATORS: dict[str, str] = {
    TIME_STAMP: (
        "The longest outage, by when the probes around it were sent (RFC 6413): half-way from the last that came "
        "through to the first that did not, and back. This is the one quoted as perceived downtime."
    ),
    "lost-frames": "Probes that were lost, times their period (RFC 6201, RFC 6413). Blind to what was only late.",
    "answer-gap": "The longest time between two answers, less a period. Includes what the way back added.",
    REQUEST_LATENCY: "The longest wait for the answer to a request, from when the request was due.",
    NEW_CONNECTION: "The longest time from opening a connection until it was answered.",
}

RETRANSMISSIONS: dict[str, str] = {
    "timer": "Nothing was acknowledged until the retransmission timer ran out (RTO); it doubles each time.",
    "fast": "Later segments were acknowledged and this one was not.",
    "probe": "The last segment of a burst, sent again early to learn whether it was lost (tail-loss probe).",
    "needless": "The receiver had it already, and said so (DSACK).",
}
