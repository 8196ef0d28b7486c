"""Answers for a guest that runs nowhere: against frames that scapy made, and read by scapy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from unnoticed.agents.kernel.tcp_repair import Position
from unnoticed.agents.zero_window import ZeroWindow, positions_behind

GUEST, CLIENT = ("10.77.0.100", 7000), ("10.77.0.11", 40000)
GUEST6, CLIENT6 = ("fd77::64", 7000), ("fd77::b", 40000)
GUEST_MAC, CLIENT_MAC = "02:77:00:00:00:64", "02:77:00:00:01:01"
NEXT, HIS = 1_000_000, 5_000_000
SPACE = 1 << 32


def at(*, local=GUEST, remote=CLIENT, sequence=NEXT, timestamp=77):
    return Position(local=local, remote=remote, receive_sequence=sequence % SPACE, timestamp=timestamp)


def segment(offset, data=b"x" * 100, *, flags="A", ack=HIS, value=500, gso=0, port=CLIENT[1], ip=None, start=NEXT):
    """A frame of the client's, behind its virtio header; `offset`: of its data from what is due."""
    options = [] if value is None else [("NOP", None), ("NOP", None), ("Timestamp", (value, 1))]
    ip = IP(src=CLIENT[0], dst=GUEST[0]) if ip is None else ip
    tcp = TCP(sport=port, dport=GUEST[1], seq=(start + offset) % SPACE, ack=ack % SPACE, flags=flags, options=options)
    frame = bytes(Ether(src=CLIENT_MAC, dst=GUEST_MAC) / ip / tcp / data)
    return bytes([0, 1 if gso else 0]) + (0).to_bytes(2, "little") + gso.to_bytes(2, "little") + bytes(4) + frame


def read(answer):
    assert answer[:10] == bytes(10)
    frame = Ether(answer[10:])
    assert (frame.src, frame.dst) == (GUEST_MAC, CLIENT_MAC)
    fresh = frame.copy()
    for layer in (IP, TCP):
        if layer in fresh:
            del fresh[layer].chksum
    assert bytes(fresh) == bytes(frame), "a check sum is wrong"
    return frame


def window(*positions, limit_bytes=1 << 20):
    return ZeroWindow(positions or [at()], limit_bytes=limit_bytes)


def sequences(window):
    return [read(answer)[TCP].ack for answer in window.answers()]


def test_what_is_held_is_acknowledged_without_a_window():
    held = window()
    held.take(segment(0))
    (answer,) = held.answers()
    tcp = read(answer)[TCP]
    assert (tcp.sport, tcp.dport) == (GUEST[1], CLIENT[1])
    assert (tcp.seq, tcp.ack, tcp.window, tcp.flags) == (HIS, NEXT + 100, 0, "A")
    assert dict(tcp.options[2:]) == {"Timestamp": (77, 500)}
    assert held.answers() == []
    assert held.answered == 1


def test_the_same_over_ipv6():
    held = window(at(local=GUEST6, remote=CLIENT6))
    held.take(segment(0, ip=IPv6(src=CLIENT6[0], dst=GUEST6[0])))
    (answer,) = held.answers()
    frame = read(answer)
    assert (frame[IPv6].src, frame[IPv6].dst) == (GUEST6[0], CLIENT6[0])
    assert (frame[TCP].ack, frame[TCP].window) == (NEXT + 100, 0)


def test_a_connection_without_timestamps_gets_none():
    held = window(at(timestamp=None))
    held.take(segment(0, value=None))
    (answer,) = held.answers()
    assert read(answer)[TCP].options == []


def test_frames_that_follow_one_another_are_acknowledged_at_once():
    held = window()
    for number in range(5):
        held.take(segment(100 * number, ack=HIS + number, value=500 + number))
    (answer,) = held.answers()
    tcp = read(answer)[TCP]
    assert (tcp.ack, tcp.seq) == (NEXT + 500, HIS + 4)
    assert dict(tcp.options[2:])["Timestamp"] == (77, 504)


