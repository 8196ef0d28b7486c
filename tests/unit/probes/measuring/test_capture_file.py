"""Capture files of other programs, made byte by byte: formats, what cuts and damages them, and arbitrary bytes."""

import gzip
import os
import struct

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unnoticed.errors import RecordError
from unnoticed.probes.capture_file import INBOUND, OUTBOUND, open_capture
from unnoticed.probes.packets import parse

SECOND = 10**9
STAMP = 1_700_000_000


def pcap(*frames, order="<", magic=0xA1B2C3D4, link=1, snap=65535):
    """A pcap file; a frame is (seconds, units, bytes[, length on the wire])."""
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link)
    for seconds, units, data, *length in frames:
        out += struct.pack(order + "IIII", seconds, units, len(data), *(length or [len(data)])) + data
    return out


def block(kind, body, *, order="<"):
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def options(*pairs, order="<"):
    out = b""
    for code, value in pairs:
        out += struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
    return out + bytes(4) if pairs else b""


def section(order="<", *, major=1):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1), order=order)


def interface(*pairs, link=1, snap=0, order="<"):
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options(*pairs, order=order), order=order)


def packet(data, units, *pairs, which=0, length=None, order="<"):
    high, low = divmod(units, 1 << 32)
    head = struct.pack(order + "IIIII", which, high, low, len(data), len(data) if length is None else length)
    body = head + data + bytes(-len(data) % 4) + options(*pairs, order=order)
    return block(6, body, order=order)


def statistics(which, *pairs, order="<"):
    return block(5, struct.pack(order + "III", which, 0, 0) + options(*pairs, order=order), order=order)


