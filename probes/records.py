"""The records of the load: what each request and each probe became, from the client that sent it.

A record file is an .npz (a zip of one-dimensional .npy arrays). The children write it without numpy: importing numpy
costs 0.3 processor seconds in each of them, at the end of every trial; the format is simple enough (numpy.lib.format,
version 1.0). Reading is the analysis' part, and done with numpy.

All times are CLOCK_MONOTONIC nanoseconds; 0 stands for never.
"""

from __future__ import annotations

import zipfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unnoticed.errors import RecordError
from unnoticed.probes.schedule import Schedule
from unnoticed.workload import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Names and dtypes (numpy's spelling) of the arrays, as in the files.
REQUEST_ARRAYS = {
    "workload": "|u1",
    "connection": "<u8",
    "sequence": "<i8",
    "intended_ns": "<i8",
    "sent_ns": "<i8",
    "answered_ns": "<i8",
    "right": "|b1",
}
PROBE_ARRAYS = {
    "stream": "<u4",
    "sequence": "<i8",
    "intended_ns": "<i8",
    "sent_ns": "<i8",
    "answered_ns": "<i8",
}

_DTYPES_OF_TYPECODES = {"B": ("|u1", "|b1"), "I": ("<u4",), "Q": ("<u8",), "q": ("<i8",)}


class RequestLog:
    """Collects the requests of one client while they happen. Cheap to append to: no object per request."""

    def __init__(self) -> None:
        self.workload = array("B")
        self.connection = array("Q")
        self.sequence = array("q")
        self.intended_ns = array("q")
        self.sent_ns = array("q")
        self.answered_ns = array("q")
        self.right = array("B")

    def __len__(self) -> int:
        return len(self.workload)

    def add(self, *, workload: Kind, connection: int, sequence: int, intended_ns: int) -> int:
        """Note that a request was meant to be sent at `intended_ns`, and return its row."""
        self.workload.append(workload)
        self.connection.append(connection)
        self.sequence.append(sequence)
        self.intended_ns.append(intended_ns)
        self.sent_ns.append(0)
        self.answered_ns.append(0)
        self.right.append(0)
        return len(self.workload) - 1

    def write(self, path: Path) -> None:
        """Write the record file (REQUEST_ARRAYS). Raises OSError."""
        _write_arrays(path, REQUEST_ARRAYS, {name: getattr(self, name) for name in REQUEST_ARRAYS})


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestRecords:
    """Requests and connection attempts: seven arrays of one length, one entry each per request.

    workload: a Kind (REQUEST, CONNECT). sequence: place in its connection, from 1; 0 for a connection attempt and for
    a request that was never given to a connection. sent_ns: when the kernel had taken all of it (a connection
    attempt: when it was started); 0 if it could not be sent at all. answered_ns: when the whole answer was read; 0 if
    none came. right: whether an answer came and was the one it must be.
    """

    workload: npt.NDArray[np.uint8]
    connection: npt.NDArray[np.uint64]
    sequence: npt.NDArray[np.int64]
    intended_ns: npt.NDArray[np.int64]
    sent_ns: npt.NDArray[np.int64]
    answered_ns: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.workload)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeRecords:
    """Probes: five arrays of one length, one entry each per slot of the schedule and stream.

    sent_ns is 0 where the prober came too late to use the slot and did not try: such a slot says nothing about the
    path. It must be counted neither as lost nor as answered, and no outage may be concluded from it.
    """

    stream: npt.NDArray[np.uint32]
    sequence: npt.NDArray[np.int64]
    intended_ns: npt.NDArray[np.int64]
    sent_ns: npt.NDArray[np.int64]
    answered_ns: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stream)


_Records = TypeVar("_Records", RequestRecords, ProbeRecords)


def write_probes(path: Path, *, schedule: Schedule, streams: dict[int, tuple[array[int], array[int]]]) -> None:
    """Write a record file of probes (PROBE_ARRAYS).

    `streams` gives sent and answered times ("q" arrays, one entry per slot of the schedule from slot 0 on) by stream.
    Raises OSError.
    """
    columns = {name: array("I" if dtype == "<u4" else "q") for name, dtype in PROBE_ARRAYS.items()}
    for stream, (sent_ns, answered_ns) in streams.items():
        slots = len(sent_ns)
        columns["stream"].extend(array("I", [stream]) * slots)
        columns["sequence"].extend(range(slots))
        columns["intended_ns"].extend(schedule.intended_ns(slot) for slot in range(slots))
        columns["sent_ns"].extend(sent_ns)
        columns["answered_ns"].extend(answered_ns)
    _write_arrays(path, PROBE_ARRAYS, columns)


