"""Ends of connections as text and as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.endpoints import ADDRESS_BYTES, endpoint, pack_address, unpack_address


@pytest.mark.parametrize(
    ("address", "packed", "written"),
    [
        ("10.77.0.100", "00000000000000000000ffff0a4d0064", "10.77.0.100:7000"),  # RFC 4291, section 2.5.5.2
        ("fd77::64", "fd770000000000000000000000000064", "[fd77::64]:7000"),  # RFC 5952, section 6
        ("::1", "00000000000000000000000000000001", "[::1]:7000"),
    ],
)
def test_addresses_of_both_families_are_packed_and_written_as_the_rfcs_say(address, packed, written):
    assert pack_address(address).hex() == packed
    assert unpack_address(bytes.fromhex(packed)) == address
    assert endpoint(address, 7000) == written


@given(data=st.binary(min_size=ADDRESS_BYTES, max_size=ADDRESS_BYTES))
def test_any_sixteen_bytes_are_an_address(data):
    assert pack_address(unpack_address(data)) == data


@pytest.mark.parametrize("text", ["10.77.0.256", "fd77::g", "guest"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(OSError, match="illegal IP address"):
        pack_address(text)
