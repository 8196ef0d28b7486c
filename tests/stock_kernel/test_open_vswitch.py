"""Open vSwitch with the kernel's datapath, started by hand in a folder of its own: no systemd, nothing shared."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from unnoticed.experiments.doctor.capabilities import CAPABILITIES, find

pytestmark = pytest.mark.root

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
WAIT_S = 60


class Namespaces:
    """A namespace for the switch and one for each of two hosts, each held by a process."""

    def __init__(self):
        hold = ["unshare", "--net", "sleep", "infinity"]
        self.holders = {name: subprocess.Popen(hold) for name in ("switch", "h1", "h2")}
        deadline = time.monotonic() + WAIT_S
        own = os.readlink("/proc/self/ns/net")  # noqa: PTH115
        for holder in self.holders.values():
            while os.readlink(f"/proc/{holder.pid}/ns/net") == own:  # noqa: PTH115
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def inside(self, name, *command, check=True, **environment):
        enter = ["nsenter", f"--net=/proc/{self.holders[name].pid}/ns/net", *command]
        env = {**os.environ, **environment}
        done = subprocess.run(enter, capture_output=True, text=True, check=False, timeout=WAIT_S, env=env)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def close(self):
        for holder in self.holders.values():
            holder.kill()
            holder.wait()


@pytest.fixture
def namespaces():
    made = Namespaces()
    yield made
    made.close()


@contextmanager
def open_vswitch(namespaces, folder):
    """ovsdb-server and ovs-vswitchd in the switch's namespace; gives a function that runs their tools."""
    places = {name: str(folder) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}
    enter = ["nsenter", f"--net=/proc/{namespaces.holders['switch'].pid}/ns/net"]
    environment = {**os.environ, **places}
    subprocess.run(["ovsdb-tool", "create", str(folder / "conf.db"), str(SCHEMA)], check=True, env=environment)
    socket = f"unix:{folder}/db.sock"
    server = subprocess.Popen(
        ["ovsdb-server", str(folder / "conf.db"), f"--remote=p{socket}", f"--unixctl={folder}/server.ctl"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    daemon = subprocess.Popen(
        [*enter, "ovs-vswitchd", socket, f"--unixctl={folder}/daemon.ctl"], env=environment, stderr=subprocess.DEVNULL
    )

    def tool(name, *arguments):
        where = {
            "ovs-vsctl": (f"--db={socket}", f"--timeout={WAIT_S}"),
            "ovs-appctl": (f"--target={folder}/daemon.ctl",),
        }
        return namespaces.inside("switch", name, *where.get(name, ()), *arguments, **places)

    try:
        tool("ovs-vsctl", "--retry", "init")
        yield tool
    finally:
        for process in (daemon, server):
            process.terminate()
            process.wait(WAIT_S)


def test_the_doctor_finds_it():
    found = find(next(entry for entry in CAPABILITIES if entry.name == "Open vSwitch"))
    assert found.works, found.detail


def test_two_hosts_talk_over_the_kernel_s_datapath_and_it_learns_where_they_are(namespaces, tmp_path):
    with open_vswitch(namespaces, tmp_path) as tool:
        tool("ovs-vsctl", "add-br", "br0")
        for number in (1, 2):
            pid = namespaces.holders[f"h{number}"].pid
            namespaces.inside(
                *("switch", "ip", "link", "add", "name", f"p{number}", "type", "veth"),
                *("peer", "name", "eth0", "netns", str(pid)),
            )
            namespaces.inside("switch", "ip", "link", "set", "dev", f"p{number}", "up")
            namespaces.inside(f"h{number}", "ip", "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
            namespaces.inside(f"h{number}", "ip", "link", "set", "dev", "eth0", "address", f"02:00:00:00:09:0{number}")
            namespaces.inside(f"h{number}", "ip", "link", "set", "dev", "eth0", "up")
            tool("ovs-vsctl", "add-port", "br0", f"p{number}")
        answers = namespaces.inside("h1", "ping", "-n", "-c", "20", "-i", "0.1", "-W", "5", "10.9.0.2")
        assert "20 received" in answers
        datapath = tool("ovs-appctl", "dpctl/show")
        learned = tool("ovs-appctl", "fdb/show", "br0")
    assert datapath.startswith("system@ovs-system:")  # not netdev@: that would be the one in userspace
    assert {"02:00:00:00:09:01", "02:00:00:00:09:02"} <= set(learned.split())
