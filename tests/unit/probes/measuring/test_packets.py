"""The packet table against scapy's dissection of the same frames."""

import struct

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from unnoticed.probes.packets import merge, parse
from unnoticed.probes.tcp_flows import address

ENDS = {"src": "10.77.1.1", "dst": "10.77.0.100"}
ETHER = {"src": "02:00:00:00:00:01", "dst": "02:77:00:00:00:64"}
STAMPS = ("Timestamp", (17, 18))
SEGMENTS = {
    "plain": TCP(sport=1, dport=2, seq=2**32 - 5, ack=7, flags="A", window=65535) / Raw(b"x" * 10),
    "syn": TCP(
        sport=40000,
        dport=7000,
        seq=9,
        flags="S",
        options=[("MSS", 1460), ("SAckOK", b""), STAMPS, ("NOP", None), ("WScale", 10)],
    ),
    "usual": TCP(sport=40000, dport=7000, flags="PA", options=[("NOP", None), ("NOP", None), STAMPS]) / Raw(b"y" * 999),
    "sack": TCP(
        flags="A",
        options=[
            ("NOP", None),
            ("NOP", None),
            STAMPS,
            ("NOP", None),
            ("NOP", None),
            ("SAck", (1, 2, 2**32 - 3, 4, 5, 6)),
        ],
    ),
    "sack without stamps": TCP(flags="A", options=[("NOP", None), ("NOP", None), ("SAck", tuple(range(8)))]),
    "odd": TCP(flags="FA", options=[("WScale", 3), (99, b"abc"), ("MSS", 536), ("EOL", None)]),
    "reset": TCP(flags="R", seq=3),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("ip_options", [b"", b"\x94\x04\x00\x00"])
def test_a_tcp_frame_is_read_as_scapy_reads_it(frames_of, name, tags, ip_options):
    frame = Ether(**ETHER)
    for tag in range(tags):
        frame = frame / Dot1Q(vlan=tag + 5)
    frame = frame / IP(**ENDS, id=4711, options=[]) / SEGMENTS[name]
    raw = bytearray(bytes(frame))
    if ip_options:
        at = 14 + 4 * tags
        raw[at] = 0x46
        raw[at + 2 : at + 4] = struct.pack(">H", struct.unpack_from(">H", raw, at + 2)[0] + 4)
        raw[at + 20 : at + 20] = ip_options
    table = parse(frames_of([bytes(raw)], width=160))
    seen = Ether(bytes(raw))
    tcp = seen[TCP]
    options = {key: value for key, value in tcp.options if key not in ("NOP", "EOL")}
    assert table.whole[0]
    assert table.source[0] == address(ENDS["src"])
    assert table.destination[0] == address(ENDS["dst"])
    assert table.protocol[0] == 6
    assert table.ip_id[0] == 4711
    assert (table.source_port[0], table.destination_port[0]) == (tcp.sport, tcp.dport)
    assert (table.sequence[0], table.acknowledgement[0]) == (tcp.seq, tcp.ack)
    assert table.flags[0] == int(tcp.flags)
    assert table.window[0] == tcp.window
    assert table.payload[0] == len(bytes(tcp.payload))
    assert table.options[0] == tcp.dataofs * 4 - 20
    assert table.mss[0] == options.get("MSS", 0)
    assert table.window_scale[0] == (options["WScale"] + 1 if "WScale" in options else 0)
    assert table.sack_permitted[0] == ("SAckOK" in options)
    assert table.timestamps[0] == ("Timestamp" in options)
    edges = options.get("SAck", ())
    assert table.sack_count[0] == len(edges) // 2
    assert table.sack[0].ravel()[: len(edges)].tolist() == list(edges)
    assert not table.sack[0].ravel()[len(edges) :].any()
    assert table.source_mac[0] == 0x020000000001
    assert table.destination_mac[0] == 0x027700000064


def test_udp_carries_its_first_bytes_as_far_as_captured(frames_of):
    payload = bytes(range(1, 41))
    whole = bytes(Ether(**ETHER) / IP(**ENDS) / UDP(sport=5, dport=7001) / Raw(payload))
    short = bytes(Ether(**ETHER) / IP(**ENDS) / UDP(sport=5, dport=7001) / Raw(b"abc")) + bytes(20)
    table = parse(frames_of([whole, short]))
    assert table.payload.tolist() == [40, 3]
    assert bytes(table.udp_payload[0]) == payload[:24]
    assert bytes(table.udp_payload[1]) == b"abc" + bytes(21)
    cut = parse(frames_of([whole], width=46))
    assert bytes(cut.udp_payload[0]) == payload[:4] + bytes(20)


def test_a_super_frame_without_an_ip_length_has_the_payload_of_its_frame(frames_of):
    raw = bytearray(bytes(Ether(**ETHER) / IP(**ENDS) / TCP(flags="A")) + bytes(70_000))
    raw[16:18] = b"\0\0"
    table = parse(frames_of([bytes(raw)]))
    assert table.payload.tolist() == [70_000]


def test_announcements_are_arp_whose_sender_and_target_are_one_rarp_and_what_icmpv6_says_to_all_nodes(frames_of):
    guest = "10.77.0.100"
    frames = [
        Ether(**ETHER) / ARP(op=1, hwsrc=ETHER["src"], psrc=guest, pdst=guest),
        Ether(**ETHER) / ARP(op=2, hwsrc=ETHER["src"], hwdst=ETHER["dst"], psrc=guest, pdst=guest),
        Ether(**ETHER) / ARP(op=1, hwsrc=ETHER["src"], psrc=guest, pdst="10.77.1.1"),
        Ether(**ETHER) / IP(src=guest, dst=guest) / UDP(),
        Ether(**ETHER, type=0x8035) / ARP(op=3, hwsrc=ETHER["src"], hwdst=ETHER["src"]),
        Ether(**ETHER) / IPv6(src="fd77::64", dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt="fd77::64"),
        Ether(**ETHER) / IPv6(src="fd77::64", dst="fd77::101", hlim=255) / ICMPv6ND_NA(tgt="fd77::64"),
    ]
    table = parse(frames_of([bytes(frame) for frame in frames]))
    assert table.announcements().tolist() == [True, True, False, False, True, True, False]
    assert table.arp_operation[:4].tolist() == [1, 2, 1, 0]
    assert table.arp_sender_mac[:3].tolist() == [0x020000000001] * 3
    assert table.arp_target_mac[1] == 0x027700000064


@pytest.mark.parametrize("kind", [0, 43, 60, 135, 139, 140, 253, 254])  # IANA's extension headers of that form
def test_tcp_is_found_behind_every_extension_header_whose_length_is_told(frames_of, kind):
    segment = bytes(TCP(sport=40000, dport=7000, seq=9, flags="A") / Raw(b"x" * 10))
    extension = bytes([6, 1, *range(14)])
    frame = bytes(Ether(**ETHER) / IPv6(src="fd77::1", dst="fd77::64", nh=kind) / Raw(extension + segment))
    table = parse(frames_of([frame]))
    assert table.whole.all()
    assert (table.source_port[0], table.sequence[0], table.payload[0]) == (40000, 9, 10)


def test_what_is_not_understood_or_cut_short_is_not_whole(frames_of):
    segment = bytes(Ether(**ETHER) / IP(**ENDS) / SEGMENTS["usual"])
    fragment = bytes(Ether(**ETHER) / IP(**ENDS, frag=10) / SEGMENTS["plain"])
    icmp = bytes(Ether(**ETHER) / IP(**ENDS) / ICMP())
    table = parse(frames_of([fragment, icmp, b"\0" * 20]))
    assert not table.whole.any()
    assert not table.source_port.any()
    for width in (20, 33, 40, 53, 65):
        assert not parse(frames_of([segment], width=width)).whole[0]
    assert parse(frames_of([segment], width=66)).whole[0]


@pytest.mark.parametrize(
    "options", [b"\x05\x00\x00\x00", b"\x02\x28\x05\xb4", b"\x08\x01\x01\x01", b"\x05\x03\x01\x01"]
)
def test_options_with_a_false_length_end_the_walk(frames_of, options):
    raw = bytearray(bytes(Ether(**ETHER) / IP(**ENDS) / TCP(flags="A", dataofs=6)) + options)
    raw[16:18] = struct.pack(">H", 44)
    table = parse(frames_of([bytes(raw)]))
    assert table.options[0] == 4
    assert table.sack_count[0] == 0
    assert table.mss[0] == 0


def test_random_bytes_do_not_break_the_parser(frames_of):
    random = np.random.default_rng(7)
    rows = []
    for _ in range(3000):
        raw = bytearray(random.bytes(int(random.integers(14, 120))))
        raw[12:14] = [b"\x08\x00", b"\x08\x06", b"\x81\x00"][int(random.integers(3))]
        if len(raw) > 23:
            raw[14], raw[23] = 0x40 | int(random.integers(16)), [6, 17][int(random.integers(2))]
        rows.append(bytes(raw))
    table = parse(frames_of(rows))
    assert len(table) == 3000
    assert (table.sack_count <= 4).all()


def test_captures_are_merged_by_time_with_each_ones_order_kept(frames_of):
    frame = [bytes(Ether(**ETHER) / IP(**ENDS, id=k) / UDP()) for k in range(4)]
    table = parse(frames_of(frame))
    a, b = table.select(np.array([0, 1])), table.select(np.array([2, 3]))
    a.time_ns[:] = [100, 90]  # stamped on two processors
    b.time_ns[:] = [95, 101]
    assert merge([a, b]).ip_id.tolist() == [2, 0, 1, 3]


def test_stamps_are_put_on_the_one_clock(frames_of):
    frames = frames_of([bytes(60)])
    assert parse(frames, offset_ns=1_000).time_ns[0] == frames.time_ns[0] - 1_000
