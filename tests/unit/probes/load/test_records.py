"""Record files: written by the children without numpy, read by the analysis with it."""

import zipfile
from array import array

import numpy as np
import pytest

from unnoticed.errors import RecordError
from unnoticed.probes.records import (
    PROBE_ARRAYS,
    REQUEST_ARRAYS,
    RequestLog,
    merge,
    read_probes,
    read_requests,
    write_probes,
)
from unnoticed.probes.schedule import Schedule
from unnoticed.workload import Kind


def some_requests(connection=(3 << 40) + 1, first_ns=1000):
    log = RequestLog()
    for sequence in (1, 2, 3):
        row = log.add(workload=Kind.REQUEST, connection=connection, sequence=sequence, intended_ns=first_ns + sequence)
        if sequence < 3:
            log.sent_ns[row], log.answered_ns[row], log.right[row] = first_ns + 10, first_ns + 20, 1
    return log


def altered(path, **arrays):
    """Rewrite a record file with some arrays exchanged (None: left out)."""
    with np.load(path) as archive:
        everything = {**archive, **arrays}
    np.savez(path, **{name: values for name, values in everything.items() if values is not None})
    return path


def test_requests_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "c1.requests.npz"
    some_requests().write(path)
    records = read_requests(path)
    assert len(records) == 3
    assert records.workload.tolist() == [Kind.REQUEST] * 3
    assert records.connection.tolist() == [(3 << 40) + 1] * 3
    assert records.sequence.tolist() == [1, 2, 3]
    assert records.intended_ns.tolist() == [1001, 1002, 1003]
    assert records.sent_ns.tolist() == [1010, 1010, 0]
    assert records.answered_ns.tolist() == [1020, 1020, 0]
    assert records.right.tolist() == [True, True, False]


def test_an_empty_record_is_a_record(tmp_path):
    RequestLog().write(tmp_path / "a.npz")
    assert len(read_requests(tmp_path / "a.npz")) == 0
    write_probes(tmp_path / "b.npz", schedule=Schedule(start_ns=1, period_ns=1), streams={})
    assert len(read_probes(tmp_path / "b.npz")) == 0


def test_the_files_have_the_arrays_and_types_of_the_format_and_nothing_is_left_beside_them(tmp_path):
    some_requests().write(tmp_path / "c1.requests.npz")
    write_probes(
        tmp_path / "c1.probe.npz",
        schedule=Schedule(start_ns=1000, period_ns=10),
        streams={0: (array("q", [1001]), array("q", [0]))},
    )
    for name, arrays in (("c1.requests.npz", REQUEST_ARRAYS), ("c1.probe.npz", PROBE_ARRAYS)):
        with np.load(tmp_path / name) as archive:
            assert {each: archive[each].dtype.str for each in archive.files} == arrays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c1.probe.npz", "c1.requests.npz"]


def test_probes_come_back_stream_by_stream_with_their_intended_times(tmp_path):
    path = tmp_path / "c1.probe.npz"
    write_probes(
        path,
        schedule=Schedule(start_ns=1000, period_ns=10),
        streams={
            0: (array("q", [1001, 0, 1021]), array("q", [1005, 0, 0])),
            1: (array("q", [1002, 0, 1022]), array("q", [1006, 0, 1026])),
        },
    )
    records = read_probes(path)
    assert records.stream.tolist() == [0, 0, 0, 1, 1, 1]
    assert records.sequence.tolist() == [0, 1, 2, 0, 1, 2]
    assert records.intended_ns.tolist() == [1000, 1010, 1020] * 2
    assert records.sent_ns.tolist() == [1001, 0, 1021, 1002, 0, 1022]
    assert records.answered_ns.tolist() == [1005, 0, 0, 1006, 0, 1026]


def test_the_records_of_two_processes_are_merged_in_order_of_intended_time(tmp_path):
    some_requests(connection=1, first_ns=1001).write(tmp_path / "a.npz")
    some_requests(connection=2, first_ns=1000).write(tmp_path / "b.npz")
    merged = merge([read_requests(tmp_path / "a.npz"), read_requests(tmp_path / "b.npz")])
    assert merged.intended_ns.tolist() == [1001, 1002, 1002, 1003, 1003, 1004]
    assert merged.connection.tolist() == [2, 1, 2, 1, 2, 1]


def test_records_that_share_a_request_are_not_merged(tmp_path):
    some_requests().write(tmp_path / "a.npz")
    records = read_requests(tmp_path / "a.npz")
    with pytest.raises(RecordError, match="sequence 1 is in two"):
        merge([records, records])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"right": None}, "holds the arrays"),
        ({"more": np.zeros(3)}, "holds the arrays"),
        ({"sequence": np.zeros(3, "<i4")}, "array sequence is int32"),
        ({"sequence": np.zeros((3, 1), "<i8")}, "array sequence is int64"),
        ({"sequence": np.zeros(2, "<i8")}, "different lengths"),
        ({"intended_ns": np.zeros(3, "<i8")}, "clock's beginning"),
        ({"sent_ns": np.full(3, -1)}, "clock's beginning"),
        ({"answered_ns": np.full(3, 1009)}, "older than what it answers"),
        ({"sent_ns": np.zeros(3, "<i8")}, "older than what it answers"),
        ({"right": np.ones(3, bool)}, "without an answer"),
        ({"workload": np.full(3, Kind.DOWNLOAD, "u1")}, "workload 2"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused_by_name(tmp_path, damage, message):
    path = tmp_path / "c1.requests.npz"
    some_requests().write(path)
    with pytest.raises(RecordError, match=message) as caught:
        read_requests(altered(path, **damage))
    assert str(path) in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "c1.requests.npz"
    some_requests().write(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match="cannot be read"):
        read_requests(path)


def test_a_file_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "c1.requests.npz"
    some_requests().write(path)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("sent_ns.npy").header_offset
    data = bytearray(path.read_bytes())
    data[start + 30 + len("sent_ns.npy") + 128] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match="cannot be read"):
        read_requests(path)


def test_a_file_that_is_not_there_is_an_error_of_the_record(tmp_path):
    with pytest.raises(RecordError, match="cannot be read"):
        read_probes(tmp_path / "c9.probe.npz")