def zstd(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file: `read(data)`; cut and damaged files are flagged."""

    def from_bytes(data, truncated="flag"):
        path = tmp_path / "x.pcap"
        path.write_bytes(data)
        return open_capture(path, truncated=truncated)

    return from_bytes


def frames(records):
    """The bytes of every frame."""
    places = zip(records.start.tolist(), records.captured.tolist(), strict=True)
    return [bytes(records.buffer[start : start + size]) for start, size in places]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "scale"), [(0xA1B23C4D, 1), (0xA1B2C3D4, 1000)])
def test_pcap_is_read_in_either_byte_order_and_resolution(read, order, magic, scale):
    records = read(pcap((7, 89, b"hello", 1500), (8, 1, b"world"), order=order, magic=magic))
    assert records.time_ns.tolist() == [7 * SECOND + 89 * scale, 8 * SECOND + scale]
    assert frames(records) == [b"hello", b"world"]
    assert records.length.tolist() == [1500, 5]
    assert not records.truncated


@pytest.mark.parametrize("order", "<>")
def test_pcapng_is_read_in_either_byte_order_with_the_direction_of_its_frames(read, order):
    flags = [(2, struct.pack(order + "I", value)) for value in (1, 2)]
    data = section(order) + interface(order=order)
    data += packet(b"abc", STAMP * 10**6, flags[0], order=order)
    data += packet(b"abcd", STAMP * 10**6 + 5, (1, b"a comment"), flags[1], length=99, order=order)
    data += packet(b"", STAMP * 10**6 + 6, order=order)
    records = read(data)
    assert frames(records) == [b"abc", b"abcd", b""]
    assert records.length.tolist() == [3, 99, 0]
    assert records.direction.tolist() == [INBOUND, OUTBOUND, 0]
    assert (records.time_ns - STAMP * SECOND).tolist() == [0, 5000, 6000]


@pytest.mark.parametrize(
    ("resolution", "units", "expected_ns"),
    [
        (None, 1_500_000, 1_500_000_000),
        (0, 3, 3 * SECOND),
        (3, 1500, 1_500_000_000),
        (9, 1_500_000_007, 1_500_000_007),
        (12, 1_500_000_007_999, 1_500_000_007),
        (0x80, 3, 3 * SECOND),
        (0x80 | 10, 1536, 1_500_000_000),
        (0x80 | 32, 3 << 31, 1_500_000_000),
        (0x80 | 40, 3 << 39, 1_500_000_000),
    ],
)
def test_an_interface_says_in_which_units_and_from_when_it_counts(read, resolution, units, expected_ns):
    pairs = [] if resolution is None else [(9, bytes([resolution]))]
    records = read(section() + interface(*pairs, (14, struct.pack("<q", -5))) + packet(b"x", units))
    assert records.time_ns.tolist() == [expected_ns - 5 * SECOND]


def test_sections_and_interfaces_are_told_apart_and_unknown_blocks_skipped(read):
    data = section() + interface((2, b"eth0")) + block(0xBAD, b"a custom block")
    data += interface((9, b"\x09"), (2, b"eth0.7"), link=113) + packet(b"one", 1, which=1)
    data += block(4, bytes(8)) + packet(b"two", 2, which=0)
    data += section(">") + interface(link=276, order=">") + packet(b"three", 3, order=">")
    records = read(data)
    assert frames(records) == [b"one", b"two", b"three"]
    assert records.link.tolist() == [113, 1, 276]
    assert records.interface.tolist() == [1, 0, 2]
    assert records.interface_names == ("eth0", "eth0.7", "")
    assert records.time_ns.tolist() == [1, 2000, 3000]


def test_simple_packets_have_the_length_of_the_snap_and_the_time_of_the_packet_before(read):
    data = section() + interface(snap=4) + packet(b"x", 9)
    data += block(3, struct.pack("<I", 100) + b"abcd") + block(3, struct.pack("<I", 2) + b"ab")
    records = read(data)
    assert frames(records) == [b"x", b"abcd", b"ab"]
    assert records.length.tolist() == [1, 100, 2]
    assert records.time_ns.tolist() == [9000, 9000, 9000]
    assert records.untimed == 2


def test_an_obsolete_packet_block_is_read(read):
    body = struct.pack("<HHIIII", 0, 0, 0, 77, 3, 60) + b"old\0"
    assert frames(read(section() + interface() + block(2, body))) == [b"old"]


def test_what_the_capturing_program_lost_is_the_last_count_of_each_interface(read):
    data = section() + interface() + interface() + packet(b"x", 1)
    for which, lost in ((0, 3), (1, 5), (0, 10)):
        data += statistics(which, (4, struct.pack("<Q", 99)), (5, struct.pack("<Q", lost)))
    assert read(data).dropped == 15
    assert read(section() + interface() + packet(b"x", 1)).dropped == 0


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize("make", [pcap, None], ids=["pcap", "pcapng"])
def test_a_compressed_capture_is_read_also_from_several_pieces(read, pack, make):
    packets = [os.urandom(1000) for _ in range(300)]
    if make is None:
        data = section() + interface() + b"".join(packet(one, k) for k, one in enumerate(packets))
    else:
        data = pcap(*((k, 0, one) for k, one in enumerate(packets)))
    assert frames(read(pack(data))) == packets
    assert frames(read(pack(data[:5000]) + pack(data[5000:]))) == packets


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_a_compressed_capture_that_was_cut_is_read_up_to_there(read, pack):
    packets = [os.urandom(1000) for _ in range(600)]
    data = pack(pcap(*((k, 0, one) for k, one in enumerate(packets))))
    records = read(data[: len(data) // 2])
    assert records.truncated
    assert 100 < len(records) < 400
    assert frames(records) == packets[: len(records)]
    with pytest.raises(RecordError, match="ends within a record"):
        read(data[: len(data) // 2], truncated="raise")


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_a_compressed_capture_that_was_damaged_is_read_up_to_there(read, pack):
    packets = [os.urandom(1000) for _ in range(600)]
    data = bytearray(pack(pcap(*((k, 0, one) for k, one in enumerate(packets)))))
    middle = len(data) // 2
    data[middle : middle + 70000] = bytes(70000)
    records = read(bytes(data))
    assert "damaged" in records.damage
    # The decoder notices at the latest when it compares the sum; what it gave out until then is the file's.
    assert frames(records)[:100] == packets[:100]


@pytest.mark.parametrize("cut", [1, 4, 31, 33, 35])
def test_a_cut_pcapng_file_is_read_up_to_there(read, cut):
    data = section() + interface() + packet(b"abc", 1) + packet(b"de", 2)
    records = read(data[:-cut])
    assert records.truncated
    assert frames(records) == [b"abc"]


def test_a_pcapng_file_that_ends_within_its_first_blocks_has_no_frames(read):
    data = section() + interface()
    records = read(data[:-3])
    assert records.truncated
    assert len(records) == 0


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (packet(b"x", 1, which=7), "makes no sense"),
        (struct.pack("<III", 6, 13, 0) + bytes(40), "makes no sense"),
        (block(6, bytes(8)), "makes no sense"),
        (struct.pack("<IIIII", 6, 32, 0, 0, 0) + struct.pack("<II", 5000, 5000) + bytes(40), "makes no sense"),
        (section(major=2), "version 2"),
        (block(0x0A0D0D0A, bytes(16)), "no byte-order magic"),
        (interface((9, b"\x1c")), "units of 10 to the power of -28"),
        (interface((9, b"\xc0")), "units of 2 to the power of -64"),
        (struct.pack("<II", 1, 16) + bytes(40), "says it is 16 bytes long"),
    ],
)
def test_damage_behind_the_first_frames_is_flagged_or_refused(read, tail, says):
    data = section() + interface() + packet(b"abc", 1)
    records = read(data + tail)
    assert frames(records) == [b"abc"]
    assert says in records.damage
    assert records.damage.endswith(".")
    assert not records.truncated
    for strictly in (data + tail, section() + interface() + tail):  # the latter has no frame to save
        with pytest.raises(RecordError, match=says):
            read(strictly, truncated="raise")
    with pytest.raises(RecordError, match=says):
        read(section() + interface() + tail)


def test_a_pcap_file_that_is_damaged_is_read_up_to_there(read):
    records = read(pcap((1, 0, b"abc")) + b"\xff" * 40)
    assert frames(records) == [b"abc"]
    assert "record 2 says it holds 4294967295 bytes" in records.damage


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds 0 bytes, which is no pcap file"),
        (b"\xa1\xb2", "holds 2 bytes"),
        (b"#!/bin/sh\nexec something --else\n", "does not start like a pcap file"),
        (b"\xfd7zXZ\x00" + bytes(40), "compressed by xz"),
        (pcap(link=147), "link type 147"),
        (gzip.compress(b"", mtime=0)[:9], "holds 0 bytes"),
        (b"\x1f\x8b\x63" + bytes(60), "damaged"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 60, "damaged"),
    ],
)
def test_what_is_no_capture_is_refused_in_one_sentence(read, data, says):
    with pytest.raises(RecordError, match=says) as refusal:
        read(data)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


def test_a_folder_a_missing_file_and_one_that_may_not_be_read_are_said_so(tmp_path):
    for path in (tmp_path, tmp_path / "not-there.pcap"):
        with pytest.raises(RecordError, match=r"cannot be read: .*\.$"):
            open_capture(path)


def test_many_interfaces_between_packets_take_time_in_proportion(read):
    one = interface() + packet(b"x", 1)
    records = read(section() + one * 20000)
    assert len(records) == 20000
    assert len(records.interface_names) == 20000


def test_many_pieces_of_memory_are_joined_in_order(read, monkeypatch):
    monkeypatch.setattr("unnoticed.probes.capture_file._PIECE", 3)
    packets = [bytes([k]) for k in range(20)]
    plain = pcap(*((k, 0, one) for k, one in enumerate(packets)))
    mixed = section() + b"".join((interface() if k % 4 == 0 else b"") + packet(one, k) for k, one in enumerate(packets))
    for data in (plain, mixed):
        records = read(data)
        assert frames(records) == packets
        assert (np.diff(records.time_ns) > 0).all()


FRAMES = st.lists(st.binary(max_size=80), max_size=5)
SEEDS = (
    st.builds(
        lambda packets, order: pcap(*((1, 2, one) for one in packets), order=order), FRAMES, st.sampled_from("<>")
    )
    | st.builds(
        lambda packets, order, pairs: (
            section(order)
            + interface(*pairs, order=order)
            + b"".join(packet(one, 5, *pairs, order=order) for one in packets)
            + statistics(0, *pairs, order=order)
        ),
        FRAMES,
        st.sampled_from("<>"),
        st.lists(st.tuples(st.integers(0, 14), st.binary(max_size=9)), max_size=3),
    )
    | st.binary(max_size=200)
)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4)


@given(
    seed=SEEDS,
    edits=EDITS,
    cut=st.integers(0, 60),
    packed=st.sampled_from([None, gzip.compress, zstd]),
    late=st.booleans(),
)
@example(seed=section(), edits=[(4, b"\0\0\0\0")], cut=0, packed=None, late=False)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
def test_no_bytes_lead_to_anything_but_frames_or_one_sentence(read, *, seed, edits, cut, packed, late):
    def damaged(data):
        data = bytearray(data)
        for at, value in edits:
            data[at : at + len(value)] = value
        return bytes(data[: len(data) - cut])

    data = seed if packed is None else packed(seed)
    data = damaged(data) if packed is None or late else packed(damaged(seed))
    try:
        records = read(data)
    except RecordError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence.endswith(".")  # noqa: PT018
        return
    ends = records.start + records.captured
    assert (records.start >= 0).all()
    assert (ends <= len(records.buffer)).all()
    assert len(parse(records)) == len(records)
