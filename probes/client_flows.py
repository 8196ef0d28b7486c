"""What one connection of the load says, and what it expects to hear: pure state machines, without socket or clock.

The owner of the socket asks a flow for bytes to send, tells it how many the kernel took, and hands it what came. Each
flow checks every byte by its position (see unnoticed.workload), and says afterwards what was wrong or is missing.
A flow ends in order: `finish` stops it; once `may_end` holds, the owner ends its direction; then the other end closes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import ClassVar

from unnoticed.probes.records import RequestLog
from unnoticed.workload import ANSWER, HELLO, REQUEST, Answer, Hello, Kind, mix

Buffer = bytes | bytearray

# A request is sent whether or not earlier ones were answered, or the load would stop asking while the server is away.
# 65 536 on one connection is an outage of eleven minutes at 100 requests per second; what comes then is recorded as
# meant and not sent.
OUTSTANDING_MAX = 1 << 16
_FAULTS_TOLD = 4


def difference(data: Buffer, right: bytes) -> tuple[int, int]:
    """How many bytes of two equally long pieces differ, and where the first one is (the length if none does)."""
    differing = (int.from_bytes(data, "little") ^ int.from_bytes(right, "little")).to_bytes(len(right), "little")
    return len(right) - differing.count(0), len(right) - len(differing.lstrip(b"\0"))


class Flow(ABC):
    """One connection. Byte counts are of TCP payload: `bytes_sent` what the kernel took, with the Hello."""

    kind: ClassVar[Kind]

    def __init__(self, *, connection: int, rate_bytes_per_s: int = 0) -> None:
        """`rate_bytes_per_s` is what a download asks the guest for; 0 is as fast as it goes."""
        self.connection = connection
        self.bytes_sent = 0
        self.bytes_received = 0
        self.wrong_bytes = 0
        self.finishing = False
        self._faults = 0
        self._told: list[str] = []
        self._unsent = bytearray(Hello(self.kind, connection, rate_bytes_per_s).pack())

    def next_bytes(self) -> Buffer | memoryview:
        """What can be sent now; empty if nothing."""
        return self._unsent

    def took(self, count: int, *, now_ns: int) -> None:  # noqa: ARG002
        """The kernel took the first `count` bytes of `next_bytes()`."""
        self.bytes_sent += count
        del self._unsent[:count]

    @abstractmethod
    def received(self, data: Buffer, length: int, *, now_ns: int) -> None:
        """The first `length` bytes of `data` came (at most workload.PATTERN_CHUNK)."""

    def finish(self) -> None:
        """Stop asking; what was asked is still waited for."""
        self.finishing = True

    @property
    @abstractmethod
    def may_end(self) -> bool:
        """Whether all is said and heard, so that our direction can be ended."""

    @property
    @abstractmethod
    def missing(self) -> str:
        """What has not come that must come ("" if nothing)."""

    @property
    def integrity(self) -> bool:
        """Whether every byte that came was right, and all came that must.

        True for a connection that was refused before it could carry a byte: that one lost none.
        """
        return not self._faults and not self.wrong_bytes and not (self.missing and self.bytes_sent)

    @property
    def detail(self) -> str:
        """What was wrong and what is missing, in words ("" if nothing); the first few faults only."""
        more = f"and {self._faults - _FAULTS_TOLD} faults more" if self._faults > _FAULTS_TOLD else ""
        return "; ".join(filter(None, [*self._told, more, self.missing]))

    def fault(self, sentence: str, *, wrong_bytes: int = 0) -> None:
        self._faults += 1
        if self._faults <= _FAULTS_TOLD:
            self._told.append(sentence)
        self.wrong_bytes += wrong_bytes


class RequestFlow(Flow):
    """Requests and their answers; each is a row of a RequestLog."""

    kind = Kind.REQUEST

    def __init__(self, *, connection: int, log: RequestLog, outstanding_max: int = OUTSTANDING_MAX) -> None:
        super().__init__(connection=connection)
        self._log = log
        self._outstanding_max = outstanding_max
        self._rows: deque[int] = deque()  # of the requests without an answer, oldest first
        self._unsent_rows: deque[int] = deque()  # the tail of these that the kernel has not taken whole
        self._asked = 0
        self._awaited = 1  # the sequence of the oldest one without an answer
        self._partial = b""

    @property
    def outstanding(self) -> int:
        """How many requests have no answer yet."""
        return len(self._rows)

    def request(self, *, intended_ns: int) -> bool:
        """Ask once more; False if too many are outstanding (it is recorded as never sent)."""
        if len(self._rows) >= self._outstanding_max:
            self._log.add(workload=self.kind, connection=self.connection, sequence=0, intended_ns=intended_ns)
            return False
        self._asked += 1
        row = self._log.add(
            workload=self.kind, connection=self.connection, sequence=self._asked, intended_ns=intended_ns
        )
        self._rows.append(row)
        self._unsent_rows.append(row)
        self._unsent += REQUEST.pack(self._asked, mix(self.connection, self._asked))
        return True

    def took(self, count: int, *, now_ns: int) -> None:
        super().took(count, now_ns=now_ns)
        whole = max(0, self.bytes_sent - HELLO.size) // REQUEST.size
        while self._asked - len(self._unsent_rows) < whole:
            self._log.sent_ns[self._unsent_rows.popleft()] = now_ns

    def received(self, data: Buffer, length: int, *, now_ns: int) -> None:
        self.bytes_received += length
        came = self._partial + bytes(data[:length])
        whole = len(came) - len(came) % ANSWER.size
        for offset in range(0, whole, ANSWER.size):
            answer = Answer(*ANSWER.unpack_from(came, offset))
            sent = len(self._rows) > len(self._unsent_rows)
            if sent and answer.is_right(connection=self.connection, sequence=self._awaited):
                self._answered(now_ns, right=True)
            else:
                self._wrong(answer, now_ns)
        self._partial = came[whole:]

    @property
    def may_end(self) -> bool:
        return self.finishing and not self._rows and not self._unsent

    @property
    def missing(self) -> str:
        parts = []
        if self._rows:
            parts.append(f"{len(self._rows)} requests from {self._awaited} on were not answered")
        if self._partial:
            parts.append(f"an answer ended after {len(self._partial)} bytes")
        return "; ".join(parts)

    def _answered(self, now_ns: int, *, right: bool) -> None:
        row = self._rows.popleft()
        self._log.answered_ns[row] = now_ns
        self._log.right[row] = right
        self._awaited += 1

    def _wrong(self, answer: Answer, now_ns: int) -> None:
        """Say how an answer is wrong, and go on at the request that it seems to be for."""
        expected = self._expected(self._awaited)
        wrong_bytes, _ = difference(ANSWER.pack(*answer), ANSWER.pack(*expected))
        outstanding = len(self._rows) - len(self._unsent_rows)
        genuine = answer.value == mix(self.connection, answer.sequence)
        if genuine and 0 < answer.sequence < self._awaited:
            self.fault(f"request {answer.sequence} was answered again", wrong_bytes=ANSWER.size)
        elif not outstanding:
            self.fault(f"an answer came to no request: {tuple(answer)}", wrong_bytes=ANSWER.size)
        elif genuine and self._awaited < answer.sequence < self._awaited + outstanding:
            # They have no answer for ever: leave answered_ns at 0.
            last = answer.sequence - 1
            lost = str(last) if last == self._awaited else f"{self._awaited} to {last}"
            self.fault(f"the answer to request {lost} was left out", wrong_bytes=wrong_bytes)
            while self._awaited < answer.sequence:
                self._rows.popleft()
                self._awaited += 1
            self._answered(now_ns, right=answer == self._expected(answer.sequence))
        else:
            deviations = [
                f"{name} {got} instead of {must}"
                for name, got, must in zip(Answer._fields, answer, expected, strict=True)
                if got != must
            ]
            self.fault(f"answer to request {self._awaited}: {', '.join(deviations)}", wrong_bytes=wrong_bytes)
            self._answered(now_ns, right=False)

    def _expected(self, sequence: int) -> Answer:
        previous = mix(self.connection, sequence - 1) if sequence > 1 else 0
        return Answer(sequence, sequence, previous, mix(self.connection, sequence))


class ConnectFlow(Flow):
    """A connection attempt: a Hello, one Answer, and the end. A row of a RequestLog with sequence 0."""

    kind = Kind.CONNECT

    def __init__(self, *, connection: int, log: RequestLog, intended_ns: int) -> None:
        super().__init__(connection=connection)
        self._log = log
        self.row = log.add(workload=self.kind, connection=connection, sequence=0, intended_ns=intended_ns)
        self._answer = b""

    def started(self, *, now_ns: int) -> None:
        """The attempt was begun (its SYN left)."""
        self._log.sent_ns[self.row] = now_ns

    def received(self, data: Buffer, length: int, *, now_ns: int) -> None:
        self.bytes_received += length
        before = len(self._answer)
        self._answer += bytes(data[:length])
        right = ANSWER.pack(0, 0, 0, mix(self.connection, 0))
        if before < ANSWER.size <= len(self._answer):
            wrong_bytes, position = difference(self._answer[: ANSWER.size], right)
            if wrong_bytes:
                self.fault(f"the answer is wrong from byte {position} on", wrong_bytes=wrong_bytes)
            self._log.answered_ns[self.row] = now_ns
            self._log.right[self.row] = not wrong_bytes
        surplus = len(self._answer) - max(before, ANSWER.size)
        if surplus > 0:
            self.fault(f"{surplus} bytes came after the answer", wrong_bytes=surplus)

    @property
    def may_end(self) -> bool:
        return len(self._answer) >= ANSWER.size and not self._unsent

    @property
    def missing(self) -> str:
        return "" if len(self._answer) >= ANSWER.size else "no answer"
