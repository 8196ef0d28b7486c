"""The migration protocol against a peer that means harm, or a network that does: every fault is a PeerError."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents import wire
from unnoticed.agents.wire import LocalProtocolError, Role, State, Type
from unnoticed.errors import PeerError

S, D = Role.SOURCE, Role.DESTINATION
PAGES = 64 << 20 >> 12


class Forger:
    """Frames with any body and the right tag: what a peer that has the key could send."""

    def __init__(self, conversation, count):
        self.conversation = conversation
        self.ends = conversation.played(count)

    def frame(self, sender, kind, body):
        header = wire._HEADER.pack(kind, 0, 0, len(body))
        return header + body + self.ends[sender]._tag(sender, header, body)

    def deliver(self, sender, kind, body):
        return self.conversation.deliver(self.frame(sender, kind, body), self.ends[sender.peer])


@pytest.fixture
def forge(conversation):
    return lambda count: Forger(conversation, count)


def test_every_truncation_is_a_peer_error(conversation, step):
    sender, message = conversation.script[step]
    data = conversation.played(step)[sender].send(message)
    for length in range(len(data)):
        receiver = conversation.played(step)[sender.peer]
        assert conversation.deliver(data[:length], receiver) == []
        with pytest.raises(PeerError):
            receiver.receive(b"")


def test_every_flipped_byte_is_a_peer_error(conversation, step):
    sender, message = conversation.script[step]
    data = conversation.played(step)[sender].send(message)
    for position, mask in itertools.product(range(len(data)), (0x01, 0x80, 0xFF)):
        harmed = bytearray(data)
        harmed[position] ^= mask
        receiver = conversation.played(step)[sender.peer]
        state = receiver.state
        with pytest.raises(PeerError):
            hang_up_after(conversation, bytes(harmed), receiver)
        assert receiver.state is state


@given(junk=st.binary(max_size=300), count=st.integers(0, 20))
def test_junk_is_a_peer_error(conversation, junk, count):
    for end in conversation.played(count).values():
        with pytest.raises(PeerError):
            hang_up_after(conversation, junk, end)


@given(body=st.binary(max_size=300), count=st.integers(0, 20))
def test_any_body_under_the_right_tag_is_a_message_or_a_peer_error(conversation, body, count):
    sender, message = conversation.script[count]
    forger = Forger(conversation, count)
    kind = forger.ends[sender].send(message)[0]
    forger = Forger(conversation, count)
    try:
        came = forger.deliver(sender, kind, body)
    except PeerError:
        return
    assert len(came) <= 1


@pytest.mark.parametrize(("kind", "limit"), wire._LIMITS.items(), ids=lambda value: getattr(value, "name", value))
def test_a_body_beyond_its_limit_is_refused_from_the_header_alone(conversation, kind, limit):
    state, sender = next(
        (state, sender) for state, moves in wire.TRANSITIONS.items() for sender, each in moves if each is kind
    )
    for length in (limit + 1, 0xFFFFFFFF):
        receiver = conversation.played(4)[sender.peer]
        receiver.state = state
        with pytest.raises(PeerError, match=f"{kind.name} of {length} bytes is beyond its limit of {limit}"):
            receiver.receive(wire._HEADER.pack(kind, 0, 0, length))


@pytest.mark.parametrize(
    "header", [b"\x00" * 8, b"\x17" + b"\x00" * 7, b"\x01\x01" + b"\x00" * 6, b"\x01\x00\x00\x80\x00\x00\x00\x00"]
)
def test_a_header_of_another_kind_is_refused_at_once(conversation, header):
    with pytest.raises(PeerError, match="none of this protocol's"):
        conversation.ends()[D].receive(header)


def test_a_message_beyond_its_limit_is_not_sent_and_changes_nothing(conversation):
    ends = conversation.played(conversation.index(wire.Commit))
    with pytest.raises(LocalProtocolError, match="COMMIT of 3030 bytes is beyond its limit of 256"):
        ends[S].send(wire.Commit(final_pages=7, total_pages=16391, announce="g" * 2969, owed_pages=15102))
    assert ends[S].state is State.STATE_SENT
    conversation.say(ends, *conversation.script[conversation.index(wire.Commit)])


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(0, 0)],
        [(PAGES, 1)],
        [(PAGES - 1, 2)],
        [(0xFFFFFFFF, 0xFFFFFFFF)],
        [(0, 1), (0, 1)],
        [(0, 2), (1, 1)],
        [(5, 1), (4, 1)],
        [(0, PAGES), (5, 1)],
        [(3, 1), (2**32 - 1, 1)],
    ],
)
def test_page_runs_that_are_empty_out_of_range_overlapping_or_out_of_order_are_refused(forge, conversation, pairs):
    forger = forge(5)
    body = np.array(pairs, dtype="<u4").tobytes()
    with pytest.raises(PeerError, match="PAGES name too many pages, or pages that are not in the guest's RAM"):
        forger.deliver(S, Type.PAGES, body)
    with pytest.raises(LocalProtocolError, match="PAGES name too many pages"):
        conversation.played(5)[S].send(wire.Pages(conversation.runs(*pairs)))


@pytest.mark.parametrize(
    ("encoding", "coded_bytes", "pages"),
    [
        *[(wire.Encoding.ZERO, 1, 1), (wire.Encoding.ZSTD, 0, 1), (wire.Encoding.XOR, 0, 1)],
        *[(wire.Encoding.ZSTD, 4096, 1), (wire.Encoding.XOR, 2**32 - 1, 1)],
        *[(each, each is not wire.Encoding.ZERO, wire.MOST_CODED_PAGES + 1) for each in wire.Encoding],
    ],
)
def test_codes_as_long_as_their_pages_or_of_too_many_or_without_bytes_are_refused(
    forge, conversation, encoding, coded_bytes, pages
):
    body = struct.pack("<IIII", encoding, coded_bytes, 0, pages)
    with pytest.raises(PeerError, match=f"CODED has {int(coded_bytes)} bytes for {pages} pages, which cannot be"):
        forge(5).deliver(S, Type.CODED, body)
    with pytest.raises(LocalProtocolError, match="which cannot be"):
        conversation.played(5)[S].send(wire.Coded(conversation.runs((0, pages)), encoding, int(coded_bytes)))


@pytest.mark.parametrize("body", [b"", struct.pack("<II", 2, 1)[:7], struct.pack("<IIII", 9, 1, 0, 1)])
def test_codes_in_no_known_encoding_or_cut_short_are_refused(forge, body):
    with pytest.raises(PeerError, match="CODED cannot be read"):
        forge(5).deliver(S, Type.CODED, body)


@pytest.mark.parametrize("pairs", [[], [(PAGES, 1)], [(0, 2), (1, 1)]])
def test_codes_of_pages_that_cannot_be_are_refused(forge, pairs):
    body = struct.pack("<II", wire.Encoding.ZSTD, 1) + np.array(pairs, dtype="<u4").tobytes()
    with pytest.raises(PeerError, match="PAGES name too many pages, or pages that are not in the guest's RAM"):
        forge(5).deliver(S, Type.CODED, body)


def test_more_pages_than_one_frame_may_announce_are_refused(conversation):
    hello = wire.Hello(nonce=conversation.nonces[S], memory_bytes=1 << 30)
    ends = conversation.ends()
    conversation.say(ends, S, hello)
    for number in range(1, 5):
        conversation.say(ends, *conversation.script[number])
    header = wire._HEADER.pack(Type.PAGES, 0, 0, 8)
    body = struct.pack("<II", 0, wire.MOST_PAGES + 1)
    with pytest.raises(PeerError, match="too many pages"):
        conversation.deliver(header + body + ends[S]._tag(S, header, body), ends[D])


@given(pairs=st.lists(st.tuples(st.integers(0, PAGES + 2), st.integers(0, 40)), max_size=8))
def test_runs_are_taken_exactly_when_they_ascend_inside_the_ram(conversation, pairs):
    expected = bool(pairs) and all(count > 0 for _, count in pairs) and pairs[-1][0] + pairs[-1][1] <= PAGES
    expected = expected and all(a + n <= b for (a, n), (b, _) in itertools.pairwise(pairs))
    forger = Forger(conversation, 5)
    body = np.array(pairs, dtype="<u4").tobytes()
    if expected:
        (message,) = forger.deliver(S, Type.PAGES, body)
        assert message.runs.tolist() == [list(pair) for pair in pairs]
        assert message.bytes_due == 4096 * sum(count for _, count in pairs)
    else:
        with pytest.raises(PeerError):
            forger.deliver(S, Type.PAGES, body)


def test_pages_that_are_owed_must_be_in_the_ram_and_as_many_as_the_commit_says(forge, conversation):
    number = conversation.index(wire.Owed)
    with pytest.raises(PeerError, match="pages that are not in the guest's RAM"):
        forge(number).deliver(S, Type.OWED, struct.pack("<II", PAGES - 1, 2))
    body = struct.pack("<QQ", 7, 16391) + b'{"announce":"none","digest":"","owed":15101}'
    with pytest.raises(PeerError, match="says that it owes 15101 pages; it has named 15102"):
        forge(conversation.index(wire.Commit)).deliver(S, Type.COMMIT, body)


def test_a_round_that_says_another_number_of_pages_than_came_is_refused(forge, conversation):
    number = conversation.index(wire.RoundEnd)
    with pytest.raises(PeerError, match="A round of 16384 pages was said to have 16383"):
        forge(number).deliver(S, Type.ROUND_END, struct.pack("<Q", 16383))
    with pytest.raises(PeerError, match="A round of 16384 pages was said to have 1"):
        forge(number + 1).deliver(D, Type.ROUND_ACK, struct.pack("<Q", 1))


@pytest.mark.parametrize(("final", "total"), [(6, 16391), (7, 16390), (8, 16392)])
def test_a_commit_whose_sums_are_not_what_came_is_refused(forge, conversation, final, total):
    body = struct.pack("<QQ", final, total) + b'{"announce":"none","digest":"","owed":15102}'
    with pytest.raises(PeerError, match=f"sent {final} pages at last and {total} in all; 7 and 16391 came"):
        forge(conversation.index(wire.Commit)).deliver(S, Type.COMMIT, body)


@pytest.mark.parametrize("body", [b"\x01", struct.pack("<I", 23) + bytes(23), struct.pack("<I", 24) + bytes(23)])
def test_frames_that_are_cut_short_are_refused(forge, conversation, body):
    with pytest.raises(PeerError, match="LATE cannot be read"):
        forge(conversation.index(wire.Late)).deliver(S, Type.LATE, body)


def test_wrong_sums_of_our_own_are_our_own_mistake(conversation):
    number = conversation.index(wire.RoundEnd)
    with pytest.raises(LocalProtocolError, match="was said to have 5"):
        conversation.played(number)[S].send(wire.RoundEnd(5))
    with pytest.raises(LocalProtocolError, match="was said to have 5"):
        conversation.played(number + 1)[D].send(wire.RoundAck(5))
    with pytest.raises(LocalProtocolError, match="7 and 16391 came"):
        conversation.played(conversation.index(wire.Commit))[S].send(
            wire.Commit(final_pages=7, total_pages=7, announce="garp", owed_pages=15102)
        )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"announce"',
        b"7",
        b"null",
        b"\xff\xfe",
        b'{"announce":"garp"}',
        b'{"announce":"garp","digest":""}',
        b'{"announce":"garp","digest":"","owed":"many"}',
        b'{"digest":""}',
        b'{"announce":"garp","digest":"0g","owed":0}',
        b'{"announce":"garp","digest":7,"owed":0}',
        b'{"announce":"garp","digest":null,"owed":0}',
    ],
)
def test_a_commit_that_cannot_be_read_is_a_peer_error(forge, conversation, text):
    with pytest.raises(PeerError, match="COMMIT cannot be read"):
        forge(conversation.index(wire.Commit)).deliver(S, Type.COMMIT, struct.pack("<QQ", 7, 16391) + text)


@pytest.mark.parametrize(
    ("head", "nonce", "says"),
    [
        ((5, 64 << 20, 0), b"n" * 32, "speaks version 5 of the protocol, this end 6"),
        ((6, 0, 0), b"n" * 32, "cannot be read"),
        ((6, 4097, 0), b"n" * 32, "cannot be read"),
        ((6, 1 << 63, 0), b"n" * 32, "cannot be read"),
        ((6, 2**64 - 4096, 0), b"n" * 32, "cannot be read"),
        ((6, 64 << 20, 3), b"n" * 32, "cannot be read"),
        ((6, 64 << 20, 0), b"n" * 31, "cannot be read"),
        ((6, 64 << 20, 0), b"n" * 33, "cannot be read"),
    ],
)
def test_a_greeting_with_another_version_or_a_ram_that_cannot_be_is_refused(forge, head, nonce, says):
    body = struct.pack("<HQB", *head) + nonce + wire.MAGIC
    with pytest.raises(PeerError, match=says):
        forge(0).deliver(S, Type.HELLO, body)


@pytest.mark.parametrize(
    "body", [b"", b"\0" * 7, struct.pack("<II", 0, 1), struct.pack("<III", 0, 2, 0), struct.pack("<II", 0, 0xFFFFFFFF)]
)
def test_a_state_with_fewer_lost_connections_than_it_says_cannot_be_read(forge, conversation, body):
    with pytest.raises(PeerError, match="STATE cannot be read"):
        forge(conversation.index(wire.GuestState)).deliver(S, Type.STATE, body)


def hang_up_after(conversation, data, receiver):
    """Give the data to an end, as far as it takes it, and hang up."""
    position = 0
    while position < len(data):
        piece = data[position : position + receiver.wanted]
        position += len(piece)
        receiver.receive(piece)
    receiver.receive(b"")
