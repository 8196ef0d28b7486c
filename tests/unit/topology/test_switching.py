from __future__ import annotations

import struct

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.addresses import GUEST, client
from unnoticed.topology.announcement_filter import filter_differences, filter_lines
from unnoticed.topology.learning_limit import limit_in
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.switching import Switching, differences


def test_times_are_given_to_the_kernel_in_hundredths_of_a_second():
    options = Switching(ageing_ns=15_000_000_000).options(stp=True, priority=4096)
    assert options == {
        "stp_state": 1,
        "forward_delay": 200,
        "hello_time": 100,
        "max_age": 600,
        "priority": 4096,
        "ageing_time": 1500,
        "mcast_snooping": 0,
    }


def test_without_a_tree_a_port_forwards_at_once():
    options = Switching().options(stp=False, priority=4096)
    assert (options["stp_state"], options["forward_delay"]) == (0, 0)
    assert "priority" not in options


def test_times_that_the_kernel_would_refuse_are_refused_with_its_limits():
    with pytest.raises(PlanError) as caught:
        Switching(forward_delay_ns=1_000_000_000, max_age_ns=41_000_000_000)
    assert caught.value.problems == (
        "fabric.switch.forward_delay: 1 s is out of range: the Linux bridge takes 2 to 30 s.",
        "fabric.switch.max_age: 41 s is out of range: the Linux bridge takes 6 to 40 s.",
    )


def test_an_age_or_a_limit_that_cannot_be_is_refused():
    with pytest.raises(
        PlanError, match=r"fabric\.switch\.ageing: 2e\+06 s is out of range: the Linux bridge takes 0 to"
    ):
        Switching(ageing_ns=2_000_000_000_000_000)
    with pytest.raises(PlanError, match=r"fabric\.switch\.learning_limit: it must be above 0, and switches must learn"):
        Switching(learning=False, learning_limit=7)


# What nft 1.0.6 (Debian 12) printed for `filter_lines("all", guest="10.77.0.100")`, without table, chain and handles.
def _field(protocol, field, value):
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": value}}


_END = [{"counter": "announcements"}, {"drop": None}]
_GARP = [_field("arp", "saddr ip", "10.77.0.100"), _field("arp", "daddr ip", "10.77.0.100"), *_END]
_RARP = [_field("ether", "type", 32821), *_END]
_NA = [
    *(_field("ip6", "saddr", "fd77::64"), _field("ip6", "daddr", "ff02::1")),
    *(_field("icmpv6", "type", "nd-neighbor-advert"), *_END),
]


@pytest.mark.parametrize(
    ("dropped", "rules"),
    [("none", []), ("garp", [_GARP]), ("rarp", [_RARP]), ("na", [_NA]), ("all", [_GARP, _RARP, _NA])],
)
def test_a_filter_of_announcements_is_found_in_what_nft_prints(dropped, rules):
    table = [{"metainfo": {}}, *({"rule": {"expr": rule}} for rule in rules)]
    assert filter_differences(dropped, table, guest=GUEST) == []
    assert len(filter_differences(dropped, table, guest=client(7))) == (dropped in ("garp", "na", "all"))
    assert filter_differences(dropped, [*table, {"rule": {"expr": _END}}], guest=GUEST) != []
    assert bool(filter_lines(dropped, guest=GUEST)) == (dropped != "none")


def test_a_limit_is_found_in_a_message_about_a_bridge_and_not_missed_in_another():
    def attribute(name, value):
        return struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)

    def message(data):
        info = attribute(1, b"bridge\0") + attribute(2 | 0x8000, data)
        body = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(3, b"br0\0") + attribute(18, info)
        return struct.pack("=IHHII", 16 + len(body), 16, 0, 1, 0) + body

    age = attribute(4, struct.pack("=I", 30000))
    assert limit_in(message(age + attribute(49, struct.pack("=I", 7)))) == 7
    assert limit_in(message(age)) is None
    assert limit_in(message(b"")) is None


@pytest.mark.parametrize(
    ("at", "hosts", "routers"), [("everybody", True, True), ("hosts", True, False), ("routers", False, True)]
)
def test_what_is_asked_of_neighbours_is_asked_where_it_was_meant(at, hosts, routers):
    asked = Neighbours(at=at, static=True, arp_accept=True, drop_gratuitous_arp=True)
    for who, meant in (("hosts", hosts), ("routers", routers)):
        assert asked.knows_the_guest(who) is meant
        assert asked.sysctls(who) == dict.fromkeys(("arp_accept", "drop_gratuitous_arp"), str(int(meant)))
    assert not Neighbours(at=at).knows_the_guest("hosts")


def test_what_the_kernel_made_of_it_is_compared_and_a_packet_filter_in_the_way_is_told():
    asked = {"stp_state": 1, "forward_delay": 200}
    assert differences(asked, {"stp_state": 1, "forward_delay": 200, "nf_call_iptables": 0}) == []
    assert differences(asked, {"stp_state": 0, "forward_delay": 200, "nf_call_arptables": 1}) == [
        "stp_state is 0 instead of 1",
        "nf_call_arptables is 1",
    ]
