import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.foreign import answer, is_foreign, sockperf_answer
from unnoticed.workload import Hello, Kind

GET = b"GET / HTTP/1.1\r\nHost: 10.77.0.100:7000\r\n\r\n"
PING = b"*1\r\n$4\r\nPING\r\n"
CONFIG = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n"


def body(answered):
    head, _, rest = answered.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"Content-Length: {len(rest)}".encode() in head.split(b"\r\n")
    return rest


def test_a_get_is_answered_with_a_whole_response():
    answered, taken = answer(GET)
    assert body(answered) == b"up\n"
    assert taken == len(GET)


@pytest.mark.parametrize("ping", [PING, b"*1\r\n$4\r\nping\r\n", b"PING\r\n"])
def test_a_ping_of_redis_is_answered_by_a_pong(ping):
    assert answer(ping) == (b"+PONG\r\n", len(ping))


def test_another_command_is_an_error_that_keeps_the_connection():
    answered, taken = answer(CONFIG + PING)
    assert answered.startswith(b"-ERR ")
    assert answered.endswith(b"+PONG\r\n")
    assert taken == len(CONFIG + PING)


@given(st.lists(st.sampled_from([GET, PING, CONFIG, b"PING\r\n"]), max_size=4), st.data())
def test_wherever_it_is_cut_the_answers_are_the_same(requests, data):
    whole = b"".join(requests)
    cut = data.draw(st.integers(0, len(whole)))
    first, taken = answer(whole[:cut])
    second, rest = answer(whole[taken:])
    assert (first + second, taken + rest) == answer(whole)


@pytest.mark.parametrize(
    "junk",
    [b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-4\r\nPING\r\n", b"*-1\r\n", b"*999999999\r\n", b"*0\r\n", b"what\r\n"],
)
def test_what_is_no_request_is_refused(junk):
    with pytest.raises(ValueError, match=r"not a|invalid literal"):
        answer(junk)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_left_or_refused(data):
    try:
        _, taken = answer(data)
    except ValueError:
        return
    assert 0 <= taken <= len(data)


def test_a_tool_is_told_from_a_client_by_its_first_byte():
    for beginning in (GET, GET[:1], PING, PING[:1], b"PING\r\n"):
        assert is_foreign(beginning)
    for kind in Kind:
        assert not is_foreign(Hello(kind, 7).pack())
    assert not is_foreign(b"")


def test_sockperf_s_datagram_comes_back_as_the_server_s():
    asked = bytes(7) + b"\x05" + b"\x00\x03" + b"\x00\x00\x00\x0e"
    assert sockperf_answer(asked) == bytes(7) + b"\x05" + b"\x00\x02" + b"\x00\x00\x00\x0e"
    assert sockperf_answer(sockperf_answer(asked)) is None  # or two guests would play for ever
    assert sockperf_answer(b"short") is None
