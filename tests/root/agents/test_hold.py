"""Hold and forward: frames that come during the cutover are late, and nothing else.

The kernels' own counters are the judges: of the client's namespace, and of the guest's two. Tail-loss probes are off
there and retransmission timers slow, since both say that something took long and not that it was lost.
"""

import contextlib
import itertools
import json
import socket
import struct
import time
from pathlib import Path

import pytest

from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.wire import Type

pytestmark = [pytest.mark.root, pytest.mark.since_kernel("6.7")]

AT_THE_SOURCE = [
    *("hush", "divert", "await-announcement", "close-in", "pause", "hold", "dump", "scan", "send", "await-ready"),
    "relinquish",
]
AT_THE_DESTINATION = ["plug", "open-gate", "announce", "restore", "await-relinquish"]
COUNTERS = {
    "RetransSegs": "segments sent again",
    "TCPTimeouts": "retransmission timeouts",
    "TCPFastRetrans": "fast retransmissions",
    "TCPSynRetrans": "SYNs sent again",
    "AttemptFails": "connections refused",
    "TCPOFOQueue": "segments out of order",
    "TCPDSACKOldSent": "segments that came twice",
    "TCPDSACKOfoSent": "segments that came twice, out of order",
    "OutRsts": "resets",
}


_LEAST_TIMEOUT_US = 1_000_000  # longer than any machine stands still, one hopes
_JUDGED_AFTER_S = 1.3
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


@pytest.fixture(autouse=True)
def slow_timers(fabric):
    """Sets net.ipv4.tcp_early_retrans, and tcp_rto_min_us where there is one (Linux 6.11)."""
    set_timers(fabric, probes=0, least_us=_LEAST_TIMEOUT_US)
    yield
    set_timers(fabric, probes=3, least_us=200_000)


def set_timers(fabric, *, probes, least_us):
    for place in ("c1", "guest-a", "guest-b"):
        namespace = NetworkNamespace(fabric.places[place].pid)
        with namespace.entered():
            Path("/proc/sys/net/ipv4/tcp_early_retrans").write_text(str(probes))
            least = Path("/proc/sys/net/ipv4/tcp_rto_min_us")
            if least.exists():
                least.write_text(str(least_us))
        namespace.close()


def counters(stage):
    """What the kernels of client and guest have counted so far, by place and name."""
    found = {}
    for place in ("c1", "guest-a", "guest-b"):
        pid = stage.fabric.places[place].pid
        for file in ("snmp", "netstat"):
            lines = [line.split() for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()]
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                found |= {
                    (place, name): int(value) for name, value in zip(names, values, strict=True) if name in COUNTERS
                }
    return found


def check_counters(stage, before):
    """Nothing has been counted since `before` that would show a frame lost, doubled or overtaken.

    What the kernel of a place without a guest says goes nowhere: the gate is closed.
    """
    now = counters(stage)
    heard = [(place, name) for place, name in now if (place, name) != ("guest-b", "OutRsts")]
    grown = {f"{COUNTERS[name]} at {place}": now[place, name] - before[place, name] for place, name in heard}
    assert grown == dict.fromkeys(grown, 0)


def test_a_guest_goes_back_and_forth_and_no_segment_is_sent_again(holding):
    holding.boot()
    before = counters(holding)
    client = holding.load()
    for source, destination in (("a", "b"), ("b", "a")) * 3:
        report = holding.migrate(source, destination)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        holding.agents[destination].wait_reply("arrival", 10)
    time.sleep(_JUDGED_AFTER_S)  # for what a lost frame would make somebody send again
    check_counters(holding, before)
    holding.check_guest("a", resumes=7)
    holding.check_unharmed(client)
    assert not holding.events("trouble") + holding.events("connection-lost") + holding.events("refused")
    assert [event["refused"] for event in holding.events("held")] == [0] * 6


@pytest.mark.parametrize("step", AT_THE_SOURCE)
def test_a_source_that_fails_before_it_has_relinquished_goes_on_and_no_segment_is_sent_again(holding, step):
    holding.boot()
    before = counters(holding)
    client = holding.load()
    report = holding.migrate("a", "b", fail_at=step)
    assert f"Step {step} at a was asked to fail" in report["reason"]
    assert holding.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    time.sleep(_JUDGED_AFTER_S)
    check_counters(holding, before)
    holding.check_guest("a", resumes=2 if report["paused_ns"] else 1)
    assert holding.migrate("a", "b")["outcome"] == "completed"
    holding.check_guest("b")
    holding.check_unharmed(client)


@pytest.mark.parametrize("step", AT_THE_DESTINATION)
def test_a_destination_that_fails_gives_back_what_it_held(holding, step):
    holding.boot()
    before = counters(holding)
    client = holding.load()
    report = holding.migrate("a", "b", fail_there=step)
    assert f"Step {step} at b was asked to fail" in report["reason"]
    assert holding.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    time.sleep(_JUDGED_AFTER_S)
    check_counters(holding, before)
    holding.check_guest("a")
    assert holding.migrate("a", "b")["outcome"] == "completed"
    holding.check_guest("b")
    holding.check_unharmed(client)


def test_a_plug_that_fills_up_says_so_and_tcp_repairs_it(holding):
    holding.boot()
    client = holding.load()
    report = holding.migrate("a", "b", mode="stop-and-copy", policy="none", hold_limit_bytes=5000)
    assert report["outcome"] == "completed"
    holding.agents["b"].wait_reply("arrival", 10)
    holding.wait_until(lambda: holding.events("held"))
    (held,) = holding.events("held")
    assert 0 < held["bytes"] <= 5000
    assert held["refused"] > 0
    assert not held["overdue"]
    holding.check_guest("b")
    holding.check_unharmed(client)


