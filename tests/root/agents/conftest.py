"""A fabric with two agents on it and a client's load, for whole migrations."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unnoticed import workload
from unnoticed.agents.announce import Announcement, Announcer, frames_for
from unnoticed.agents.kernel.bridge_port import BridgePort, PortState
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.events import read_events
from unnoticed.experiments.child import Child
from unnoticed.patience import patient
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

WAIT_S = patient(40.0)
MEMORY_BYTES, WORKING_SET_BYTES = 64 << 20, 8 << 20


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Stage:
    """Two agents on a fabric, each a process; the guest, when it is booted; a client and its load."""

    def __init__(self, fabric, folder, *, hold=False, zero_window=False, ip="ipv4", announcements=None, connections=0):
        """`announcements`: those of the agents, by name, beside the usual ones: Announcement without frames."""
        self.fabric, self.folder, self.hold, self.ip, self.connections = fabric, folder, hold, ip, connections
        usual = ("garp", "garp+na", "none") if fabric.spec.ipv6 else ("garp", "none")
        self.zero_window = zero_window
        self.announcements = dict.fromkeys(usual, Announcement(frames=())) | (announcements or {})
        self.events_path = folder / "events.jsonl"
        self.children, self.others = [], []
        self.number = 0
        self.agents = {place: self.start_agent(place) for place in ("a", "b")}
        for agent in self.agents.values():
            agent.wait_ready(WAIT_S)

    # -- starting --------------------------------------------------------------------------------------------------

    def child(self, where, name, module, /, **settings):
        stderr = self.folder / f"{name}.stderr"
        argv = [sys.executable, "-m", f"unnoticed.{module}", json.dumps(settings)]
        with stderr.open("wb") as file:
            process = self.fabric.popen(where, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)
        child = Child(process, name=name, stderr=stderr)
        self.children.append(child)
        return child

    def start_agent(self, place, *, key="00" * 32, to=""):
        """`to`: whom it sends its announcements to, if not to everybody."""
        guest = self.fabric.places[f"guest-{place}"]
        uplinks = [port for port in self.fabric.host_bridges[place].ports if port != "guest"]
        settings = {"mac": guest.mac, "uplinks": uplinks, "zero_window": self.zero_window}
        hold = {"hold": settings} if self.hold else {}
        return self.child(
            place,
            f"agent-{place}-{len(self.children)}",
            "agents.agent",
            place=place,
            address=self.fabric.migration_places[place].ipv4,
            key=key,
            guest_pid=guest.pid,
            gate="guest",
            announcements={
                name: dataclasses.replace(
                    each,
                    frames=tuple(
                        bytes.fromhex(to) + frame[6:] if to else frame
                        for frame in frames_for(name, mac=guest.mac, ipv4=guest.ipv4, ipv6=guest.ipv6)
                    ),
                ).packed()
                for name, each in self.announcements.items()
            },
            events=str(self.events_path),
            connections=self.connections,
            guest={
                "addresses": [address for address in (guest.ipv4, guest.ipv6) if address],
                "interface": guest.interface,
                "congestion": "cubic",
                "events": str(self.events_path),
                "who": f"guest-{place}",
            },
            **hold,
        )

    def replace_agent(self, place, **options):
        """End an agent and start another in its place."""
        self.agents[place].kill()
        self.agents[place].close()
        self.agents[place] = self.start_agent(place, **options)
        self.agents[place].wait_ready(WAIT_S)

    def boot(
        self,
        *,
        memory_bytes=MEMORY_BYTES,
        working_set_bytes=WORKING_SET_BYTES,
        dirty_bytes_per_s=10 << 20,
        pattern="uniform",
        contents=None,
        trace=None,
    ):
        self.agents["a"].command(
            "boot",
            memory_bytes=memory_bytes,
            working_set_bytes=working_set_bytes,
            dirty_bytes_per_s=dirty_bytes_per_s,
            pattern=pattern,
            contents=contents or {},
            trace=trace,
        )
        self.agents["a"].wait_reply("booted", WAIT_S)

    def load(self, *, rate_hz=500, connections=10, bulk=True, connect_hz=20):
        """A load client as in a trial, started."""
        settings = {"request_response": {"connections": connections, "rate_hz": rate_hz}} if connections else {}
        if bulk:
            settings |= {"download": {"connections": 1, "rate_bit_per_s": 20_000_000}}
            settings |= {"upload": {"connections": 1, "rate_bit_per_s": 20_000_000}}
        if connect_hz:
            settings |= {"connect": {"rate_hz": connect_hz}}
        client = self.child(
            "c1",
            f"client-{len(self.children)}",
            "probes.client",
            client="c1",
            guest=self.guest_address[0],
            port=self.guest_address[1],
            events=str(self.events_path),
            records=str(self.folder),
            grace_s=patient(15.0),
            **settings,
        )
        client.wait_ready(WAIT_S)
        client.command("start")
        time.sleep(0.3)
        return client

    def python(self, where, code, *arguments):
        """A program of the test's own at a place; its stdin and stdout are pipes of lines."""
        process = self.fabric.popen(
            where,
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.others.append(process)
        return process

    # -- playing ---------------------------------------------------------------------------------------------------

    @property
    def guest_address(self):
        return self.fabric.places["guest-a"].address(self.ip), workload.TCP_PORT

    def begin_migration(self, source, destination, *, fail_there=None, via=None, expected=True, **settings):
        self.number += 1
        if expected:
            self.agents[destination].command("expect", number=self.number, fail_at=fail_there)
            self.agents[destination].wait_reply("expecting", WAIT_S)
        there = self.fabric.migration_places[destination] if via is None else self.fabric.places[via]
        given = {
            "mode": "pre-copy",
            "policy": "tcp-timeout",  # which gives up on a machine that is too busy
            "announce": "garp+na" if self.ip == "ipv6" else "garp",
            "destination": there.ipv4,
            "number": self.number,
            "gap": "hold" if self.hold else "drop",
        }
        if self.hold:
            given |= {"policy": "fixed-rounds", "parameters": {"rounds": 3}}
        self.agents[source].command("migrate", **given | settings)

    def end_migration(self, source):
        return self.agents[source].wait_reply("migrated", WAIT_S)

    def migrate(self, source, destination, **settings):
        self.begin_migration(source, destination, **settings)
        return self.end_migration(source)

    def verify(self, place):
        """What the agent there says of the guest's RAM."""
        self.agents[place].command("verify")
        return self.agents[place].wait_reply("verified", WAIT_S)

    def check_guest(self, place, *, resumes=None):
        """The guest is at a place and nowhere else, and its RAM is what it must be."""
        found = self.verify(place)
        assert found["here"]
        assert found["wrong_pages"] == 0
        if resumes is not None:
            assert found["resumes"] == resumes
        other = "b" if place == "a" else "a"
        assert self.verify(other) == {"reply": "verified", "here": False}
        assert (self.fabric.gate(place), self.fabric.gate(other)) == (3, 0)

    def check_unharmed(self, client):
        """Stop the load: nothing was reset, wrong, or left without an answer."""
        client.command("stop")
        done = client.wait_reply("done", WAIT_S)
        troubles = [event for event in self.events("socket") if event.get("who") == "c1" and not event["integrity"]]
        assert not troubles
        keys = ("resets", "wrong_bytes", "unfinished", "unsent")
        assert {key: done[key] for key in keys} == dict.fromkeys(keys, 0)
        assert done["requests"] == done["answered"] == done["right"] > 0
        return done

    def events(self, name):
        return [event for event in read_events(self.events_path) if event["event"] == name]

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)

    def wait_until(self, condition):
        """Wait until something holds that must come to hold."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it never came to hold"
            time.sleep(0.005)

    def children_of(self, agent):
        """The pids of an agent's guest process and helpers."""
        found = []
        for pid in _children(agent.pid):
            is_nursery = b"agents.nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()
            found += _children(pid) if is_nursery else [pid]
        return found

    def gate(self, place, state):
        namespace = NetworkNamespace(self.fabric.places[place].pid)
        with namespace.entered():
            port = BridgePort("guest")
        port.set(state)
        port.close()
        namespace.close()

    def tell_switches(self):
        """Teach the switches that the guest is at A: a test may leave it at B in their tables."""
        place = self.fabric.places["guest-a"]
        namespace = NetworkNamespace(place.pid)
        with namespace.entered():
            announcer = Announcer(place.interface)
        announcer.send(frames_for("garp", mac=place.mac, ipv4=place.ipv4))
        announcer.close()
        namespace.close()

    def close(self):
        for child in reversed(self.children):
            child.kill()
            child.close()
        for process in self.others:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        self.gate("a", PortState.FORWARDING)
        self.gate("b", PortState.DISABLED)
        self.tell_switches()