def test_nothing_behind_a_gap_is_acknowledged():
    held = window()
    held.take(segment(100))
    assert held.answers() == []
    held.take(segment(0))
    assert sequences(held) == [NEXT + 100]
    held.take(segment(100))  # again, from the client's timer
    assert sequences(held) == [NEXT + 200]


def test_what_comes_again_is_acknowledged_again():
    held = window()
    held.take(segment(0))
    held.take(segment(-50, b"y" * 100))
    assert sequences(held) == [NEXT + 100]
    held.take(segment(0))
    assert sequences(held) == [NEXT + 100]


def test_a_probe_of_the_window_is_answered_and_an_acknowledgement_is_not():
    held = window()
    held.take(segment(0, b""))
    assert held.answers() == []
    held.take(segment(-1, b""))
    assert sequences(held) == [NEXT]


def test_a_fin_is_left_to_the_guest():
    held = window()
    held.take(segment(0, b"last", flags="FA"))
    assert sequences(held) == [NEXT + 4]
    held.take(segment(4, b"", flags="FA"))
    assert held.answers() == []


@pytest.mark.parametrize("flags", ["S", "SA", "R", "RA", ""])
def test_no_other_segment_is_answered(flags):
    held = window()
    held.take(segment(0, flags=flags))
    assert held.answers() == []


def test_nobody_else_is_answered():
    held = window()
    held.take(segment(0, port=40001))
    header = bytes(10)
    held.take(header + bytes(Ether(src=CLIENT_MAC, dst=GUEST_MAC) / IP(src=CLIENT[0], dst=GUEST[0]) / UDP() / b"probe"))
    held.take(header + bytes(Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP()))
    fragment = IP(src=CLIENT[0], dst=GUEST[0], flags="MF")
    held.take(segment(0, ip=fragment))
    assert held.answers() == []


@pytest.mark.parametrize("length", range(0, 80, 7))
def test_a_frame_that_is_cut_short_is_passed_over(length):
    held = window()
    held.take(segment(0)[: 10 + length])
    assert held.answers() == []


def test_nothing_is_acknowledged_that_may_have_found_no_room():
    held = window(limit_bytes=120_000)
    taken = 0
    for number in range(400):
        frame = segment(1000 * number, b"x" * 1000)
        held.take(frame)
        taken += len(frame)
        if held.answers():
            assert taken + 65_536 < 120_000
    assert 20 < held.answered < 40
    assert taken > 120_000


def test_nothing_is_acknowledged_where_one_large_frame_would_find_no_room():
    held = window(limit_bytes=70_000)
    held.take(segment(0))
    assert held.answers() == []


def test_a_large_frame_counts_as_what_it_will_be_cut_into():
    held = window(limit_bytes=140_000)
    held.take(segment(0, b"z" * 40_000, gso=100))
    assert held.answers() == []
    held = window(limit_bytes=140_000)
    held.take(segment(0, b"z" * 40_000, gso=1400))
    assert sequences(held) == [NEXT + 40_000]


@pytest.mark.parametrize("positions", [[], [at()], [at(timestamp=None), at(local=GUEST6, remote=CLIENT6, timestamp=0)]])
def test_positions_go_over_the_wire(positions):
    packed = b"".join(each.pack() for each in positions)
    assert Position.unpack_all(packed) == positions
    with pytest.raises(ValueError, match="cut short"):
        Position.unpack_all(packed + b"x")


def test_what_waits_where_the_guest_was_comes_before_what_is_held():
    packed = positions_behind([segment(0), segment(100), segment(300)], [at(), at(remote=("10.77.0.12", 1))])
    assert Position.unpack_all(packed) == [at(sequence=NEXT + 200), at(remote=("10.77.0.12", 1))]


@given(st.integers(0, SPACE - 1), st.lists(st.tuples(st.integers(-300, 600), st.integers(1, 200)), max_size=12))
def test_no_byte_is_acknowledged_that_has_not_come(start, pieces):
    held = window(at(sequence=start))
    came = set()
    for offset, length in pieces:
        came |= set(range(offset, offset + length))
        held.take(segment(offset, b"d" * length, start=start))
        for sequence in sequences(held):
            covered = (sequence - start) % SPACE
            assert covered < SPACE // 2
            assert set(range(covered)) <= came