def test_frames_are_held_for_as_long_as_allowed_and_not_longer(holding):
    holding.boot()
    client = holding.load(bulk=False)
    report = holding.migrate("a", "b", mode="stop-and-copy", policy="none", hold_time_ns=1_000_000)
    assert report["outcome"] == "completed"
    holding.agents["b"].wait_reply("arrival", 10)
    holding.wait_until(lambda: holding.events("held"))
    (held,) = holding.events("held")
    assert held["overdue"]
    assert held["refused"] == 0
    holding.check_guest("b")
    holding.check_unharmed(client)


def test_a_destination_that_is_killed_while_it_holds_frames_harms_nobody(holding, middleman):
    holding.boot()
    client = holding.load(bulk=False)
    held = middleman("hold", Type.READY)
    holding.begin_migration("a", "b", via="control")
    assert held.stdout.readline() == "held\n"
    holding.kill(holding.agents["b"].pid)
    held.stdin.write("go\n")
    held.stdin.flush()
    report = holding.end_migration("a")
    assert report["outcome"] == "failed"
    holding.replace_agent("b")
    holding.check_guest("a", resumes=2)
    assert holding.migrate("a", "b")["outcome"] == "completed"
    holding.check_guest("b")
    holding.check_unharmed(client)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"announce": "none"}, "only be held for a guest that is announced"), ({}, "was not started to hold frames")],
)
def test_frames_that_cannot_be_held_are_a_failed_migration(stage, settings, says):
    stage.hold = bool(settings)
    stage.replace_agent("a")
    stage.boot()
    report = stage.migrate("a", "b", gap="hold", **settings)
    assert report["outcome"] == "failed"
    assert says in report["reason"]
    stage.check_guest("a", resumes=1)


@pytest.mark.parametrize(
    ("cutovers", "connect_hz"), [(5, 400), pytest.param(50, 1000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_whoever_connects_during_a_cutover_is_answered_and_nobody_has_to_ask_twice(holding, cutovers, connect_hz):
    holding.boot()
    before = counters(holding)
    client = holding.load(connections=0, bulk=False, connect_hz=connect_hz)
    for source, destination in itertools.islice(itertools.cycle((("a", "b"), ("b", "a"))), cutovers):
        report = holding.migrate(source, destination)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        holding.agents[destination].wait_reply("arrival", 10)
    time.sleep(0.3)
    assert sum(event["late"] + event["frames"] for event in holding.events("held")) > 0
    now = counters(holding)
    names = ("TCPSynRetrans", "AttemptFails", "OutRsts")
    assert {name: now["c1", name] - before["c1", name] for name in names} == dict.fromkeys(names, 0)
    client.command("stop")
    done = client.wait_reply("done", 40)
    assert (done["resets"], done["unfinished"], done["wrong_bytes"]) == (0, 0, 0)
    assert done["answered"] == done["connections"] > 50 * cutovers


def test_an_announcement_that_the_source_does_not_see_is_said_and_the_guest_moves_all_the_same(holding):
    holding.replace_agent("b", to=holding.fabric.places["control"].mac.replace(":", ""))
    holding.boot()
    client = holding.load(bulk=False)
    assert holding.migrate("a", "b")["outcome"] == "completed"
    assert len(holding.events("announcement-unseen")) == 1
    holding.check_guest("b")
    holding.check_unharmed(client)


STRAY = """
# Frames for the guest, out of a switch's port to the source as if the switch had not learned anything: one each ms.
import json, select, socket, struct, sys, time

port, guest_mac, client_mac, guest, client = sys.argv[1:6]
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
out.bind((port, 0))

def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF

def frame(number):
    data = struct.pack(">QQ", number, 0)
    udp = struct.pack(">HHHH", 9999, 7001, 8 + len(data), 0) + data
    ends = socket.inet_aton(client) + socket.inet_aton(guest)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return bytes.fromhex(guest_mac.replace(":", "") + client_mac.replace(":", "")) + b"\\x08\\x00" + ip + udp

print("ready", flush=True)
sent = []
while not select.select([sys.stdin], [], [], 0.001)[0]:
    sent.append(time.monotonic_ns())
    out.send(frame(len(sent) - 1))
print(json.dumps(sent), flush=True)
"""


def test_frames_that_switches_go_on_sending_to_the_source_follow_the_guest_in_their_order_and_once(holding):
    fabric, places = holding.fabric, holding.fabric.places
    (port,) = [port for port, toward in fabric.switches["s1"].ports.items() if toward == "a"]
    holding.boot(dirty_bytes_per_s=0)
    namespace = NetworkNamespace(places["c1"].pid)
    with namespace.entered():
        answers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    namespace.close()
    answers.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    answers.bind((places["c1"].ipv4, 9999))
    answers.setblocking(False)
    macs, addresses = (
        [places[name].mac for name in ("guest-a", "c1")],
        [places[name].ipv4 for name in ("guest-a", "c1")],
    )
    stray = holding.python("s1", STRAY, port, *macs, *addresses)
    assert stray.stdout.readline() == "ready\n"
    report = holding.migrate("a", "b")
    assert report["outcome"] == "completed"
    holding.agents["b"].wait_reply("arrival", 10)
    stray.stdin.write("stop\n")
    stray.stdin.flush()
    sent = json.loads(stray.stdout.readline())
    time.sleep(0.2)
    answered = []
    with contextlib.suppress(BlockingIOError):
        while True:
            answered.append(struct.unpack(">QQ", answers.recv(64))[0])
    answers.close()
    (closed,) = [event for event in holding.events("step") if event["step"] == "close-in"]
    due = [number for number, at in enumerate(sent) if closed["end_ns"] < at < report["resumed_ns"]]
    assert due
    assert [number for number in answered if due[0] <= number <= due[-1]] == due
