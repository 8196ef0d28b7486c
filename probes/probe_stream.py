"""What became of the probes of one stream: a pure record, fed with slots, datagrams and times."""

from __future__ import annotations

from array import array

from unnoticed.workload import MAGIC, PROBE


class ProbeStream:
    """Slot n of the schedule is probe n. Times are CLOCK_MONOTONIC ns, 0 for never."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.sent_ns = array("q")
        self.answered_ns = array("q")
        self.answers = 0
        self.duplicates = 0
        self.strange = 0

    def skip(self, count: int) -> None:
        """`count` slots passed unused: sent_ns 0, which says nothing about the path."""
        self.sent_ns.extend(array("q", bytes(8 * count)))
        self.answered_ns.extend(array("q", bytes(8 * count)))

    def probe(self, *, intended_ns: int, now_ns: int) -> bytes:
        """The datagram of the next slot, which is sent now."""
        sequence = len(self.sent_ns)
        self.sent_ns.append(now_ns)
        self.answered_ns.append(0)
        return PROBE.pack(MAGIC, self.stream, sequence, intended_ns)

    def answer(self, data: bytes | bytearray, length: int, *, arrived_ns: int) -> None:
        """An echo of `length` bytes came. The first one counts; what is no echo of a probe of ours is `strange`."""
        if length != PROBE.size:
            self.strange += 1
            return
        magic, stream, sequence, _ = PROBE.unpack_from(data)
        if magic != MAGIC or stream != self.stream or sequence >= len(self.sent_ns) or not self.sent_ns[sequence]:
            self.strange += 1
        elif self.answered_ns[sequence]:
            self.duplicates += 1
        else:
            self.answered_ns[sequence] = arrived_ns
            self.answers += 1

    def unanswered_of_last(self, slots: int) -> int:
        """How many of the probes sent in the last `slots` slots have no answer."""
        sent, answered = self.sent_ns[-slots:], self.answered_ns[-slots:]
        return sum(1 for each in range(len(sent)) if sent[each] and not answered[each])
