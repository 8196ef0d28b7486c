"""The observer in real namespaces: complete captures, overflow that is seen, switches that re-learn."""

import contextlib
import socket
import time

import numpy as np
import pytest

from unnoticed.events import read_events
from unnoticed.probes.pcap import read_pcap

pytestmark = pytest.mark.root
MAC = "02:77:00:00:00:64"


def settings(tmp_path, points=(), switches=(), **more):
    return {
        "points": [
            {"name": name, "pid": namespace.pid, "interface": interface, "file": str(tmp_path / f"{name}.pcap")}
            for name, namespace, interface in points
        ],
        "switches": [{"name": name, "pid": namespace.pid} for name, namespace in switches],
        "guest_macs": [MAC],
        "events": str(tmp_path / "events.jsonl"),
        **more,
    }


def send_numbered(namespace, *, count, pause_every=100, pause_s=0.002):
    """Send `count` UDP frames with a number in each, never faster than the machine takes them."""
    with namespace.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("10.9.0.2", 9))
    for number in range(count):
        try:
            sender.send(number.to_bytes(8, "big") + bytes(40))
        except ConnectionRefusedError:  # nobody listens there
            sender.send(number.to_bytes(8, "big") + bytes(40))
        if pause_every and number % pause_every == 0:
            time.sleep(pause_s)
    sender.close()


def numbers(frames):
    """The numbers in the UDP frames of a capture, in file order."""
    udp = frames.data[frames.data[:, 23] == 17]
    return udp[:, 42:50].copy().view(">u8")[:, 0]


def test_every_frame_up_to_the_last_is_in_the_file_at_both_ends(pair, observe, tmp_path):
    a, b = pair
    observer = observe(settings(tmp_path, [("a", a, "eth0"), ("b", b, "eth0")]))
    send_numbered(a, count=20_000)
    done = observer.stop()
    assert done["reply"] == "done"
    assert done["problems"] == []
    for point in ("a", "b"):
        count = done["captures"][point]
        frames = read_pcap(tmp_path / f"{point}.pcap")
        assert count["frames"] == count["packets"] == len(frames)
        assert count["drops"] == 0
        assert numbers(frames).tolist() == list(range(20_000))
        assert (frames.captured <= 114).all()
        assert (frames.length[frames.data[:, 23] == 17] == 42 + 48).all()
    events = {event["point"]: event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "capture"}
    assert events["a"]["frames"] == done["captures"]["a"]["frames"]


def test_a_ring_that_is_too_small_is_reported_and_the_counts_still_agree(pair, observe, tmp_path):
    a, _ = pair
    observer = observe(settings(tmp_path, [("a", a, "eth0")], slots=1024))
    send_numbered(a, count=30_000, pause_every=0)
    done = observer.stop()
    count = done["captures"]["a"]
    assert count["drops"] > 0
    assert count["frames"] == count["packets"] - count["drops"] == len(read_pcap(tmp_path / "a.pcap"))
    assert len(done["problems"]) == 1
    assert "lost" in done["problems"][0]


def test_super_frames_keep_their_length_and_stamps_are_realtime_in_order(pair, observe, tmp_path):
    a, b = pair
    observer = observe(settings(tmp_path, [("a", a, "eth0")]))
    began = time.time_ns()
    with b.inside():
        server = socket.create_server(("10.9.0.2", 7))
    with a.inside():
        client = socket.create_connection(("10.9.0.2", 7))
    peer, _ = server.accept()
    total = 4 << 20
    client.setblocking(False)
    sent = got = 0
    while got < total:
        if sent < total:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(bytes(min(1 << 18, total - sent)))
        got += len(peer.recv(1 << 20))
    for one in (client, peer, server):
        one.close()
    done = observer.stop()
    assert done["problems"] == []
    frames = read_pcap(tmp_path / "a.pcap")
    assert frames.length.max() > 10_000
    assert (frames.captured == np.minimum(frames.length, 114)).all()
    assert frames.time_ns.min() >= began
    assert frames.time_ns.max() <= time.time_ns()


def test_a_tag_that_the_kernel_took_out_is_back_in_the_file(pair, observe, tmp_path):
    a, b = pair
    observer = observe(settings(tmp_path, [("a", a, "eth0"), ("b", b, "eth0")]))
    frame = bytes.fromhex("ffffffffffff" + "020000000001" + "81000005" + "88b5") + b"hello" + bytes(41)
    with a.inside():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("eth0", 0))
    for _ in range(3):
        sender.send(frame)
    sender.close()
    assert observer.stop()["problems"] == []
    for point in ("a", "b"):
        frames = read_pcap(tmp_path / f"{point}.pcap")
        tagged = [i for i in range(len(frames)) if bytes(frames.data[i, 18:23]) == b"hello"]
        assert len(tagged) == 3
        for i in tagged:
            assert frames.length[i] == frames.captured[i] == len(frame)
            assert bytes(frames.data[i, : len(frame)]) == frame


def test_a_bridge_that_sees_the_guest_at_another_port_is_reported_once(namespaces, observe, tmp_path):
    switch, left, right = namespaces(3)
    switch.run("ip", "link", "add", "br0", "type", "bridge")
    switch.run("ip", "link", "set", "dev", "br0", "up")
    for host, port in ((left, "p1"), (right, "p2")):
        switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        switch.run("ip", "link", "set", "dev", port, "master", "br0", "up")
        host.run("ip", "link", "set", "dev", "eth0", "address", MAC, "up")
    observer = observe(settings(tmp_path, switches=[("s1", switch)]))
    before = time.monotonic_ns()
    for host in (left, left, right, right, left):
        with host.inside():
            speaker = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        speaker.bind(("eth0", 0))
        speaker.send(bytes.fromhex("ffffffffffff" + MAC.replace(":", "") + "88b5") + bytes(46))
        speaker.close()
        time.sleep(0.05)
    assert observer.stop()["problems"] == []
    relearned = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "relearned"]
    assert [(event["switch"], event["previous"], event["port"]) for event in relearned] == [
        ("s1", None, "p1"),
        ("s1", "p1", "p2"),
        ("s1", "p2", "p1"),
    ]
    times = [event["time_ns"] for event in relearned]
    assert before < times[0] < times[1] < times[2]


def test_the_observer_ends_when_its_parent_is_gone(pair, observe, tmp_path):
    a, _ = pair
    observer = observe(settings(tmp_path, [("a", a, "eth0")]))
    observer.process.stdin.close()
    assert observer.process.wait(10) == 1


def test_what_cannot_be_captured_is_said_in_one_sentence(pair, observe, tmp_path):
    a, _ = pair
    refused = observe(settings(tmp_path, [("a", a, "eth9")]), first="error")
    assert "Interface eth9 cannot be captured" in refused.first["message"]
    assert refused.process.wait(10) == 1
