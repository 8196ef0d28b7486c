"""A TCP connection's state as bytes: they cross the network, so they are not trusted."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.kernel.tcp_repair import TcpState

u32, u16, u8 = (st.integers(0, (1 << bits) - 1) for bits in (32, 16, 8))
# An IPv6 address that an IPv4 one is mapped to is that one: no connection has it.
addresses = {
    4: st.ip_addresses(v=4).map(str),
    6: st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str),
}


@st.composite
def states(draw):
    send_queue = draw(st.binary(max_size=200))
    endpoints = st.tuples(addresses[draw(st.sampled_from([4, 6]))], u16)
    return TcpState(
        slot=draw(u32),
        local=draw(endpoints),
        remote=draw(endpoints),
        write_sequence=draw(u32),
        receive_sequence=draw(u32),
        mss=draw(u16),
        options=draw(u8),
        send_scale=draw(u8),
        receive_scale=draw(u8),
        peer_closed=draw(st.booleans()),
        window=draw(st.tuples(u32, u32, u32, u32, u32)),
        timestamp=draw(u32),
        send_buffer_bytes=draw(u32),
        receive_buffer_bytes=draw(u32),
        unsent_bytes=draw(st.integers(0, len(send_queue))),
        congestion=draw(st.sampled_from([b"cubic", b"bbr", b"reno", b"fifteen-letters"])),
        send_queue=send_queue,
        receive_queue=draw(st.binary(max_size=200)),
    )


EXAMPLE = TcpState(
    slot=5,
    local=("10.77.0.100", 7000),
    remote=("10.77.1.1", 40000),
    write_sequence=0xFFFFFFF0,
    receive_sequence=7,
    mss=1448,
    options=7,
    send_scale=7,
    receive_scale=9,
    peer_closed=True,
    window=(1, 2, 3, 4, 5),
    timestamp=99,
    send_buffer_bytes=87040,
    receive_buffer_bytes=131072,
    unsent_bytes=2,
    congestion=b"cubic",
    send_queue=b"sent, unsent",
    receive_queue=b"unread",
)


@given(state=states(), behind=st.binary(max_size=50))
def test_a_state_comes_back_whole_and_says_how_long_it_was(state, behind):
    packed = state.pack()
    assert TcpState.unpack(memoryview(packed + behind)) == (state, len(packed))


@given(several=st.lists(states(), max_size=5))
def test_states_can_be_packed_one_behind_the_other(several):
    data, position, found = memoryview(b"".join(state.pack() for state in several)), 0, []
    while position < len(data):
        state, length = TcpState.unpack(data[position:])
        found.append(state)
        position += length
    assert found == several


def test_every_truncation_is_a_value_error():
    packed = EXAMPLE.pack()
    for length in range(len(packed)):
        with pytest.raises(ValueError, match="cut short"):
            TcpState.unpack(memoryview(packed)[:length])


@given(junk=st.binary(max_size=400))
def test_junk_is_a_state_or_a_value_error(junk):
    try:
        _, length = TcpState.unpack(memoryview(junk))
    except ValueError:
        return
    assert length <= len(junk)


@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("length", [(64 << 20) + 1, 0xFFFFFFFF])
def test_a_queue_beyond_the_limit_is_refused_before_it_is_read(queue, length):
    packed = bytearray(EXAMPLE.pack())
    start = len(packed) - len(EXAMPLE.send_queue) - len(EXAMPLE.receive_queue) - 8
    struct.pack_into("<I", packed, start + 4 * queue, length)
    with pytest.raises(ValueError, match=f"queue of {length} bytes is beyond the limit"):
        TcpState.unpack(memoryview(packed))


@pytest.mark.parametrize("mixed", [("local", "fd77::64"), ("remote", "fd77::101")])
def test_a_connection_between_ipv4_and_ipv6_is_refused(mixed):
    end, address = mixed
    packed = dataclasses.replace(EXAMPLE, **{end: (address, 7000)}).pack()
    with pytest.raises(ValueError, match=f"a connection cannot be between .*{address}"):
        TcpState.unpack(memoryview(packed))


def test_more_unsent_bytes_than_there_are_is_refused():
    packed = dataclasses.replace(EXAMPLE, unsent_bytes=len(EXAMPLE.send_queue) + 1).pack()
    with pytest.raises(ValueError, match="more unsent bytes than its send queue holds"):
        TcpState.unpack(memoryview(packed))