def read_requests(path: Path) -> RequestRecords:
    """Read a client's requests. Raises RecordError, naming the file, if it is damaged or contradicts itself."""
    arrays = _read_arrays(path, REQUEST_ARRAYS)
    known = (arrays["workload"] == Kind.REQUEST) | (arrays["workload"] == Kind.CONNECT)
    if not known.all():
        raise RecordError(f"{path}: workload {arrays['workload'][~known][0]} is not one that records requests.")
    unanswered = arrays["answered_ns"] == 0
    if (arrays["right"] & unanswered).any():
        raise RecordError(f"{path}: a request without an answer is marked as answered right.")
    return RequestRecords(**arrays)


def read_probes(path: Path) -> ProbeRecords:
    """Read a client's probes. Raises RecordError, naming the file, if it is damaged or contradicts itself."""
    return ProbeRecords(**_read_arrays(path, PROBE_ARRAYS))


def merge(records: Sequence[_Records]) -> _Records:
    """The records of several processes of one client as one, in order of intended time (equal times keep their order).

    Raises RecordError if the same request or probe is in two of them, ValueError if there are none.
    """
    import numpy as np

    if not records:
        raise ValueError("there are no records to merge")
    kind: Any = type(records[0])
    names = list(REQUEST_ARRAYS if kind is RequestRecords else PROBE_ARRAYS)
    arrays = {name: np.concatenate([getattr(each, name) for each in records]) for name in names}
    group = arrays["connection"] if kind is RequestRecords else arrays["stream"]
    order = np.lexsort((arrays["sequence"], group))
    same = (group[order][1:] == group[order][:-1]) & (arrays["sequence"][order][1:] == arrays["sequence"][order][:-1])
    if kind is RequestRecords:
        same &= arrays["sequence"][order][1:] != 0  # many requests can have stayed unsent
    if same.any():
        twice = order[1:][same][0]
        raise RecordError(f"{names[0]} {group[twice]}, sequence {arrays['sequence'][twice]} is in two of the records.")
    order = np.argsort(arrays["intended_ns"], kind="stable")
    merged: _Records = kind(**{name: values[order] for name, values in arrays.items()})
    return merged


def _write_arrays(path: Path, dtypes: dict[str, str], columns: dict[str, array[int]]) -> None:
    """Write an .npz of little-endian arrays; under another name first, so that a file that exists is whole."""
    unfinished = path.with_name(path.name + ".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, dtype in dtypes.items():
            column = columns[name]
            if dtype not in _DTYPES_OF_TYPECODES[column.typecode]:
                raise ValueError(f"array {name} holds {column.typecode!r}, not {dtype}")
            header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({len(column)},), }}".encode()
            header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
            magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
            archive.writestr(f"{name}.npy", magic + header + column.tobytes())
    unfinished.replace(path)


def _read_arrays(path: Path, dtypes: dict[str, str]) -> dict[str, Any]:
    """The arrays of a record file, checked for what holds for requests and probes alike."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path} cannot be read as a record of requests or probes: {error}.") from error
    if set(arrays) != set(dtypes):
        raise RecordError(f"{path} holds the arrays {sorted(arrays)}, not {sorted(dtypes)}.")
    lengths = set()
    for name, dtype in dtypes.items():
        if arrays[name].dtype != np.dtype(dtype) or arrays[name].ndim != 1:
            raise RecordError(f"{path}: array {name} is {arrays[name].dtype}{arrays[name].shape}, not {dtype}(n,).")
        lengths.add(len(arrays[name]))
    if len(lengths) != 1:
        raise RecordError(f"{path}: its arrays have different lengths ({sorted(lengths)}).")
    sent, answered = arrays["sent_ns"], arrays["answered_ns"]
    if (arrays["intended_ns"] <= 0).any() or (sent < 0).any() or (answered < 0).any():
        raise RecordError(f"{path}: a time lies before the clock's beginning.")
    if ((answered != 0) & ((sent == 0) | (answered < sent))).any():
        raise RecordError(f"{path}: an answer is older than what it answers.")
    return arrays
