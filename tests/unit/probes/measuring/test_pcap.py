"""Pcap files: written and read back, read by scapy, damaged."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from unnoticed.errors import RecordError
from unnoticed.probes.capture import restore_tags
from unnoticed.probes.pcap import file_header, read_pcap, write_pcap

PACKETS = [bytes([k]) * size for k, size in enumerate((60, 14, 300, 96, 97, 1, 128, 66), start=1)]


def scapy_records(path):
    with RawPcapReader(str(path)) as reader:
        assert reader.nano
        return [(meta.sec * 10**9 + meta.usec, meta.wirelen, data) for data, meta in reader]


def test_scapy_reads_what_was_written(frames_of, tmp_path):
    frames = frames_of(PACKETS)
    write_pcap(tmp_path / "x.pcap", frames, snap=96)
    expected = [(int(t), len(p), p[:96]) for t, p in zip(frames.time_ns, PACKETS, strict=True)]
    assert scapy_records(tmp_path / "x.pcap") == expected


@given(packets=st.lists(st.binary(min_size=1, max_size=140), max_size=12), snap=st.integers(1, 128))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)  # it may compile first
def test_what_was_written_is_read_back(frames_of, tmp_path_factory, packets, snap):
    path = tmp_path_factory.mktemp("pcap") / "x.pcap"
    frames = frames_of(packets)
    write_pcap(path, frames, snap=snap)
    back = read_pcap(path)
    assert (back.time_ns == frames.time_ns).all()
    assert back.length.tolist() == [len(packet) for packet in packets]
    assert back.captured.tolist() == [min(len(packet), snap, 128) for packet in packets]
    for k, packet in enumerate(packets):
        kept = packet[:snap][:128]
        assert bytes(back.data[k]) == kept.ljust(128, b"\0")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "scale"), [(0xA1B23C4D, 1), (0xA1B2C3D4, 1000)])
def test_both_byte_orders_and_resolutions_are_read(tmp_path, order, magic, scale):
    path = tmp_path / "x.pcap"
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    path.write_bytes(header + struct.pack(order + "IIII", 7, 89, 5, 1500) + b"hello")
    frames = read_pcap(path)
    assert frames.time_ns.tolist() == [7 * 10**9 + 89 * scale]
    assert frames.length.tolist() == [1500]
    assert frames.captured.tolist() == [5]
    assert bytes(frames.data[0, :6]) == b"hello\0"


@pytest.mark.parametrize("cut", [1, 5, 16, 59, 60, 70])
def test_a_last_record_that_was_cut_is_refused_or_flagged(frames_of, tmp_path, cut):
    path = tmp_path / "x.pcap"
    write_pcap(path, frames_of([bytes(60), bytes(60)]), snap=96)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(RecordError, match="within a record, after 1 whole one"):
        read_pcap(path)
    frames = read_pcap(path, truncated="flag")
    assert frames.truncated
    assert len(frames) == 1


def test_a_file_without_frames_is_not_cut(tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(file_header(snap=96))
    frames = read_pcap(path)
    assert len(frames) == 0
    assert not frames.truncated
    path.write_bytes(file_header(snap=96) + bytes(3))
    with pytest.raises(RecordError, match="after 0 whole"):
        read_pcap(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 bytes"),
        (bytes(24), "does not start like a pcap"),
        (struct.pack("<I", 0x0A0D0D0A) + bytes(24), "no byte-order magic"),
        (struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 96, 147), "link type 147"),
        (file_header(snap=96) + struct.pack("=IIII", 0, 0, 1 << 30, 60), "record 1 says it holds"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=message):
        read_pcap(path)


def test_a_tag_goes_behind_the_addresses():
    row = np.arange(30, dtype=np.uint8)[None]
    tagged = restore_tags(row, tpid=np.array([0x8100], np.uint16), tci=np.array([5], np.uint16))
    assert bytes(tagged[0]) == bytes(range(12)) + b"\x81\x00\x00\x05" + bytes(range(12, 26))
