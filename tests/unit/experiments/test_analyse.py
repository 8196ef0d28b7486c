"""`unnoticed analyse` on captures made by scapy and byte by byte: links, tags, families, cuts, pieces, and nonsense."""

import json
import re
import struct
from xml.etree import ElementTree

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import GRE, CookedLinux, Dot1AD, Dot1Q, Ether

from unnoticed.experiments import cli
from unnoticed.experiments.analysis.capture import analyse_captures
from unnoticed.experiments.commands.analyse import text

MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
BACK = {"src": "02:00:00:00:00:02", "dst": "02:00:00:00:00:01"}
MS = 1_000_000


def pcap(frames, *, link=1, snap=1 << 16):
    """A pcap file with nanosecond stamps of (time_ns, bytes)."""
    out = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snap, link)
    for time_ns, data in frames:
        out += struct.pack("<IIII", *divmod(time_ns, 10**9), min(len(data), snap), len(data)) + data[:snap]
    return out


def conversation(*, v6=False, link=None, back_link=None, port=40000, upper=lambda tcp: tcp, begin_ns=10**18):
    """A connection that repeats 2 segments by timeout: (time_ns, frame). `link` and `back_link` make link headers."""
    ends = ("fd00::1", "fd00::2") if v6 else ("10.0.0.1", "10.0.0.2")
    link = link or (lambda ip: Ether(**MAC) / ip)
    back_link = back_link or (link if link(IP()).__class__ is not Ether else lambda ip: Ether(**BACK) / ip)
    frames, number = [], [100, 500]

    def add(after_ns, back, flags, numbers, size=0, *, options=(("Timestamp", (1, 2)),)):
        seq, ack = numbers
        now = (frames[-1][0] if frames else begin_ns) + after_ns
        source, destination = reversed(ends) if back else ends
        sport, dport = (7, port) if back else (port, 7)
        tcp = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, options=list(options), window=500)
        number[back] += 1
        ip = IPv6(src=source, dst=destination) if v6 else IP(src=source, dst=destination, id=number[back])
        packet = ip / upper(tcp / bytes(size))
        frames.append((now, bytes((back_link if back else link)(packet))))

    syn = (("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7))
    add(0, False, "S", (1000, 0), options=syn)
    add(20 * MS, True, "SA", (9000, 1001), options=syn)
    add(10_000, False, "A", (1001, 9001))
    for k in range(5):
        add(MS, False, "PA", (1001 + 100 * k, 9001), 100)
    add(20 * MS, True, "A", (9001, 1301))
    add(200 * MS, False, "PA", (1301, 9001), 100)
    add(20 * MS, True, "A", (9001, 1401))
    add(10_000, False, "PA", (1401, 9001), 100)
    add(20 * MS, True, "A", (9001, 1501))
    add(10_000, False, "FA", (1501, 9001))
    add(20 * MS, True, "FA", (9001, 1502))
    add(10_000, False, "A", (1502, 9002))
    return frames


@pytest.fixture
def analyse(tmp_path):
    """Analyse files: `analyse({"a.pcap": bytes}, *options)` gives the document."""

    def run(files, *options):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        names = [str(tmp_path / name) for name in files]
        result = CliRunner().invoke(cli.main, ["analyse", *names, *options, "--json"])
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    return run


def told(document):
    """(segments sent again, exact, by timeout) of the only connection's client, after a look at all else of it."""
    (connection,) = document["connections"]
    there, back = connection["ends"]
    assert (there["sender"], there["receiver"]) == (connection["client"], connection["server"])
    assert connection["opened"]
    assert connection["ended"] == "closed"
    assert there["new_bytes"] == 500
    assert (back["retransmits"], back["new_bytes"]) == (0, 0)
    assert there["stall"]["duration_ns"] == 220 * MS
    return there["retransmits"], there["exact"], there["rto"]


LINKS = {
    "Ethernet": (1, lambda ip: Ether(**MAC) / ip),
    "VLAN": (1, lambda ip: Ether(**MAC) / Dot1Q(vlan=7) / ip),
    "QinQ": (1, lambda ip: Ether(**MAC) / Dot1AD(vlan=7) / Dot1Q(vlan=8) / ip),
    "Linux cooked": (113, lambda ip: CookedLinux(proto=0x86DD if ip.version == 6 else 0x0800) / ip),
    "raw": (101, lambda ip: ip),
    "loopback": (0, lambda ip: bytes([30 if ip.version == 6 else 2, 0, 0, 0]) + bytes(ip)),
    "loopback, big-endian": (0, lambda ip: bytes([0, 0, 0, 10 if ip.version == 6 else 2]) + bytes(ip)),
    "Linux cooked 2": (
        276,
        lambda ip: struct.pack(">HHIHBB8s", 0x86DD if ip.version == 6 else 0x0800, 0, 3, 1, 0, 6, b"") + bytes(ip),
    ),
}


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", LINKS)
def test_a_connection_is_read_behind_every_kind_of_link_header(analyse, name, v6):
    link, header = LINKS[name]
    document = analyse(
        {"x.pcap": pcap(conversation(v6=v6, link=header), link=link)}, "--at", "fd00::1", "--at", "10.0.0.1"
    )
    assert told(document) == (2, True, 2)
    (connection,) = document["connections"]
    assert connection["client"] == ("[fd00::1]:40000" if v6 else "10.0.0.1:40000")


def test_headers_that_extend_ipv6_are_stepped_over(analyse):
    frames = conversation(v6=True, upper=lambda tcp: IPv6ExtHdrDestOpt() / tcp)
    assert told(analyse({"x.pcap": pcap(frames)}, "--at", "fd00::1")) == (2, True, 2)


def test_the_place_of_capture_is_told_by_the_answers_and_decides_what_a_count_is_worth(analyse):
    (connection,) = analyse({"x.pcap": pcap(conversation())})["connections"]
    there, back = connection["ends"]
    assert (there["place"], there["place_by"], there["exact"]) == ("sender", "answers", True)
    assert (back["place"], back["exact"]) == ("receiver", False)
    assert connection["round_trip_ns"] == 20 * MS + 10_000


def test_cut_headers_leave_the_counts_or_are_counted_and_said(analyse):
    whole = conversation()
    document = analyse({"x.pcap": pcap(whole, snap=60)}, "--at", "10.0.0.1")
    (connection,) = document["connections"]
    assert connection["ends"][0]["retransmits"] == 2
    assert connection["ends"][0]["rto"] is None  # SACKs may have been cut off
    assert f"{len(whole)} frames are cut within their TCP options" in document["notes"][0]
    document = analyse({"x.pcap": pcap(whole, snap=50)})
    assert document["connections"] == []
    assert f"{len(whole)} frames are cut before their TCP header ends" in document["notes"][0]
    assert "so nothing can be said of TCP" in document["notes"][0]
    document = analyse({"x.pcap": pcap(whole, snap=20)})
    assert f"{len(whole)} frames are cut before their IP header ends" in document["notes"][0]


def test_a_cut_file_is_analysed_up_to_there_and_said(analyse):
    data = pcap(conversation())
    document = analyse({"x.pcap": data[:-30]})
    assert "ends within a record; the 15 frames before it are analysed." in document["notes"][0]
    assert document["points"][0]["frames"] == 15
    document = analyse({"x.pcap": data + b"\xff" * 16})
    assert "is damaged: record 17 says it holds" in document["notes"][0]
    assert document["connections"][0]["ends"][0]["retransmits"] == 2


def test_fragments_and_tunnels_are_said(analyse):
    pieces = [bytes(Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2", flags=1, id=9) / UDP(dport=9) / bytes(1400))]
    pieces.append(bytes(Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2", frag=176, id=9, proto=17) / bytes(100)))
    tunnel = bytes(Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2") / GRE() / IP() / UDP())
    document = analyse({"x.pcap": pcap([(k * MS, data) for k, data in enumerate([*pieces, tunnel])])})
    assert any("2 frames are IP fragments, of 1 packets" in note for note in document["notes"])
    assert any("1 frame is in tunnels (GRE)" in note for note in document["notes"])


def test_the_later_pieces_of_a_packet_are_no_copies_of_one_another(analyse):
    pieces = [
        (10**18 + k, bytes(Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2", id=9, proto=6, frag=k) / bytes(8)))
        for k in range(1, 4)
    ]
    document = analyse({"a.pcap": pcap(conversation() + [(time_ns + 10**9, data) for time_ns, data in pieces])})
    assert "3 frames are IP fragments" in "\n".join(document["notes"])
    assert "copies" not in "\n".join(document["notes"])


def test_without_answers_counts_hold_but_types_and_stalls_are_not_told(analyse):
    there = [frame for frame in conversation() if frame[1][26:30] == bytes([10, 0, 0, 1])]
    document = analyse({"a.pcap": pcap(there)}, "--at", "10.0.0.1")
    (end,) = document["connections"][0]["ends"]
    assert (end["retransmits"], end["exact"], end["stall"]) == (2, True, None)
    assert (end["rto"], end["fast"], end["tlp"], end["spurious"]) == (None, None, None, None)
    assert "nothing can be said of stalls and types" in "\n".join(document["notes"])


def test_without_times_counts_hold_but_types_and_stalls_are_not_told(analyse):
    def block(kind, body):
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    simple = [block(3, struct.pack("<I", len(data)) + data) for _, data in conversation()]
    head = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack("<HHI", 1, 0, 0))
    document = analyse({"a.pcapng": head + b"".join(simple)}, "--at", "10.0.0.1")
    there = document["connections"][0]["ends"][0]
    assert (there["retransmits"], there["exact"], there["rto"], there["stall"]) == (2, True, None, None)
    assert "without a time: counts hold, but types and stalls are not told" in "\n".join(document["notes"])


def test_pieces_of_one_capture_are_put_together_in_whatever_order_they_are_given(analyse):
    frames = conversation()
    files = {name: pcap(part) for name, part in (("3", frames[12:]), ("1", frames[:7]), ("2", frames[7:12]))}
    document = analyse(files, "--at", "10.0.0.1")
    assert len(document["points"]) == 1
    assert told(document) == (2, True, 2)


def test_of_several_points_each_direction_is_read_where_it_was_sent(analyse):
    here = conversation()
    lost = {8 - 2, 9 - 2}  # the fourth and the fifth segment never reach the other side
    there = [(time_ns + 10 * MS, data) for k, (time_ns, data) in enumerate(here) if k not in lost]
    document = analyse({"there.pcap": pcap(there), "here.pcap": pcap(here)}, "--at", "10.0.0.1")
    assert len(document["points"]) == 2
    assert told(document) == (2, True, 2)
    assert document["connections"][0]["ends"][0]["point"] == "here.pcap"
    alone = analyse({"there.pcap": pcap(there)}, "--at", "10.0.0.2")
    end = alone["connections"][0]["ends"][0]
    assert (end["place"], end["exact"]) == ("receiver", False)
    assert end["retransmits"] < 2  # what was lost before is not there: at least so many


def test_copies_at_a_second_place_are_left_out_and_said(analyse):
    tagged = conversation(link=lambda ip: Ether(**MAC) / Dot1Q(vlan=7) / ip)
    plain = conversation()
    frames = [one for pair in zip(plain, [(t + 2000, data) for t, data in tagged], strict=True) for one in pair]
    document = analyse({"x.pcap": pcap(frames)}, "--at", "10.0.0.1")
    assert told(document) == (2, True, 2)
    assert any("16 frames are copies of others" in note for note in document["notes"])


def test_a_ping_and_its_outage_are_found(analyse):
    frames = []
    for k in range(60):
        for back in (False, True):
            if back and 20 <= k < 30:
                continue
            ends = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
            packet = (
                Ether(**(BACK if back else MAC))
                / IP(src=ends[0], dst=ends[1])
                / ICMP(type=0 if back else 8, id=3, seq=k)
            )
            frames.append((10**18 + k * 10 * MS + back * MS, bytes(packet)))
    (flow,) = analyse({"x.pcap": pcap(frames)})["steady"]
    assert (flow["kind"], flow["unanswered"]) == ("ping", 10)
    assert flow["low_ns"] <= 100 * MS <= flow["high_ns"]


def test_what_is_no_capture_is_said_for_every_file_and_exits_2(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("once upon a time there was a file")
    names = [str(tmp_path / name) for name in ("empty", "text", "missing", ".")]
    result = CliRunner().invoke(cli.main, ["analyse", *names])
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.endswith(".") for line in lines)
    assert "holds 0 bytes" in lines[0]
    assert "does not start like a pcap file" in lines[1]
    assert "No such file" in lines[2]


def test_an_address_that_is_none_exits_2(tmp_path):
    result = CliRunner().invoke(cli.main, ["analyse", "x.pcap", "--at", "somewhere"])
    assert result.exit_code == 2
    assert result.stderr == "--at somewhere: this is no IPv4 or IPv6 address.\n"


def test_a_capture_without_frames_says_so(analyse):
    document = analyse({"x.pcap": pcap([])})
    assert "holds no frames." in document["notes"][0]
    assert document["connections"] == document["steady"] == []


def test_the_table_names_flows_counts_and_limits(tmp_path):
    (tmp_path / "x.pcap").write_bytes(pcap(conversation()))
    result = CliRunner().invoke(cli.main, ["analyse", str(tmp_path / "x.pcap")])
    assert result.exit_code == 0
    assert "x.pcap: 16 frames in" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("10.0.0.1:40000 > 10.0.0.2:7"))
    for words in ("500 bytes", "2 rto", "220 ms", "near the sender"):
        assert words in line.replace("\u00a0", " ")
    assert "≥: only a complete capture at the sender" in result.stdout


def test_a_narrow_terminal_gets_names_and_counts_in_one_piece(tmp_path):
    (tmp_path / "x.pcap").write_bytes(pcap(conversation()))
    lines = text(analyse_captures([tmp_path / "x.pcap"]), width=100, top=5).splitlines()
    assert max(map(len, lines)) <= 100
    line = next(line for line in lines if line.startswith("10.0.0.1:40000 > 10.0.0.2:7 "))
    assert "2 rto" in line.replace("\u00a0", " ")
    assert not any("round trip" in line for line in lines)


def test_a_page_and_tables_are_left_in_a_folder(analyse, tmp_path):
    data = pcap(conversation() + conversation(port=40001, begin_ns=10**18 + 10**9))
    folder = tmp_path / "made" / "here"
    document = analyse({"x.pcap": data}, "--output", str(folder))
    assert document["page"] == str(folder / "capture.html")
    assert sorted(path.name for path in folder.iterdir()) == [
        "capture.html",
        "flows.parquet",
        "retransmits.parquet",
        "steady.parquet",
    ]
    flows = pd.read_parquet(folder / "flows.parquet")
    assert len(flows) == 4
    ends = [end for one in document["connections"] for end in one["ends"]]
    for name in ("sender", "retransmits", "exact", "rto", "new_bytes", "place"):
        assert flows[name].tolist() == [end[name] for end in ends]
    again = pd.read_parquet(folder / "retransmits.parquet")
    assert again["segments"].sum() == flows["retransmits"].sum() == 4
    assert again["type"].unique().tolist() == ["rto"]
    page = (folder / "capture.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    for words in ("2 connections, 4 segments sent again", "10.0.0.1:40001", "stood still for 220", "What limits it"):
        assert words in page.replace("\u00a0", " ").replace("&gt;", ">")
    analyse({"x.pcap": data}, "--output", str(tmp_path / "again"))
    assert (tmp_path / "again" / "capture.html").read_text(encoding="utf-8") == page


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "x.pcap").write_bytes(pcap(conversation()))
    result = CliRunner().invoke(cli.main, ["analyse", str(tmp_path / "x.pcap"), "--output", str(tmp_path / "x.pcap")])
    assert result.exit_code == 2
    assert "cannot be written to" in result.stderr


BASES = [conversation(), conversation(v6=True, port=40001), conversation(port=40002, begin_ns=10**18 + 5 * MS)]


@given(
    base=st.sampled_from(BASES),
    edits=st.lists(st.tuples(st.integers(0, 15), st.integers(14, 80), st.integers(0, 255)), max_size=30),
    order=st.randoms(use_true_random=False),
    shuffled=st.booleans(),
    times=st.lists(st.integers(0, 2**63 // 10**9), max_size=3),
    link=st.sampled_from([0, 1, 101, 108, 113, 228, 229, 276]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_whatever_the_frames_say_there_is_an_answer(tmp_path, *, base, edits, order, shuffled, times, link):
    frames = [(time_ns, bytearray(data)) for time_ns, data in base]
    for which, at, value in edits:
        if at < len(frames[which][1]):
            frames[which][1][at] = value
    for k, seconds in enumerate(times):
        frames[3 * k] = (min(seconds, 2**32 - 1) * 10**9, frames[3 * k][1])
    if shuffled:
        order.shuffle(frames)
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(frames, link=link))
    for options in ([], ["--json", "--output", str(tmp_path / "page")]):
        result = CliRunner().invoke(cli.main, ["analyse", str(path), *options])
        assert result.exit_code == 0, result.exception