@pytest.fixture(scope="session")
def fabric(tmp_path_factory):
    run = Run(output=tmp_path_factory.mktemp("run"))
    run.begin()
    try:
        with Fabric(FabricSpec(shape="single", clients=1, rate_bit_per_s=None, ipv6=True), run_id=run.id) as fabric:
            yield fabric
    finally:
        run.end()


@pytest.fixture(scope="session")
def make_stage(fabric):
    """To make a stage of one's own, in a folder; whoever does closes it."""
    return functools.partial(Stage, fabric)


@pytest.fixture
def stage(fabric, tmp_path):
    made = Stage(fabric, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def crowded(fabric, tmp_path, request):
    """A stage whose agents expect as many connections as the test says."""
    made = Stage(fabric, tmp_path, connections=request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def holding(fabric, tmp_path):
    """A stage whose agents hold frames, in every migration that does not say otherwise."""
    made = Stage(fabric, tmp_path, hold=True)
    try:
        yield made
    finally:
        made.close()


MIDDLEMAN = """
# Between two agents: passes on what they say, and does one thing that it was asked to.
import json, select, socket, struct, sys

address, destination, doing, argument = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
listener = socket.create_server((address, 7100))
print("ready", flush=True)
one, _ = listener.accept()
other = socket.create_connection((destination, 7100))
for each in (one, other):
    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
passed, frames = 0, b""
while True:
    for ready in select.select([one, other], [], [])[0]:
        try:
            data = ready.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            sys.exit()
        if ready is one:
            if doing == "flip" and passed <= argument < passed + len(data):
                data = bytearray(data)
                data[argument - passed] ^= 0x10
            passed += len(data)
            try:
                other.sendall(data)
            except OSError:
                sys.exit()
        else:
            # from the destination come frames only: header of 8 bytes, body, tag of 16 bytes
            frames += data
            while len(frames) >= 8 and len(frames) >= 24 + struct.unpack_from("<I", frames, 4)[0]:
                length = 24 + struct.unpack_from("<I", frames, 4)[0]
                kind = frames[0]
                if kind == argument and doing in ("hold", "cut-after"):
                    if doing == "cut-after":
                        one.sendall(frames[:length])
                        other.close()
                    print("held", flush=True)
                    sys.stdin.readline()
                    sys.exit()
                one.sendall(frames[:length])
                frames = frames[length:]
"""


@pytest.fixture
def middleman(request):
    """Start a middleman at the control server, for `via="control"`. doing: flip (a byte), hold, cut-after (a frame)."""

    stage = request.getfixturevalue("holding" if "holding" in request.fixturenames else "stage")

    def start(doing, argument, *, destination="b"):
        places = stage.fabric.places
        process = stage.python("control", MIDDLEMAN, places["control"].ipv4, places[destination].ipv4, doing, argument)
        assert process.stdout.readline() == "ready\n"
        return process

    return start


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            assert item.get_closest_marker("root"), f"{item.nodeid} is not marked root"
