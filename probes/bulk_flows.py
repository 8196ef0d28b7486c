"""Bulk transfers of the load, one way each: pure state machines like those of `flows`.

At a gigabyte per second it matters how the bytes are checked: `startswith` compares with memcmp and copies nothing,
where comparing memoryviews goes byte by byte.
"""

from __future__ import annotations

from unnoticed.probes.client_flows import Buffer, Flow, difference
from unnoticed.workload import HELLO, PATTERN_CHUNK, RECEIPT, Kind, pattern

_SAMPLE_BYTES = 32  # of random pattern: enough to say where in the stream they belong


class DownloadFlow(Flow):
    """The guest sends the connection's pattern, at the rate that our Hello asks for, until our direction ends."""

    kind = Kind.DOWNLOAD

    def received(self, data: Buffer, length: int, *, now_ns: int) -> None:  # noqa: ARG002
        if not data.startswith(pattern(self.connection, self.bytes_received, length)):
            self._compare(bytes(data[:length]))
        self.bytes_received += length

    @property
    def may_end(self) -> bool:
        return self.finishing and not self._unsent

    @property
    def missing(self) -> str:
        return ""  # it ends wherever the guest was when it saw our end

    def _compare(self, data: bytes) -> None:
        """Say how many bytes are wrong, from where on, and whether they belong elsewhere in the stream."""
        start = self.bytes_received
        wrong_bytes, offset = difference(data, bytes(pattern(self.connection, start, len(data))))
        sentence = (
            f"{wrong_bytes} of the {len(data)} bytes at {start} are wrong, the first at position {start + offset}"
        )
        sample = data[offset : offset + _SAMPLE_BYTES]
        if len(sample) == _SAMPLE_BYTES:
            around = bytes(pattern(self.connection, start + offset - PATTERN_CHUNK // 2, PATTERN_CHUNK))
            found = around.find(sample)
            if found >= 0:
                shift = found - PATTERN_CHUNK // 2
                sentence += f": {abs(shift)} bytes of the stream were {'lost' if shift > 0 else 'repeated'}"
        self.fault(sentence, wrong_bytes=wrong_bytes)


class UploadFlow(Flow):
    """We send the connection's pattern until told to finish; the guest answers our end with a Receipt."""

    kind = Kind.UPLOAD

    def __init__(self, *, connection: int) -> None:
        super().__init__(connection=connection)
        self._receipt = b""

    @property
    def uploaded_bytes(self) -> int:
        """How much of the pattern the kernel took (bytes_sent less the Hello)."""
        return max(0, self.bytes_sent - HELLO.size)

    def next_bytes(self) -> Buffer | memoryview:
        if self._unsent:
            return self._unsent
        if self.finishing:
            return b""
        return pattern(self.connection, self.uploaded_bytes, PATTERN_CHUNK)

    def took(self, count: int, *, now_ns: int) -> None:  # noqa: ARG002
        self.bytes_sent += count
        if self._unsent:
            del self._unsent[:count]

    def received(self, data: Buffer, length: int, *, now_ns: int) -> None:  # noqa: ARG002
        self.bytes_received += length
        before = len(self._receipt)
        self._receipt += bytes(data[:length])
        if before < RECEIPT.size <= len(self._receipt):
            arrived, wrong_bytes = RECEIPT.unpack_from(self._receipt)
            if not self.finishing:
                self.fault("the receipt came before the end of the upload")
            elif arrived != self.uploaded_bytes:
                self.fault(f"the guest received {arrived} bytes of {self.uploaded_bytes}")
            if wrong_bytes:
                self.fault(f"the guest received {wrong_bytes} wrong bytes", wrong_bytes=wrong_bytes)
        surplus = len(self._receipt) - max(before, RECEIPT.size)
        if surplus > 0:
            self.fault(f"{surplus} bytes came after the receipt", wrong_bytes=surplus)

    @property
    def may_end(self) -> bool:
        return self.finishing and not self._unsent

    @property
    def missing(self) -> str:
        return "" if len(self._receipt) >= RECEIPT.size else "no receipt"
