"""The announcing frames, byte by byte."""

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from unnoticed.agents.announce import KINDS, Announcement, frames_for

MAC, IPV4, IPV6 = "02:77:00:00:00:64", "10.77.0.100", "fd77::64"

# Written by hand, on Ethernet II.
BY_HAND = {
    # RFC 826 (Packet format) and RFC 5227, section 3: an announcement is a request whose sender and target protocol
    # address are the same; the target hardware address is zero.
    "garp": bytes.fromhex(
        "ffffffffffff"  # to everybody
        "027700000064"  # from the guest
        "0806"  # ARP
        "0001"  # hardware: Ethernet
        "0800"  # protocol: IPv4
        "06" "04"  # lengths of their addresses
        "0001"  # request
        "027700000064" "0a4d0064"  # sender: the guest
        "000000000000" "0a4d0064"  # target: unknown, the guest
    ),
    # The same as a reply; RFC 5944, section 4.6: the target hardware address is the sender's.
    "garp-reply": bytes.fromhex(
        "ffffffffffff" "027700000064" "0806" "0001" "0800" "06" "04"
        "0002"  # reply
        "027700000064" "0a4d0064"
        "027700000064" "0a4d0064"
    ),
    # RFC 903: of ARP's format, with a type of its own; who asks for its own address does not know it.
    "rarp": bytes.fromhex(
        "ffffffffffff" "027700000064"
        "8035"  # RARP
        "0001" "0800" "06" "04"
        "0003"  # request reverse
        "027700000064" "00000000"  # sender: the guest
        "027700000064" "00000000"  # target: the guest
    ),
    # RFC 4861, section 4.4: from an address of the interface to all nodes, with a hop limit of 255; S is 0 where nobody
    # asked, O is 1 to override; the option with the link-layer address must be there (section 7.2.6).
    "na": bytes.fromhex(
        "333300000001"  # to all nodes (RFC 2464, section 7)
        "027700000064"
        "86dd"  # IPv6
        "60000000"  # version, traffic class, flow label
        "0020" "3a" "ff"  # length, ICMPv6, hop limit
        "fd770000000000000000000000000064"  # from the guest
        "ff020000000000000000000000000001"  # to all nodes
        "88" "00" "580d"  # neighbour advertisement; the checksum of RFC 4443, section 2.3
        "20000000"  # R 0, S 0, O 1
        "fd770000000000000000000000000064"  # target: the guest
        "02" "01" "027700000064"  # option: target link-layer address, 8 bytes
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_announcement_is_the_frame_of_the_standards(kind):
    assert frames_for(kind, mac=MAC, ipv4=IPV4, ipv6=IPV6) == (BY_HAND[kind],)


def test_another_implementation_reads_them_so():
    garp, reply, rarp = (
        Ether(frame) for frame in frames_for("garp+garp-reply+rarp", mac="02:00:00:00:00:07", ipv4="192.0.2.7")
    )
    for frame, operation, target in ((garp, 1, "00:00:00:00:00:00"), (reply, 2, "02:00:00:00:00:07")):
        assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:07", 0x0806)
        arp = frame[ARP]
        assert (arp.op, arp.hwsrc, arp.psrc) == (operation, "02:00:00:00:00:07", "192.0.2.7")
        assert (arp.hwdst, arp.pdst) == (target, "192.0.2.7")
    assert (rarp.dst, rarp.src, rarp.type) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:07", 0x8035)
    (frame,) = frames_for("na", mac="02:00:00:00:00:07", ipv4="192.0.2.7", ipv6="2001:db8::7")
    advertisement = Ether(frame)
    assert (advertisement[IPv6].src, advertisement[IPv6].dst) == ("2001:db8::7", "ff02::1")
    assert (advertisement[ICMPv6ND_NA].tgt, advertisement[ICMPv6ND_NA].O) == ("2001:db8::7", 1)
    assert advertisement[ICMPv6NDOptDstLLAddr].lladdr == "02:00:00:00:00:07"
    sum_of_the_sender = advertisement[ICMPv6ND_NA].cksum
    del advertisement[ICMPv6ND_NA].cksum
    assert Ether(bytes(advertisement))[ICMPv6ND_NA].cksum == sum_of_the_sender


def test_announcements_have_names_and_are_joined_in_order():
    assert frames_for("none", mac=MAC, ipv4=IPV4) == ()
    assert frames_for("na+garp", mac=MAC, ipv4=IPV4, ipv6=IPV6) == (BY_HAND["na"], BY_HAND["garp"])


@pytest.mark.parametrize(
    ("announce", "sentence"),
    [
        ("shout", "unknown announcement 'shout'"),
        ("garp+", "unknown announcement ''"),
        ("garp+none", "unknown announcement 'none'"),
        ("garp+garp", r"the announcement 'garp\+garp' names a frame twice"),
        ("garp+na", "without an IPv6 address cannot be announced by na"),
    ],
)
def test_what_cannot_be_announced_is_refused(announce, sentence):
    with pytest.raises(ValueError, match=sentence):
        frames_for(announce, mac=MAC, ipv4=IPV4)


def test_an_announcement_is_sent_at_once_only_if_its_schedule_says_so():
    frames = (BY_HAND["garp"],)
    assert Announcement(frames=frames).at_once == frames
    late = Announcement(frames=frames, after_ns=(50, 20))
    assert (late.at_once, late.later_ns) == ((), (20, 50))
    assert Announcement(frames=(), after_ns=(0, 20)).later_ns == ()
    several = Announcement(frames=frames, after_ns=(0, 20), early=True)
    assert (several.at_once, several.later_ns) == (frames, (20,))
    assert Announcement.unpacked(several.packed()) == several
