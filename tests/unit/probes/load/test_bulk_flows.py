"""Bulk transfers, fed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.probes.bulk_flows import DownloadFlow, UploadFlow
from unnoticed.probes.client_flows import difference
from unnoticed.workload import HELLO, MAGIC, PATTERN_CHUNK, RECEIPT, Kind, pattern

CONNECTION = (9 << 32) + 2


def stream(start, length):
    return b"".join(
        bytes(pattern(CONNECTION, position, min(PATTERN_CHUNK, start + length - position)))
        for position in range(start, start + length, PATTERN_CHUNK)
    )


def downloading():
    flow = DownloadFlow(connection=CONNECTION)
    flow.took(len(flow.next_bytes()), now_ns=1)
    return flow


def hear(flow, data):
    """Hand data over as the client does: at the start of a buffer that holds older bytes beyond it."""
    for offset in range(0, len(data), PATTERN_CHUNK):
        piece = data[offset : offset + PATTERN_CHUNK]
        flow.received(bytearray(piece) + b"old bytes", len(piece), now_ns=2)


@given(st.binary(max_size=300), st.data())
def test_the_difference_of_two_pieces_is_what_comparing_byte_by_byte_gives(right, data):
    other = bytearray(right)
    for position in data.draw(st.lists(st.integers(0, max(0, len(right) - 1)), max_size=5)):
        if right:
            other[position] ^= data.draw(st.integers(0, 255))
    positions = [position for position, byte in enumerate(right) if byte != other[position]]
    assert difference(bytes(other), right) == (len(positions), positions[0] if positions else len(right))


@given(st.lists(st.integers(1, PATTERN_CHUNK), max_size=12))
def test_a_right_download_in_any_pieces_leaves_nothing_to_say(pieces):
    flow = downloading()
    position = 0
    for length in pieces:
        hear(flow, stream(position, length))
        position += length
    assert (flow.integrity, flow.wrong_bytes, flow.bytes_received, flow.detail) == (True, 0, sum(pieces), "")


@pytest.mark.parametrize("at", [0, 1, 99_999, PATTERN_CHUNK - 1, PATTERN_CHUNK, 1_500_000])
def test_one_wrong_byte_of_a_download_is_found_with_its_position(at):
    data = bytearray(stream(0, 1_600_000))
    data[at] ^= 0x01
    flow = downloading()
    hear(flow, data)
    assert flow.wrong_bytes == 1
    assert f"the first at position {at}" in flow.detail
    assert not flow.integrity


def test_bytes_that_came_twice_are_found_and_counted():
    flow = downloading()
    hear(flow, stream(0, 100_000))
    hear(flow, stream(100_000 - 1448, 50_000))
    assert "1448 bytes of the stream were repeated" in flow.detail
    assert "the first at position 100000" in flow.detail
    assert flow.wrong_bytes > 49_000


def test_bytes_that_were_left_out_are_found_and_counted():
    flow = downloading()
    hear(flow, stream(0, 100_000) + stream(100_000 + 2896, 50_000))
    assert "2896 bytes of the stream were lost" in flow.detail


@pytest.mark.parametrize("rate_bytes_per_s", [0, 125_000, 5_000_000_000])
def test_the_hello_of_a_download_asks_for_its_rate(rate_bytes_per_s):
    flow = DownloadFlow(connection=CONNECTION, rate_bytes_per_s=rate_bytes_per_s)
    assert HELLO.unpack(flow.next_bytes()) == (MAGIC, Kind.DOWNLOAD, CONNECTION, rate_bytes_per_s)


def test_the_hello_of_an_upload_asks_for_no_rate():
    assert HELLO.unpack(UploadFlow(connection=CONNECTION).next_bytes()) == (MAGIC, Kind.UPLOAD, CONNECTION, 0)


def test_a_download_may_end_when_told():
    flow = downloading()
    assert not flow.may_end
    flow.finish()
    assert flow.may_end


def uploaded(length):
    flow = UploadFlow(connection=CONNECTION)
    flow.took(HELLO.size, now_ns=1)
    sent = b""
    while len(sent) < length:
        piece = bytes(flow.next_bytes())[: length - len(sent)]
        flow.took(len(piece), now_ns=2)
        sent += piece
    return flow, sent


def test_an_upload_sends_its_pattern_from_the_start_and_stops_when_told():
    flow, sent = uploaded(700_000)
    assert sent == stream(0, 700_000)
    flow.finish()
    assert not flow.next_bytes()
    assert flow.may_end
    assert flow.uploaded_bytes == 700_000


def test_an_upload_is_whole_when_its_receipt_says_so():
    flow, _ = uploaded(1000)
    flow.finish()
    assert flow.missing == "no receipt"
    hear(flow, RECEIPT.pack(1000, 0)[:7])
    assert not flow.integrity
    hear(flow, RECEIPT.pack(1000, 0)[7:])
    assert flow.integrity


@pytest.mark.parametrize(
    ("receipt", "detail", "wrong_bytes"),
    [
        (RECEIPT.pack(999, 0), "the guest received 999 bytes of 1000", 0),
        (RECEIPT.pack(1001, 0), "the guest received 1001 bytes of 1000", 0),
        (RECEIPT.pack(1000, 3), "the guest received 3 wrong bytes", 3),
        (RECEIPT.pack(1000, 0) + b"xy", "2 bytes came after the receipt", 2),
    ],
)
def test_an_upload_whose_receipt_says_otherwise_has_no_integrity(receipt, detail, wrong_bytes):
    flow, _ = uploaded(1000)
    flow.finish()
    hear(flow, receipt)
    assert (flow.detail, flow.wrong_bytes, flow.integrity) == (detail, wrong_bytes, False)


def test_a_receipt_before_the_end_is_a_fault():
    flow, _ = uploaded(1000)
    hear(flow, RECEIPT.pack(1000, 0))
    assert flow.detail == "the receipt came before the end of the upload"
    assert not flow.integrity
