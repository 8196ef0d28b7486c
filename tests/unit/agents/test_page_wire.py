"""The page protocol of a post-copy: what may be said on its two channels, and what is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.page_wire import (
    FRAME_BYTES,
    TRANSITIONS,
    Frame,
    Kind,
    PageWire,
    State,
    Type,
    channel_key,
)
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError

S, D = Role.SOURCE, Role.DESTINATION
PAGES = 4096
KEYS = {kind: channel_key(bytes(range(32)), kind) for kind in Kind}


def joined(kind):
    return {role: PageWire.joined(role, kind, key=KEYS[kind], pages=PAGES) for role in Role}


def say(ends, sender, frame):
    return ends[sender.peer].receive(ends[sender].send(frame))


@pytest.mark.parametrize("kind", Kind)
def test_ends_that_joined_are_as_those_that_are_made_joined(kind):
    ends = {role: PageWire(role, kind, key=KEYS[kind], pages=PAGES) for role in Role}
    assert say(ends, S, Frame(Type.JOIN)) == Frame(Type.JOIN)
    assert say(ends, D, Frame(Type.JOINED)) == Frame(Type.JOINED)
    made = joined(kind)
    assert ends[S].state is ends[D].state is made[S].state
    page = Frame(Type.PAGES, 7, 1)
    if kind is Kind.DEMAND:
        assert say({S: made[S], D: ends[D]}, D, Frame(Type.WANT, 7)) == Frame(Type.WANT, 7)
    assert say({S: made[S], D: ends[D]}, S, page) == page


def test_pages_come_in_the_order_in_which_they_were_wanted():
    ends = joined(Kind.DEMAND)
    for page in (9, 3, 9):
        say(ends, D, Frame(Type.WANT, page))
    assert ends[S].wanted == ends[D].wanted == 3
    for page in (9, 3, 9):
        say(ends, S, Frame(Type.PAGES, page, 1))
    assert ends[D].wanted == 0


@pytest.mark.parametrize("frame", [Frame(Type.PAGES, 4, 1), Frame(Type.PAGES, 3, 3), Frame(Type.PAGES, 2, 2)])
def test_a_page_that_nobody_wanted_is_refused(frame):
    ends = joined(Kind.DEMAND)
    say(ends, D, Frame(Type.WANT, 3))
    forger = joined(Kind.PUSH)[S]
    forger.key = KEYS[Kind.DEMAND]
    with pytest.raises(PeerError, match="another page than the one that was wanted"):
        ends[D].receive(forger.send(frame))


@pytest.mark.parametrize(("first", "mask"), [(PAGES, 1), (PAGES - 3, 0b1001), (0, 0)])
def test_pages_outside_of_the_ram_or_none_at_all_are_refused(first, mask):
    ends = joined(Kind.PUSH)
    liar = PageWire.joined(S, Kind.PUSH, key=KEYS[Kind.PUSH], pages=1 << 30)
    with pytest.raises(PeerError, match="no pages, or pages that the guest's RAM has not got"):
        ends[D].receive(forged(liar, Frame(Type.PAGES, first, mask)))


def test_a_page_outside_of_the_ram_cannot_be_wanted_nor_too_many_at_once():
    ends = joined(Kind.DEMAND)
    with pytest.raises(PeerError, match="that the guest's RAM has not got"):
        ends[D].send(Frame(Type.WANT, PAGES))
    for page in range(4096):
        say(ends, D, Frame(Type.WANT, page))
    with pytest.raises(PeerError, match="wants too many pages"):
        ends[D].send(Frame(Type.WANT, 1))


def test_the_end_of_the_push_says_how_many_pages_there_were():
    ends = joined(Kind.PUSH)
    say(ends, S, Frame(Type.PAGES, 64, (1 << 64) - 1))
    say(ends, S, Frame(Type.PAGES, 0, 0b101))
    with pytest.raises(PeerError, match="pushed 67 pages; 66 came"):
        ends[S].send(Frame(Type.END, total=67))
    assert say(ends, S, Frame(Type.END, total=66)) == Frame(Type.END, total=66)
    assert ends[D].state is State.ENDED


def test_the_path_is_filled_before_the_first_page_only():
    ends = joined(Kind.PUSH)
    assert say(ends, S, Frame(Type.FILL, total=1 << 18)) == Frame(Type.FILL, total=1 << 18)
    say(ends, S, Frame(Type.PAGES, 1, 1))
    with pytest.raises(PeerError, match="FILL from the source on its push channel while that was pushing"):
        ends[S].send(Frame(Type.FILL, total=1))


@pytest.mark.parametrize("total", [0, (1 << 18) + 1])
def test_the_path_is_not_filled_with_nothing_nor_with_too_much(total):
    ends = joined(Kind.PUSH)
    with pytest.raises(PeerError, match=f"fills the path with {total} bytes"):
        ends[D].receive(forged(ends[S], Frame(Type.FILL, total=total)))


@pytest.mark.parametrize(
    ("kind", "state", "sender", "frame"),
    [
        (kind, state, sender, frame)
        for kind, state, sender, frame in itertools.product(Kind, State, Role, Type)
        if state in TRANSITIONS[kind] and (sender, frame) not in TRANSITIONS[kind][state]
    ],
)
def test_what_the_table_does_not_list_can_neither_be_sent_nor_received(kind, state, sender, frame):
    ends = joined(kind)
    for end in ends.values():
        end._enter(state)
    with pytest.raises(PeerError, match=f"{frame.name} from the {sender.value} on its {kind.value} channel"):
        ends[sender].send(Frame(frame, 1, 1))
    with pytest.raises(PeerError, match=f"{frame.name} from the {sender.value} on its {kind.value} channel"):
        ends[sender.peer].receive(forged(ends[sender], Frame(frame, 1, 1)))


@given(data=st.binary(max_size=FRAME_BYTES))
def test_junk_is_refused(data):
    for kind in Kind:
        with pytest.raises(PeerError):
            joined(kind)[D].receive(data)


def test_every_flipped_bit_is_noticed():
    data = joined(Kind.PUSH)[S].send(Frame(Type.PAGES, 64, 0b1011))
    for position, bit in itertools.product(range(FRAME_BYTES), range(8)):
        harmed = bytearray(data)
        harmed[position] ^= 1 << bit
        with pytest.raises(PeerError, match="right tag"):
            joined(Kind.PUSH)[D].receive(bytes(harmed))


def test_a_frame_cannot_be_repeated_returned_or_moved_to_the_other_channel():
    ends, other = joined(Kind.PUSH), joined(Kind.DEMAND)
    data = ends[S].send(Frame(Type.PAGES, 1, 1))
    ends[D].receive(data)
    for victim in (ends[D], ends[S], other[D]):
        with pytest.raises(PeerError, match="right tag"):
            victim.receive(data)


def forged(end, frame):
    """A frame with the right tag that the rules forbid."""
    from unnoticed.agents.page_wire import _HEADER

    header = _HEADER.pack(frame.type, 0, 0, frame.first, frame.mask, frame.total)
    return header + end._tag(True, header)
