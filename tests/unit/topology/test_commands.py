from __future__ import annotations

import socket
import struct

import pytest

from unnoticed.checksum import checksum
from unnoticed.errors import FabricError, MachineError
from unnoticed.topology.bridge import bridge_lines, check_bridge
from unnoticed.topology.link import cpu_mask
from unnoticed.topology.namespaces import json_documents, run_batch
from unnoticed.topology.reachability import answered_sequence, echo_request
from unnoticed.topology.switching import Switching


def test_json_documents_may_follow_one_another_with_or_without_line_breaks():
    assert json_documents('[{"a": 1}]\n[]\n\n[2][3] ') == [[{"a": 1}], [], [2], [3]]
    with pytest.raises(FabricError, match="printed 'Error"):
        json_documents("[1]\nError")


def test_a_command_that_is_missing_is_the_machines_fault():
    with pytest.raises(MachineError, match="install iproute2"):
        run_batch(["no-such-command-of-iproute2"], ["link show"])


@pytest.mark.parametrize(("mask", "text"), [(3, "00000003"), (1 << 32, "00000001,00000000"), (0, "00000000")])
def test_a_set_of_cpus_is_written_in_words_of_32(mask, text):
    assert cpu_mask(mask) == text


def test_a_bridge_that_is_not_what_was_asked_for_says_in_what():
    options = Switching().options(stp=False, priority=32768)
    good = {**options, "nf_call_iptables": 0}
    links = [
        {"ifname": "br0", "linkinfo": {"info_data": {**good, "stp_state": 1, "nf_call_iptables": 1}}},
        {"ifname": "guest", "master": "br0", "linkinfo": {"info_slave_data": {"learning": True}}},
        {"ifname": "a-eth0"},
    ]
    with pytest.raises(FabricError) as caught:
        check_bridge(links, where="a", ports=["guest", "a-eth0"], options=options)
    assert str(caught.value).endswith(
        "stp_state is 1 instead of 0; nf_call_iptables is 1; a-eth0 is not its port; learning at a-eth0 is None."
    )
    fine = [{"ifname": "br0", "linkinfo": {"info_data": good}}, links[1]]
    check_bridge(fine, where="a", ports=["guest"], options=options)
    with pytest.raises(FabricError, match="learning at guest is True"):
        check_bridge(fine, where="a", ports=["guest"], options=options, learning=False)


def test_bridge_lines_always_say_dev_because_an_interface_may_be_called_anything():
    lines = bridge_lines(mac="02:77:01:00:00:00", ports=["up"], options={"stp_state": 0})
    assert "link set dev up master br0" in lines
    assert "link set dev up up" in lines


def test_the_checksum_of_a_summed_packet_is_zero():
    # RFC 1071, section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2, so the checksum is its complement.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert checksum(echo_request(0x1234, 7)) == 0


def test_only_answers_to_our_own_echoes_count():
    header = b"\x45" + bytes(19)
    answer = struct.pack(">BBHHH", 0, 0, 0, 0x1234, 9)
    assert answered_sequence(header + answer, 0x1234) == 9
    assert answered_sequence(header + answer, 0x1235) is None
    assert answered_sequence(header + echo_request(0x1234, 9), 0x1234) is None
    assert answered_sequence(header[:7], 0x1234) is None
    answer = struct.pack(">BBHHH", 129, 0, 0, 0x1234, 9)  # RFC 4443; raw sockets give it without the IPv6 header
    assert answered_sequence(answer, 0x1234, socket.AF_INET6) == 9
    assert answered_sequence(echo_request(0x1234, 9, socket.AF_INET6), 0x1234, socket.AF_INET6) is None
