"""The announcing frames, byte by byte."""

import pytest
from scapy.layers.l2 import ARP, Ether

from unnoticed.agents.announce import frames_for, gratuitous_arp

MAC, IPV4 = "02:77:00:00:00:64", "10.77.0.100"

# Written by hand from RFC 826 (Packet format) and RFC 5227, section 3 (an announcement is a request whose sender and
# target protocol address are the same; target hardware address zero), on Ethernet II.
BY_HAND = bytes.fromhex(
    "ffffffffffff"  # to everybody
    "027700000064"  # from the guest
    "0806"  # ARP
    "0001"  # hardware: Ethernet
    "0800"  # protocol: IPv4
    "06" "04"  # lengths of their addresses
    "0001"  # request
    "027700000064" "0a4d0064"  # sender: the guest
    "000000000000" "0a4d0064"  # target: unknown, the guest
)  # fmt: skip


def test_a_gratuitous_arp_is_the_frame_of_the_standards():
    assert gratuitous_arp(mac=MAC, ipv4=IPV4) == BY_HAND


def test_another_implementation_reads_it_so():
    frame = Ether(gratuitous_arp(mac="02:00:00:00:00:07", ipv4="192.0.2.7"))
    assert (frame.dst, frame.src) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:07")
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (
        1,
        "02:00:00:00:00:07",
        "192.0.2.7",
        "00:00:00:00:00:00",
        "192.0.2.7",
    )


def test_announcements_have_names():
    assert frames_for("garp", mac=MAC, ipv4=IPV4) == (BY_HAND,)
    assert frames_for("none", mac=MAC, ipv4=IPV4) == ()
    with pytest.raises(ValueError, match="unknown announcement 'shout'"):
        frames_for("shout", mac=MAC, ipv4=IPV4)
