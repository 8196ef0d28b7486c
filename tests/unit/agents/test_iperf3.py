"""The server's side of iperf3, against what real clients of 3.12 and 3.18 send (taken from captures of them)."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents import foreign
from unnoticed.agents.iperf3 import COOKIE_BYTES, Message, Word, answer, is_cookie, take
from unnoticed.agents.ram import IN_OFFSET, IPERF3_IN_BYTES, OUT_BYTES, OUT_OFFSET, Slot
from unnoticed.workload import Hello, Kind

COOKIE = b"2qgvey6v6l632x5r7u7unmdr43pok64jsrw3\0"
PARAMETERS = (
    b'{"udp":true,"omit":0,"time":3600,"num":0,"blockcount":0,"parallel":1,"len":100,"bandwidth":800000,'
    b'"pacing_timer":1000,"client_version":"3.12"}'
)
RESULTS = (
    b'{"cpu_util_total":2.9,"cpu_util_user":0.8,"cpu_util_system":2.1,"sender_has_retransmits":0,"streams":[{"id":1,'
    b'"bytes":200500,"retransmits":18446744073709551615,"jitter":0,"errors":0,"omitted_errors":0,"packets":2005,'
    b'"omitted_packets":0,"start_time":0,"end_time":2.004895}]}'
)
PORT, MS, S = 39671, 1_000_000, 1_000_000_000
BEGAN = 5 * S


def lengthened(body):
    return struct.pack("!I", len(body)) + body


def datagram(number, sent_ns=0):
    return struct.pack("!III", sent_ns // S, sent_ns % S // 1000, number).ljust(100, b"\0")


def new_test():
    return memoryview(bytearray(8 * len(Word))).cast("Q")  # as in the RAM: what does not fit a word fails


@pytest.fixture
def running():
    """A test whose datagrams may come."""
    test = new_test()
    assert answer(test, COOKIE + lengthened(PARAMETERS), now_ns=0) == (b"\x09\x0a", 37 + 4 + len(PARAMETERS))
    assert take(test, b"9876", port=PORT, now_ns=BEGAN) == (b"6789", b"\x01\x02")
    return test


def results(test, *, now_ns=BEGAN + 3 * S):
    """What the client is told at the end."""
    said, taken = answer(test, b"\x04", now_ns=now_ns)
    assert (said, taken) == (b"\x0d", 1)
    said, taken = answer(test, lengthened(RESULTS), now_ns=now_ns)
    assert taken == 4 + len(RESULTS)
    assert said[-1] == Message.DISPLAY_RESULTS
    (length,) = struct.unpack_from("!I", said)
    assert length == len(said) - 5
    assert answer(test, b"\x10", now_ns=now_ns) == (b"", 1)
    return json.loads(said[4:-1])


def count(test, *numbers):
    for number in numbers:
        assert take(test, datagram(number), port=PORT, now_ns=BEGAN) == (b"", b"")


def test_a_whole_test_ends_with_what_was_counted(running):
    count(running, 1, 2, 3, 44, 45)
    told = results(running)
    assert told["streams"] == [
        {
            "id": 1,
            "bytes": 500,
            "retransmits": -1,
            "jitter": 0,
            "errors": 40,
            "omitted_errors": 0,
            "packets": 45,
            "omitted_packets": 0,
            "start_time": 0,
            "end_time": 3,
        }
    ]
    assert {"cpu_util_total", "cpu_util_user", "cpu_util_system", "sender_has_retransmits"} <= set(told)


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ((1, 2, 3), 0),
        ((3,), 2),  # the first ones count too
        ((1, 4, 2, 3), 0),  # overtaken, not lost
        ((1, 4, 4), 1),  # iperf3 takes a frame that came twice for one that was overtaken
        ((1, 1, 2), 0),
    ],
)
def test_lost_is_what_iperf3_calls_so(running, numbers, lost):
    count(running, *numbers)
    assert running[Word.LOST] == lost
    assert running[Word.HIGHEST] == max(numbers)


def test_the_jitter_is_that_of_rfc_1889_whatever_the_clocks_say(running):
    for number, came_ns in enumerate((BEGAN, BEGAN + 2 * MS, BEGAN + 3 * MS), 1):
        take(running, datagram(number, 9 * S + number * MS), port=PORT, now_ns=came_ns)
    assert running[Word.JITTER_PS] == 62_500_000 * 15 // 16
    assert results(running)["streams"][0]["jitter"] == pytest.approx(58.6e-6, rel=1e-3)


@given(st.data())
def test_wherever_it_is_cut_the_answers_are_the_same(data):
    whole = COOKIE + lengthened(PARAMETERS)
    cut = data.draw(st.integers(0, len(whole)))
    test = new_test()
    first, taken = answer(test, whole[:cut], now_ns=0)
    second, rest = answer(test, whole[taken:], now_ns=0)
    assert (first + second, taken + rest) == (b"\x09\x0a", len(whole))


def test_only_the_client_s_own_port_is_counted_and_only_in_a_test():
    test = new_test()
    assert take(test, b"9876", port=PORT, now_ns=0) == (b"", b"")
    count(test, 1)
    assert test == new_test()
    answer(test, COOKIE + lengthened(PARAMETERS), now_ns=0)
    take(test, b"9876", port=PORT, now_ns=0)
    before = test.tolist()
    assert take(test, b"9876", port=PORT, now_ns=0) == (b"6789", b"")  # it did not hear the first answer
    for strange, port in ((b"9876", PORT + 1), (datagram(7), PORT + 1), (b"short", PORT)):
        assert take(test, strange, port=port, now_ns=0) == (b"", b"")
    assert test.tolist() == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"udp": False},
        {},
        {"tcp": True},
        {"udp": True, "parallel": 2},
        {"udp": True, "reverse": True},
        {"udp": True, "bidirectional": 1},
        {"udp": True, "omit": 1},
        {"udp": True, "udp_counters_64bit": 1},
        [],
    ],
)
def test_a_test_of_another_kind_is_refused(parameters):
    test = new_test()
    answer(test, COOKIE, now_ns=0)
    with pytest.raises(ValueError, match="not"):
        answer(test, lengthened(json.dumps(parameters).encode()), now_ns=0)


@pytest.mark.parametrize("junk", [b"\x0c", b"\x04", b"\xff\xff\xff\xff{}", b"\x00\x00\x00\x02{]"])
def test_what_is_not_expected_is_refused(junk):
    test = new_test()
    answer(test, COOKIE, now_ns=0)
    if junk[0] in {4, 12}:  # before any stream there is nothing to end
        answer(test, lengthened(PARAMETERS), now_ns=0)
    with pytest.raises(ValueError, match=r"not expected|too many|Expecting"):
        answer(test, junk, now_ns=0)


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=6))
def test_no_datagram_is_too_much_for_a_word(datagrams):
    test = new_test()
    answer(test, COOKIE + lengthened(PARAMETERS), now_ns=0)
    take(test, b"9876", port=PORT, now_ns=BEGAN)
    for each in (*datagrams, b"\xff" * 12, bytes(12)):
        take(test, each, port=PORT, now_ns=BEGAN)
    results(test)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_answered_left_or_refused(pieces):
    test = new_test()
    for data in (COOKIE, *pieces):
        try:
            _, taken = answer(test, data, now_ns=0)
        except ValueError:
            return
        assert 0 <= taken <= len(data)


def test_it_is_told_from_every_other_client_by_its_first_byte():
    assert len(COOKIE) == COOKIE_BYTES
    assert all(is_cookie(COOKIE[:length]) for length in range(1, len(COOKIE) + 1))
    assert not is_cookie(b"")
    assert not is_cookie(COOKIE[:-1] + b"a")
    for kind in Kind:
        assert not is_cookie(Hello(kind, 7).pack()[:1])
    for beginning in (b"GET ", b"*1\r\n", b"PING"):
        assert not is_cookie(beginning[:1])
        assert not foreign.is_foreign(COOKIE)


def test_a_test_and_its_longest_messages_fit_the_connection_s_page():
    assert max(Slot) == Slot.TEST
    assert (Slot.TEST + len(Word)) * 8 <= IN_OFFSET
    assert IN_OFFSET + IPERF3_IN_BYTES <= OUT_OFFSET
    full = new_test()
    for word in Word:
        full[word] = (1 << 64) - 1
    full[Word.STATE] = Message.EXCHANGE_RESULTS
    said, _ = answer(full, lengthened(b"{}".ljust(1000)), now_ns=0)
    assert len(said) <= OUT_BYTES
    assert IPERF3_IN_BYTES >= 4 + 1000
