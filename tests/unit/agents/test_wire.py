"""The migration protocol between two ends joined by a fake pipe: what may be said, when, and what comes out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents import wire
from unnoticed.agents.wire import MAY_SOURCE_RESUME, TRANSITIONS, LocalProtocolError, Role, State, Type, Wire
from unnoticed.errors import PeerError

S, D = Role.SOURCE, Role.DESTINATION
EXAMPLES = {
    Type.HELLO: wire.Hello(nonce=b"n" * 32, memory_bytes=1 << 20),
    Type.WELCOME: wire.Welcome(nonce=b"n" * 32),
    Type.PROOF: wire.Proof(),
    Type.PREPARED: wire.Prepared(),
    Type.ROUND: wire.RoundStart(3),
    Type.PAGES: wire.Pages(np.array([[0, 1]], dtype=np.uint64)),
    Type.ROUND_END: wire.RoundEnd(0),
    Type.ROUND_ACK: wire.RoundAck(0),
    Type.FINAL: wire.Final(),
    Type.STATE: wire.GuestState(0, b""),
    Type.COMMIT: wire.Commit(final_pages=0, total_pages=0, announce="garp"),
    Type.READY: wire.Ready(0),
    Type.RELINQUISH: wire.Relinquish(),
    Type.RESUMED: wire.Resumed(1),
    Type.ABORT: wire.Abort("enough"),
    Type.DIVERT: wire.Divert(announce="garp", limit_bytes=1, limit_ns=1),
    Type.LATE: wire.Late((b"a" * 70,)),
    Type.HELD: wire.Held(()),
    Type.CODED: wire.Coded(np.array([[0, 1]], dtype=np.uint64), wire.Encoding.ZERO, 0),
    Type.OWED: wire.Owed(np.array([[0, 1]], dtype=np.uint64)),
    Type.COMPLETE: wire.Complete(time_ns=1, pushed_pages=1, demanded_pages=1),
    Type.LOST: wire.Lost("the cable, a ferret"),
    Type.CONNECTIONS: wire.Connections(1, b"one connection", (7,)),
    Type.POSITIONS: wire.Positions(b"one position"),
}
FORBIDDEN = [
    (state, sender, kind)
    for state in State
    for sender in Role
    for kind in Type
    if (sender, kind) not in TRANSITIONS[state]
]


def test_a_whole_migration_comes_out_as_it_was_put_in(conversation):
    ends = conversation.ends()
    for sender, message in conversation.script:
        assert conversation.plain(conversation.say(ends, sender, message)) == conversation.plain(message)
        assert ends[S].state is ends[D].state
    assert ends[S].state is State.DONE
    assert ends[S].pages_in_all == ends[D].pages_in_all == 16391


def test_pages_that_were_to_come_later_can_be_lost_with_the_guest(conversation):
    for number in (conversation.index(wire.Resumed), conversation.index(wire.Complete)):
        ends = conversation.played(number)
        assert conversation.say(ends, D, wire.Lost("nobody serves them")) == wire.Lost("nobody serves them")
        assert ends[S].state is ends[D].state is State.DONE


def test_both_ends_derive_the_same_key_from_their_conversation_and_no_other_has_it(conversation):
    ends = conversation.played(3)
    assert ends[S].session_key == ends[D].session_key
    others = conversation.played(3, key=b"another key")
    assert ends[S].session_key != others[S].session_key


@given(cuts=st.lists(st.integers(1, 2000), max_size=60), number=st.integers(0, 20))
def test_it_does_not_matter_how_the_stream_is_cut(conversation, cuts, number):
    sender, message = conversation.script[number]
    ends = conversation.played(number)
    came = conversation.deliver(ends[sender].send(message), ends[sender.peer], cuts=sorted(set(cuts)))
    assert [conversation.plain(each) for each in came] == [conversation.plain(message)]


def test_byte_by_byte_is_enough(conversation):
    ends = conversation.ends()
    for sender, message in conversation.script:
        data = ends[sender].send(message)
        came = [ends[sender.peer].receive(data[n : n + 1]) for n in range(len(data))]
        assert came[:-1] == [None] * (len(data) - 1)
        assert conversation.plain(came[-1]) == conversation.plain(message)


def test_an_end_never_wants_what_lies_behind_the_frame(conversation, step):
    sender, message = conversation.script[step]
    ends = conversation.played(step)
    data = ends[sender].send(message)
    left, receiver = len(data), ends[sender.peer]
    while left:
        assert 0 < receiver.wanted <= left
        piece = data[len(data) - left :][: receiver.wanted]
        left -= len(piece)
        receiver.receive(piece)


def test_more_than_is_wanted_is_our_own_mistake(conversation):
    ends = conversation.ends()
    with pytest.raises(LocalProtocolError, match="9 bytes where 8 were wanted"):
        ends[D].receive(bytes(9))


def test_hanging_up_is_an_error_that_says_when(conversation, step):
    sender, _ = conversation.script[step]
    receiver = conversation.played(step)[sender.peer]
    with pytest.raises(PeerError, match=f"{sender.value} hung up while the conversation was {receiver.state.value}"):
        receiver.receive(b"")


@pytest.mark.parametrize(("state", "sender", "kind"), FORBIDDEN)
def test_what_the_table_does_not_list_can_neither_be_sent_nor_received(conversation, state, sender, kind):
    ends = conversation.played(4)
    for end in ends.values():
        end.state = state
    with pytest.raises(LocalProtocolError, match=f"{kind.name} from the {sender.value} while"):
        ends[sender].send(EXAMPLES[kind])
    assert ends[sender].state is state
    header = wire._HEADER.pack(kind, 0, 0, 0)
    with pytest.raises(PeerError, match=f"{kind.name} from the {sender.value} while"):
        ends[sender.peer].receive(header)


def test_the_table_covers_every_state_and_both_ends_agree_that_the_last_two_are_final():
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.DONE] == {}
    assert set(TRANSITIONS[State.ABORTED].values()) == {State.ABORTED}
    reached = {State.GREETING} | {to for moves in TRANSITIONS.values() for to in moves.values()}
    assert reached == set(State)


def test_the_guest_can_never_run_in_two_places():
    """The source may go on up to RELINQUISH; only RELINQUISH, from the source, leads to where the destination may."""
    assert set(State) - MAY_SOURCE_RESUME == {State.RELINQUISHED, State.RESUMED, State.DONE}
    ways_in = [
        (state, move)
        for state, moves in TRANSITIONS.items()
        for move, to in moves.items()
        if to not in MAY_SOURCE_RESUME and state in MAY_SOURCE_RESUME
    ]
    assert ways_in == [(State.READY, (S, Type.RELINQUISH))]
    assert not any(Type.ABORT in {kind for _, kind in TRANSITIONS[state]} for state in set(State) - MAY_SOURCE_RESUME)


def test_either_end_can_abort_from_preparing_until_committed(conversation):
    states = [
        State.PREPARING,
        State.STREAMING,
        State.DIVERTED,
        State.IN_ROUND,
        State.ROUND_ENDED,
        State.FINAL,
        State.STATE_SENT,
        State.COMMITTED,
    ]
    for state in states:
        for sender in Role:
            ends = conversation.played(4)
            for end in ends.values():
                end.state = state
            assert conversation.say(ends, sender, wire.Abort("the cable, a ferret")) == wire.Abort(
                "the cable, a ferret"
            )
            assert ends[S].state is ends[D].state is State.ABORTED


def test_after_an_abort_the_destination_gives_back_what_it_held_and_the_source_has_nothing_to_say(conversation):
    ends = conversation.played(conversation.index(wire.Final))
    conversation.say(ends, S, wire.Abort("enough"))
    frames = [bytes([number]) * (12 << 20) for number in range(5)]
    parts = list(wire.split_frames(frames))
    assert [len(part) for part in parts] == [2, 2, 1]
    came = [conversation.say(ends, D, wire.Held(part)).frames for part in (*parts, ())]
    assert [frame for part in came for frame in part] == frames
    assert came[-1] == ()
    for kind, message in EXAMPLES.items():
        with pytest.raises(LocalProtocolError, match=kind.name):
            ends[S].send(message)


def test_a_reason_that_is_too_long_is_cut_and_may_be_cut_within_a_character(conversation):
    ends = conversation.played(4)
    came = conversation.say(ends, S, wire.Abort("é" * 5000))
    assert came.reason.startswith("é" * 2047)
    ends = conversation.played(4)
    came = conversation.say(ends, S, wire.Abort("x" + "é" * 5000))
    assert came.reason == "x" + "é" * 2047 + "�"


def test_the_wrong_key_is_noticed_at_the_first_frame(conversation):
    ends = conversation.ends(other_key=b"another key")
    with pytest.raises(PeerError, match="HELLO does not carry the right tag: another key"):
        conversation.say(ends, *conversation.script[0])


def test_a_destination_without_the_key_cannot_answer(conversation):
    impostor = Wire(D, key=b"another key", nonce=b"i" * 32)
    ends = conversation.played(1)
    impostor.state = State.GREETED
    impostor._nonces[S] = ends[S].nonce
    with pytest.raises(PeerError, match="WELCOME does not carry the right tag"):
        conversation.deliver(impostor.send(wire.Welcome(nonce=b"i" * 32)), ends[S])


def test_a_recorded_source_cannot_be_replayed_to_a_destination_with_another_nonce(conversation):
    ends = conversation.ends()
    recorded = []
    for sender, message in conversation.script:
        data = ends[sender].send(message)
        conversation.deliver(data, ends[sender.peer])
        if sender is S:
            recorded.append(data)
    victim = Wire(D, key=conversation.key, nonce=b"\x03" * 32)
    conversation.deliver(recorded[0], victim)  # HELLO is only a question
    victim.send(wire.Welcome(nonce=victim.nonce))
    with pytest.raises(PeerError, match="PROOF does not carry the right tag"):
        conversation.deliver(recorded[1], victim)


def test_a_recorded_destination_cannot_be_replayed_to_a_source_with_another_nonce(conversation):
    ends = conversation.played(1)
    recorded = ends[D].send(conversation.script[1][1])
    victim = Wire(S, key=conversation.key, nonce=b"\x03" * 32)
    victim.send(wire.Hello(nonce=victim.nonce, memory_bytes=1 << 20))
    with pytest.raises(PeerError, match="WELCOME does not carry the right tag"):
        conversation.deliver(recorded, victim)


def test_a_frame_cannot_be_repeated_or_reflected(conversation):
    ends = conversation.played(4)
    aborted = ends[S].send(wire.Abort("once"))
    ends[D].state = ends[S].state = State.STREAMING
    conversation.deliver(aborted, ends[D])
    ends[D].state = State.STREAMING
    with pytest.raises(PeerError, match="right tag"):  # the counter went on
        conversation.deliver(aborted, ends[D])
    with pytest.raises(PeerError, match="right tag"):  # its sender's role is in the tag
        conversation.deliver(aborted, ends[S])


def test_a_nonce_has_32_bytes(conversation):
    with pytest.raises(LocalProtocolError, match="a nonce has 32 bytes, not 31"):
        Wire(S, key=b"k", nonce=b"n" * 31)


def test_connections_are_named_before_they_move_and_their_states_come_in_several_parts(conversation):
    ends = conversation.played(4)
    coming = wire.Connections(2, b"two connections", (9, 1023))
    for message in (coming, wire.RoundStart(0), coming, wire.RoundEnd(0)):
        assert conversation.plain(conversation.say(ends, S, message)) == conversation.plain(message)
    conversation.say(ends, D, wire.RoundAck(0))
    parts = [wire.GuestState(1, b"one"), wire.GuestState(0, b"", (5,)), wire.GuestState(1, b"two")]
    for message in (coming, wire.Final(), *parts, wire.Commit(final_pages=0, total_pages=0, announce="garp")):
        assert conversation.plain(conversation.say(ends, S, message)) == conversation.plain(message)
    assert ends[S].state is ends[D].state is State.COMMITTED
