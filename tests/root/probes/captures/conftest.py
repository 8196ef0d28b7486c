"""Two hosts and a switch between that loses frames, captured by tcpdump and tshark."""

import contextlib
import json
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from unnoticed.experiments import cli
from unnoticed.probes.namespace import inside_network_of
from unnoticed.tcpinfo import read_tcp_info

SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 6, 23, 3
SO_RCVBUFFORCE = 33
FLUSHED_S = 1.5  # both keep frames that are still in their buffers from a file that is ended before
VLAN = 7


class Host:
    """A network namespace that lives as long as its holder."""

    def __init__(self, number=0):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"up\n"
        self.pid, self.number = self.holder.pid, number
        self.run("ip", "link", "set", "dev", "lo", "up")
        with self.inside():
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")

    def inside(self):
        return inside_network_of(self.pid)

    def run(self, *command, text=None):
        with self.inside():
            done = subprocess.run(command, capture_output=True, text=True, input=text, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start(self, *command, **pipes):
        with self.inside():
            return subprocess.Popen(command, **pipes)

    def close(self):
        self.holder.stdout.close()
        self.holder.kill()
        self.holder.wait()


class Tagger:
    """Between `access` and `trunk` of a namespace: puts the frames of the one into a VLAN on the other, and back.

    Many kernels have no VLAN interfaces; frames with a tag pass all the same.
    """

    def __init__(self, host):
        self.host, self.over = host, False
        with host.inside():
            self.ends = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2)]
        for end, device in zip(self.ends, ("access", "trunk"), strict=True):
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
            end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            end.bind((device, ETH_P_ALL))
            end.settimeout(0.2)
        self.threads = [threading.Thread(target=self.pass_on, args=pair) for pair in (self.ends, self.ends[::-1])]
        for thread in self.threads:
            thread.start()

    def pass_on(self, source, target):
        tag = struct.pack(">HH", 0x8100, VLAN) if source is self.ends[0] else b""
        while not self.over:
            with contextlib.suppress(TimeoutError):
                frame = source.recv(1 << 16)  # the kernel takes the tag off what it hands out
                target.send(frame[:12] + tag + frame[12:])

    def close(self):
        self.over = True
        for thread in self.threads:
            thread.join()
        lost = [struct.unpack("II", end.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1] for end in self.ends]
        for end in self.ends:
            end.close()
        assert lost == [0, 0]


class Line:
    """Hosts a and b, and a switch between them that can drop; each has 10.9.0.N and fd00:9::N.

    `point`: the namespace and the interface to capture at, before anything can be dropped. With `tagged`, that is
    where the frames of host a have got their VLAN tag; nothing is offloaded then.
    """

    def __init__(self, *, tagged=False):
        self.a, self.b, self.switch = Host(1), Host(2), Host()
        self.hosts, self.others, self.taggers = (self.a, self.b), [self.switch], []
        self.switch.run("ip", "link", "add", "br0", "type", "bridge")
        self.points = []
        for host in self.hosts:
            before, device = host, "eth0"
            if tagged:
                before, device = Host(), "trunk"
                self.others.append(before)
                self.join(host, "eth0", before, "access")
                host.run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx", "off")
            self.join(before, device, self.switch, f"port{host.number}")
            self.switch.run("ip", "link", "set", "dev", f"port{host.number}", "master", "br0")
            if tagged:
                self.taggers.append(Tagger(before))
            self.points.append((before, device))
            host.run("ip", "address", "add", f"10.9.0.{host.number}/24", "dev", "eth0")
            host.run("ip", "address", "add", f"fd00:9::{host.number}/64", "dev", "eth0", "nodad")
        self.switch.run("ip", "link", "set", "dev", "br0", "up")

    @staticmethod
    def join(one, device, other, peer):
        other.run("ip", "link", "add", "dev", peer, "type", "veth", "peer", "name", device, "netns", str(one.pid))
        for host, name in ((one, device), (other, peer)):
            host.run("ip", "link", "set", "dev", name, "up")

    def offload(self, state):
        for host, device in ((self.a, "eth0"), (self.b, "eth0"), (self.switch, "port1"), (self.switch, "port2")):
            host.run("ethtool", "-K", device, "tso", state, "gso", state, "gro", state)

    def drop(self, rule):
        """Drop what matches, in both directions, behind one host's captures and before the other's."""
        for port in ("port1", "port2"):
            chain = f"type filter hook ingress device {port} priority 0;"
            text = f"table netdev loss_{port} {{ chain c {{ {chain} {rule} counter drop; }}; }}\n"
            self.switch.run("nft", "-f", "-", text=text)

    def heal(self):
        for port in ("port1", "port2"):
            self.switch.run("nft", "delete", "table", "netdev", f"loss_{port}")

    def close(self):
        for tagger in self.taggers:
            tagger.close()
        for host in (*self.hosts, *self.others):
            host.close()


