from __future__ import annotations

import pytest

from unnoticed.topology import addresses
from unnoticed.topology.firewall import counted, firewall_differences, firewall_lines
from unnoticed.topology.host import HostSetup

# What nft 1.0.6 (Debian 12) printed, by `nft -j list table inet unnoticed`, for `firewall_lines(["fw1-eth1"])`.
TABLE = [
    {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
    {"table": {"family": "inet", "name": "unnoticed", "handle": 1}},
    {"counter": {"family": "inet", "name": "refused", "table": "unnoticed", "handle": 1, "packets": 7, "bytes": 588}},
    {"counter": {"family": "inet", "name": "invalid", "table": "unnoticed", "handle": 2, "packets": 0, "bytes": 0}},
    {
        "chain": {
            "family": "inet", "table": "unnoticed", "name": "forward", "handle": 3, "type": "filter",
            "hook": "forward", "prio": 0, "policy": "drop",
        }
    },
    {
        "rule": {
            "family": "inet", "table": "unnoticed", "chain": "forward", "handle": 4,
            "expr": [
                {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
                {"accept": None},
            ],
        }
    },
    {
        "rule": {
            "family": "inet", "table": "unnoticed", "chain": "forward", "handle": 5,
            "expr": [
                {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}},
                {"counter": "invalid"},
                {"drop": None},
            ],
        }
    },
    {
        "rule": {
            "family": "inet", "table": "unnoticed", "chain": "forward", "handle": 7,
            "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "fw1-eth1"}},
                {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}},
                {"accept": None},
            ],
        }
    },
    {
        "rule": {
            "family": "inet", "table": "unnoticed", "chain": "forward", "handle": 8,
            "expr": [{"counter": "refused"}, {"drop": None}],
        }
    },
]  # fmt: skip


def test_the_rules_of_a_firewall_are_found_in_what_nft_prints():
    assert firewall_differences(["fw1-eth1"], TABLE) == []
    assert counted(TABLE) == {"refused": 7, "invalid": 0}


def test_a_rule_that_is_missing_or_lets_others_through_is_told():
    (missing,) = firewall_differences(["fw1-eth1"], TABLE[:-1])
    assert missing.startswith("the rules are ")
    (others,) = firewall_differences(["fw1-eth2"], TABLE)
    assert "meta iifname fw1-eth2 ct state new accept" in others
    chain = {"chain": {**TABLE[4]["chain"], "policy": "accept"}}
    assert firewall_differences(["fw1-eth1"], [*TABLE[:4], chain, *TABLE[5:]]) == [
        "policy is 'accept' instead of 'drop'"
    ]


def test_nothing_is_let_through_before_the_policy_is_to_drop():
    lines = firewall_lines(["x"])
    chain = next(number for number, line in enumerate(lines) if line.startswith("add chain"))
    assert "policy drop" in lines[chain]
    assert all(number > chain for number, line in enumerate(lines) if line.startswith("add rule"))


def test_a_host_brings_up_its_links_before_its_address_and_that_before_its_routes():
    setup = HostSetup(
        name="c1",
        interfaces=["c1-eth0"],
        addresses={"c1-eth0": addresses.client(1, 1)},
        routes={"10.77.0.0/16": "10.78.255.1"},
        neighbours=[addresses.router(1, 1)],
    )
    assert setup.lines() == [
        "link set dev lo up",
        "link set dev c1-eth0 up",
        "address add 10.78.1.1/16 broadcast + dev c1-eth0",
        "route add 10.77.0.0/16 via 10.78.255.1",
        "neighbour add 10.78.255.1 lladdr 02:77:00:01:ff:01 nud permanent dev c1-eth0",
    ]


def test_a_host_with_ipv6_has_and_knows_every_address_of_both_families():
    setup = HostSetup(
        name="c1",
        interfaces=["c1-eth0"],
        addresses={"c1-eth0": addresses.client(1)},
        neighbours=[addresses.GUEST],
        ipv6=True,
    )
    assert setup.lines()[2:] == [
        "address add 10.77.1.1/16 broadcast + dev c1-eth0",
        "address add fd77::101/64 nodad dev c1-eth0",
        "neighbour add 10.77.0.100 lladdr 02:77:00:00:00:64 nud permanent dev c1-eth0",
        "neighbour add fd77::64 lladdr 02:77:00:00:00:64 nud permanent dev c1-eth0",
    ]


@pytest.mark.parametrize("bridge", [None, {"stp_state": 0}])
def test_every_line_names_the_device_so_that_it_may_be_called_anything(bridge):
    where = "up" if bridge is None else "br0"
    setup = HostSetup(name="a", interfaces=["up"], addresses={where: addresses.SOURCE}, bridge=bridge)
    assert all(" dev " in line for line in setup.lines() if "link set" in line or "address" in line.split()[0])


def test_an_interface_with_an_address_of_its_own_is_no_port_of_the_bridge():
    own = addresses.migration(1, mac="02:77:01:00:00:09")
    setup = HostSetup(
        name="a",
        interfaces=["a-eth0", "migration", "guest"],
        addresses={"br0": addresses.SOURCE, "migration": own},
        bridge={"stp_state": 0},
    )
    lines = setup.lines()
    assert "link set dev migration up" in lines
    assert "address add 10.76.0.1/16 broadcast + dev migration" in lines
    assert [line.split()[3] for line in lines if "master br0" in line] == ["a-eth0", "guest"]
