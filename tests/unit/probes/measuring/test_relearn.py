"""Netlink messages about forwarding tables of bridges, and neighbour tables."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.errors import RecordError
from unnoticed.probes.relearn import AF_BRIDGE, RTM_DELNEIGH, RTM_NEWNEIGH, Entry, entries

MAC = bytes.fromhex("027700000064")


def message(kind=RTM_NEWNEIGH, *, family=AF_BRIDGE, ifindex=7, state=2, attributes=((9, b"\1\0\0\0"), (2, MAC))):
    body = struct.pack("=BxxxiHBB", family, ifindex, state, 0, 0)
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_entries_of_several_messages_are_read_and_others_are_skipped():
    data = message() + message(family=2) + message(16) + message(RTM_DELNEIGH, ifindex=8, attributes=((2, MAC),))
    assert list(entries(data, AF_BRIDGE)) == [
        Entry(mac="02:77:00:00:00:64", ifindex=7, state=2, removed=False),
        Entry(mac="02:77:00:00:00:64", ifindex=8, state=2, removed=True),
    ]


def test_an_entry_of_a_neighbour_table_has_an_address_and_one_without_a_mac_says_nothing():
    data = b""
    for family, address in ((socket.AF_INET, "10.77.0.100"), (socket.AF_INET6, "fd77::64")):
        attribute = (1, socket.inet_pton(family, address))
        data += message(family=family, attributes=(attribute, (2, MAC)))
        data += message(family=family, attributes=(attribute,)) + message()
    for family, address in ((socket.AF_INET, "10.77.0.100"), (socket.AF_INET6, "fd77::64")):
        assert list(entries(data, family)) == [
            Entry(mac="02:77:00:00:00:64", ifindex=7, state=2, removed=False, address=address)
        ]


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_message_that_is_cut_is_refused(cut):
    with pytest.raises(RecordError, match="bytes long"):
        list(entries(message()[:-cut], AF_BRIDGE))


@given(st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(data):
    with contextlib.suppress(RecordError):
        assert all(entry.mac for family in (AF_BRIDGE, socket.AF_INET) for entry in entries(data, family))