@pytest.fixture
def lines():
    """Make the one line of a test: `line = lines(tagged=True)`."""
    made = []

    def make(**more):
        made.append(Line(**more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def line(lines):
    return lines()


class Capturing:
    """A program that captures, from when it says so until it is asked to end."""

    def __init__(self, host, *command):
        if shutil.which(command[0]) is None:
            pytest.skip(f"needs {command[0]}: scripts/setup --tests")
        self.command = command
        self.process = host.start(*command, stderr=subprocess.PIPE, text=True)
        self.said = ""
        while "listening on" not in self.said and "Capturing on" not in self.said:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        if command[0] != "tcpdump":
            time.sleep(0.5)  # it says so before it does

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.said += self.process.communicate(timeout=30)[1]
        if self.command[0] == "tcpdump":
            assert "\n0 packets dropped by kernel" in self.said, self.said

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def capture():
    """Start programs that capture: `capture(host, "tcpdump", ...)`; `capture.stop()` ends all, with nothing lost."""

    class Captures:
        def __init__(self):
            self.running = []

        def __call__(self, host, *command):
            self.running.append(Capturing(host, *command))

        def stop(self):
            time.sleep(FLUSHED_S)
            for one in self.running:
                one.stop()

    captures = Captures()
    yield captures
    for one in captures.running:
        one.close()


def swallow(one, count):
    while count:
        data = one.recv(min(count, 1 << 18))
        assert data
        count -= len(data)


class Conversations:
    """TCP connections from a to b at addresses of one family: uploads, and requests with larger answers."""

    def __init__(self, line, address_of, *, family=socket.AF_INET, port=7):
        self.ends = []
        with line.b.inside():
            server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address_of(2), port))
        server.listen(16)
        for _ in range(3):
            with line.a.inside():
                client = socket.socket(family)
            client.connect((address_of(2), port))
            peer, _ = server.accept()
            for one in (client, peer):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ends.append((client, peer))
        server.close()

    def talk(self, *, upload_bytes, requests):
        (client, peer), *others = self.ends
        threads = [
            threading.Thread(target=client.sendall, args=(bytes(upload_bytes),)),
            threading.Thread(target=swallow, args=(peer, upload_bytes)),
            *(threading.Thread(target=self.ask, args=(*pair, requests)) for pair in others),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.5)  # the last acknowledgements, and retransmissions that cross them

    @staticmethod
    def ask(client, peer, requests, wait_s=0.0):
        for _ in range(requests):
            client.sendall(bytes(40))
            swallow(peer, 40)
            peer.sendall(bytes(4000))
            swallow(client, 4000)
            time.sleep(wait_s)

    def kernel(self):
        """What the kernel says it sent again, by (sender, receiver)."""

        def name(address):
            host, port = address[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

        return {
            (name(one.getsockname()), name(one.getpeername())): read_tcp_info(one) for pair in self.ends for one in pair
        }

    def close(self):
        for pair in self.ends:
            for one in pair:
                one.close()


@pytest.fixture
def conversations():
    made = []

    def make(*arguments, **more):
        made.append(Conversations(*arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def analyse():
    """Call the command; the document it prints."""

    def run(*arguments):
        result = CliRunner().invoke(cli.main, ["analyse", "--json", *map(str, arguments)])
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    return run
