"""Captures of real TCP by tcpdump and tshark: what `unnoticed analyse` makes of them, against the kernel."""

import gzip
import shutil
import socket
import struct
import threading
import time

import pytest

from unnoticed.clock import realtime_offset_ns

pytestmark = pytest.mark.root
TCPDUMP = ("tcpdump", "-Z", "root", "-B", "65536", "-U", "-n")  # its buffer is counted in KiB,
TSHARK = ("tshark", "-q", "-B", "64")  # and this one's in MiB
FAMILIES = {
    "IPv4": (lambda number: f"10.9.0.{number}", socket.AF_INET),
    "IPv6": (lambda number: f"fd00:9::{number}", socket.AF_INET6),
}


def counts(document, *, of=lambda end: end["retransmits"]):
    """Of the tests' own connections: tshark looks for devices on the loopback when it starts."""
    return {
        (end["sender"], end["receiver"]): of(end)
        for connection in document["connections"]
        for end in connection["ends"]
        if not end["sender"].startswith("127.")
    }


def notes(document):
    return "\n".join(document["notes"])


@pytest.mark.parametrize(
    ("family", "link"),
    [("IPv4", "offloads"), ("IPv6", "plain"), ("IPv4", "VLAN")],
)
def test_counts_are_those_of_the_kernel_in_whatever_way_it_was_captured(
    lines, capture, conversations, analyse, tmp_path, *, family, link
):
    address_of, number = FAMILIES[family]
    line = lines(tagged=link == "VLAN")
    if link != "VLAN":
        line.offload("on" if link == "offloads" else "off")
    (here, device), (there, _) = line.points
    files = {
        "tcpdump.pcap": (*TCPDUMP, "-i", device),
        "nanoseconds.pcap": (*TCPDUMP, "-i", device, "--time-stamp-precision=nano"),
        "cut.pcap": (*TCPDUMP, "-i", device, "-s", "64"),
        "any.pcap": (*TCPDUMP, "-i", "any"),
        "tshark.pcapng": (*TSHARK, "-i", device),
        "tshark-any.pcapng": (*TSHARK, "-i", "any"),
        "tshark-two.pcapng": (*TSHARK, "-i", device, "-i", "any"),
    }
    for name, command in files.items():
        capture(here, *command, "-w", str(tmp_path / name))
    capture(there, *TCPDUMP, "-i", device, "-w", str(tmp_path / "b.pcap"))
    talk = conversations(line, address_of, family=number)
    line.drop("meta protocol != arp numgen random mod 1000 < 50")
    talk.talk(upload_bytes=3_000_000, requests=30)
    line.heal()  # from here on nothing is sent again that the kernel would not have counted yet
    kernel = talk.kernel()
    talk.close()
    capture.stop()
    expected = {ends: info.total_retrans for ends, info in kernel.items()}
    assert sum(expected.values()) > 0
    at_both = ("--at", address_of(1), "--at", address_of(2))

    def of_a(found):
        return {ends: count for ends, count in found.items() if ends[1].endswith("7")}

    complete: list[str] = []
    for name in files:
        if name == "cut.pcap":
            continue
        # A capture on "any" says itself what went out; but behind a host, where the tags are, nothing goes out.
        place = () if "any" in name and link != "VLAN" else ("--at", address_of(1))
        document = analyse(tmp_path / name, *place)
        if "says it lost" in notes(document):  # dumpcap does under load, of two interfaces mostly
            assert "tshark" in name
            assert not any(counts(document, of=lambda end: end["exact"]).values())
            assert all(count <= expected[ends] for ends, count in counts(document).items())
            continue
        complete.append(name)
        assert of_a(counts(document)) == of_a(expected), name
        assert all(of_a(counts(document, of=lambda end: end["exact"])).values()), name
        typed = counts(document, of=lambda end: end["rto"] + end["fast"] + end["tlp"])
        assert of_a(typed) == of_a(expected), name
        needless = counts(document, of=lambda end: end["spurious"])
        assert of_a(needless) == of_a({ends: info.dsack_dups for ends, info in kernel.items()}), name
        # What b sent again was seen where it arrived: at least so many, and it says that there may be more.
        for ends, count in counts(document).items():
            assert count <= expected[ends], name
        assert not any(
            exact for ends, exact in counts(document, of=lambda end: end["exact"]).items() if ends not in of_a(expected)
        )
        is_double = "two" in name or ("any" in name and link == "VLAN")
        assert ("copies of others" in notes(document)) == is_double, name

    assert any("tshark" in name for name in complete)

    document = analyse(tmp_path / "cut.pcap", "--at", address_of(1))
    if family == "IPv6":
        assert document["connections"] == []
        assert "cut before their TCP header ends and not counted, so nothing can be said of TCP" in notes(document)
    else:
        assert of_a(counts(document)) == of_a(expected)
        assert "cut within their TCP options" in notes(document)

    document = analyse(tmp_path / "tcpdump.pcap", tmp_path / "b.pcap", *at_both)
    assert len(document["points"]) == 2
    assert counts(document) == expected
    assert all(counts(document, of=lambda end: end["exact"]).values())

    whole = (tmp_path / "tshark.pcapng").read_bytes()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(whole, 1))
    packed, plain = (analyse(tmp_path / name, "--at", address_of(1)) for name in ("packed.gz", "tshark.pcapng"))
    assert packed["connections"] == [
        dict(one, ends=[dict(end, point="packed.gz") for end in one["ends"]]) for one in plain["connections"]
    ]
    frames = (tmp_path / "tcpdump.pcap").read_bytes()
    (tmp_path / "shorter.pcap").write_bytes(frames[: len(frames) // 2 - 7])
    document = analyse(tmp_path / "shorter.pcap", "--at", address_of(1))
    assert "ends within a record" in notes(document)
    assert all(count <= expected[ends] for ends, count in counts(document).items())


def test_the_pieces_of_tcpdumps_rotation_are_one_capture(line, capture, conversations, analyse, tmp_path):
    line.offload("off")
    capture(line.a, *TCPDUMP, "-i", "eth0", "-s", "128", "-C", "1", "-w", str(tmp_path / "piece"))
    line.drop("meta protocol != arp numgen random mod 1000 < 20")
    talk = conversations(line, FAMILIES["IPv4"][0])
    talk.talk(upload_bytes=12_000_000, requests=10)
    line.heal()
    kernel = talk.kernel()
    talk.close()
    capture.stop()
    pieces = sorted(tmp_path.glob("piece*"), reverse=True)
    assert len(pieces) > 1
    document = analyse(*pieces, "--at", "10.9.0.1")
    assert len(document["points"]) == 1
    found = counts(document)
    assert {ends: found[ends] for ends in kernel if ends[0].startswith("10.9.0.1:")} == {
        ends: info.total_retrans for ends, info in kernel.items() if ends[0].startswith("10.9.0.1:")
    }


@pytest.mark.parametrize("cut_s", [0.06, 0.35])
def test_a_cut_of_known_length_lies_within_the_bounds(line, capture, conversations, analyse, tmp_path, *, cut_s):
    if shutil.which("ping") is None:
        pytest.skip("needs ping")
    capture(line.a, *TSHARK, "-i", "eth0", "-w", str(tmp_path / "a.pcapng"))
    talk = conversations(line, FAMILIES["IPv4"][0])
    ping = line.a.start("ping", "-q", "-i", "0.01", "-c", "250", "10.9.0.2", stdout=-3)
    threads = [threading.Thread(target=talk.ask, args=(*pair, 250, 0.005)) for pair in talk.ends]
    for thread in threads:
        thread.start()
    time.sleep(0.8)
    offset_ns = realtime_offset_ns()
    before = time.monotonic_ns()
    line.drop("meta protocol != arp")
    cut = time.monotonic_ns()
    time.sleep(cut_s)
    healing = time.monotonic_ns()
    line.heal()
    healed = time.monotonic_ns()
    for thread in threads:
        thread.join()
    assert ping.wait(30) in (0, 1)
    talk.close()
    capture.stop()
    document = analyse(tmp_path / "a.pcapng", "--at", "10.9.0.1")
    least_ns, most_ns = healing - cut, healed - before
    worst = [max(one["ends"], key=lambda end: end["stall"]["duration_ns"]) for one in document["connections"]]
    assert len(worst) == 3
    for end in worst:
        stall = end["stall"]
        assert stall["low_ns"] <= most_ns
        assert stall["high_ns"] >= least_ns
        assert stall["start_ns"] <= healed + offset_ns
        assert stall["end_ns"] >= before + offset_ns
    (flow,) = document["steady"]
    assert flow["kind"] == "ping"
    assert flow["low_ns"] <= most_ns
    assert flow["high_ns"] >= least_ns
    if cut_s > 0.3:
        assert flow["low_ns"] > least_ns / 2
        assert any(end["stall"]["low_ns"] > least_ns / 4 for end in worst)


def test_a_peer_that_vanishes_stalls_without_an_end_and_keep_alives_are_no_retransmissions(
    line, capture, conversations, analyse, tmp_path
):
    capture(line.a, *TCPDUMP, "-i", "eth0", "-w", str(tmp_path / "a.pcap"))
    talk = conversations(line, FAMILIES["IPv4"][0])
    (idle, _), (lost, peer), _ = talk.ends
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
        idle.setsockopt(socket.IPPROTO_TCP, option, value)
    idle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    talk.ask(lost, peer, 20)
    time.sleep(2.5)
    line.drop("ip saddr 10.9.0.2 tcp sport 7")
    lost.sendall(bytes(100))
    time.sleep(1.5)
    kernel = talk.kernel()
    for one in (idle, lost):  # without a word: a RST would end the stall
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.switch.run("ip", "link", "set", "dev", "port1", "down")
    capture.stop()
    document = analyse(tmp_path / "a.pcap", "--at", "10.9.0.1")
    ends = {(end["sender"], end["receiver"]): end for one in document["connections"] for end in one["ends"]}

    def end_of(one):
        return ends["{}:{}".format(*one.getsockname()), "{}:{}".format(*one.getpeername())]

    assert end_of(idle)["keep_alives"] >= 2
    assert end_of(idle)["retransmits"] == 0
    assert end_of(lost)["stall"]["end_ns"] is None
    assert end_of(lost)["stall"]["duration_ns"] > 300_000_000
    name = ("{}:{}".format(*lost.getsockname()), "{}:{}".format(*lost.getpeername()))
    assert end_of(lost)["retransmits"] >= kernel[name].total_retrans > 0
