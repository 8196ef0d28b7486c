from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.processes import marked_processes
from unnoticed.topology.runs import FABRIC_MARK, RUN_MARK, Run


@pytest.fixture
def run(tmp_path):
    with Run(registry=tmp_path / "registry") as run:
        yield run


@pytest.fixture
def fabric(run):
    with Fabric(FabricSpec(shape="tree", clients=2), run_id=run.id) as fabric:
        yield fabric


@pytest.fixture
def processes_of():
    """The processes that carry the mark of a run (or of a fabric), by pid."""

    def find(identity):
        return {
            process.pid: process
            for process in marked_processes("UNNOTICED_")
            if identity in (process.marks.get(RUN_MARK), process.marks.get(FABRIC_MARK))
        }

    return find


HOST_WIDE = [  # what Mininet raises when it is initialised its own way (mininet.util.fixLimits), and our own sysctls
    "fs/file-max",
    "kernel/pty/max",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/route/max_size",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/default/disable_ipv6",
]


@pytest.fixture
def traces():
    """Everything outside a fabric's own namespaces that it could have touched, as one comparable value."""

    def ip(*arguments):
        done = subprocess.run(["ip", "-o", *arguments], capture_output=True, text=True, check=True)
        return sorted(done.stdout.splitlines())

    def look():
        settings = {name: Path("/proc/sys", name) for name in HOST_WIDE}
        return {
            "links": [line.split(":")[1] for line in ip("link", "show")],
            "namespaces": ip("netns", "list"),
            "addresses": ip("-4", "address", "show"),
            "sysctls": {name: file.read_text() for name, file in settings.items() if file.exists()},
            "limits": Path("/proc/self/limits").read_text(),
            "mounts": Path("/proc/self/mounts").read_text(),
        }

    return look
