"""Network namespaces for the tests of this folder: nameless, each held by a sleeping process that the test ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unnoticed.probes.namespace import inside_network_of


class Namespace:
    """A network namespace that lives as long as its holder."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"up\n"
        self.pid = self.holder.pid
        self.run("ip", "link", "set", "dev", "lo", "up")
        with inside_network_of(self.pid):
            for setting in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6").write_text("1")

    def run(self, *command, text=None):
        """Run a command inside; its stdout. A failure shows its stderr."""
        with inside_network_of(self.pid):
            done = subprocess.run(command, capture_output=True, text=True, input=text, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def inside(self):
        return inside_network_of(self.pid)

    def snmp(self, *names):
        """Counters of this namespace's TCP, e.g. RetransSegs and TCPLossProbes."""
        found = {}
        with inside_network_of(self.pid):
            for file in ("snmp", "netstat"):
                lines = Path(f"/proc/thread-self/net/{file}").read_text().splitlines()
                for keys, values in zip(lines[::2], lines[1::2], strict=True):
                    found.update(zip(keys.split()[1:], map(int, values.split()[1:]), strict=True))
        return [found[name] for name in names]

    def close(self):
        self.holder.stdout.close()
        self.holder.kill()
        self.holder.wait()


@pytest.fixture
def namespaces():
    """Make namespaces: `a, b = namespaces(2)`."""
    made = []

    def make(count):
        made.extend(Namespace() for _ in range(count))
        return made[-count:]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def pair(namespaces):
    """Two namespaces joined by a veth pair: (a, b); eth0 at both ends, 10.9.0.1 and 10.9.0.2."""
    a, b = namespaces(2)
    a.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(b.pid))
    for end, address in ((a, "10.9.0.1"), (b, "10.9.0.2")):
        end.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        end.run("ip", "link", "set", "dev", "eth0", "up")
    return a, b


@pytest.fixture
def path(namespaces):
    """Two namespaces with a switch between: (a, b, switch); eth0 and 10.9.0.1 or 10.9.0.2; ports `to-a` and `to-b`."""
    a, b, switch = namespaces(3)
    switch.run("ip", "link", "add", "br0", "type", "bridge")
    for port, end, address in (("to-a", a, "10.9.0.1"), ("to-b", b, "10.9.0.2")):
        switch.run("ip", "link", "add", "dev", port, "type", "veth", "peer", "name", "eth0", "netns", str(end.pid))
        switch.run("ip", "link", "set", "dev", port, "master", "br0", "up")
        end.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        end.run("ip", "link", "set", "dev", "eth0", "up")
    switch.run("ip", "link", "set", "dev", "br0", "up")
    return a, b, switch


class ObserverChild:
    """The observer, started as the runner starts it."""

    def __init__(self, settings):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unnoticed.probes.observer", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.first = self.receive()

    def receive(self):
        line = self.process.stdout.readline()
        assert line, "the observer ended"
        return json.loads(line)

    def send(self, command):
        self.process.stdin.write(json.dumps({"command": command}) + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.send("stop")
        done = self.receive()
        assert self.process.wait(10) == 0
        return done

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def observe():
    """Start observers: `observer = observe(settings)`; `observer.stop()` gives the reply."""
    started = []

    def start(settings, *, first="ready"):
        started.append(ObserverChild(settings))
        assert started[-1].first["reply"] == first, started[-1].first
        return started[-1]

    yield start
    for child in started:
        child.close()
