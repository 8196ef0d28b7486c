from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.topology import addresses


def test_the_roles_have_the_addresses_that_everything_else_counts_on():
    assert (addresses.SOURCE.ipv4, addresses.DESTINATION.ipv4, addresses.control().ipv4) == (
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.3",
    )
    assert addresses.Address(ipv4="10.77.0.100", mac="02:77:00:00:00:64") == addresses.GUEST
    assert addresses.client(1) == addresses.Address(ipv4="10.77.1.1", mac="02:77:00:00:01:01")
    assert addresses.client(255).ipv4 == "10.77.2.1"


def test_ipv6_addresses_end_in_the_same_bytes_in_a_subnet_for_each_segment():
    assert addresses.GUEST.ipv6 == addresses.GUEST_ELSEWHERE.ipv6 == "fd77::64"
    assert (addresses.SOURCE.ipv6, addresses.client(255).ipv6) == ("fd77::1", "fd77::201")
    assert addresses.client(3, 2).ipv6 == "fd77:0:0:2::103"
    assert addresses.router(1, 2).ipv6 == "fd77:0:0:2::ff01"
    assert IPv6Address(addresses.client(3, 2).ipv6) in addresses.subnet_ipv6(2)


@given(st.integers(1, addresses.CLIENTS_MAXIMUM), st.integers(1, addresses.CLIENTS_MAXIMUM))
def test_no_two_clients_share_an_address_and_none_has_a_network_or_broadcast_one(one, other):
    first, second = addresses.client(one), addresses.client(other)
    assert (first.ipv4 == second.ipv4) == (first.mac == second.mac) == (one == other)
    assert IPv4Address(first.ipv4) in addresses.subnet(0)
    assert first.ipv4.rsplit(".", 1)[1] not in {"0", "255"}


@given(st.integers(0, 70_000), st.integers(1, addresses.CLIENTS_MAXIMUM))
def test_ports_never_get_the_mac_of_a_place(port, client):
    assert addresses.port_mac(port) != addresses.client(client).mac
    assert addresses.port_mac(port) != addresses.port_mac(port + 1)


@pytest.mark.parametrize("number", [0, addresses.CLIENTS_MAXIMUM + 1])
def test_a_client_outside_the_subnet_is_refused(number):
    with pytest.raises(ValueError, match="clients 1 to"):
        addresses.client(number)
