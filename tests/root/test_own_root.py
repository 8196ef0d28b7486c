from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unnoticed import own_root

pytestmark = pytest.mark.root

# A chroot to a plain folder that holds this system's folders, in a mount namespace that ends with it.
CHROOT = """
set -eu
for entry in /*; do
    name=$1$entry
    if [ -L "$entry" ]; then cp -P "$entry" "$name"
    elif [ -d "$entry" ]; then mkdir "$name" && mount --rbind "$entry" "$name"
    fi
done
exec chroot "$@"
"""

IN_THE_CHROOT = """
import os, subprocess
from unnoticed import own_root
make_node = lambda: subprocess.run(["mnexec", "-n", "true"], timeout=10, check=False).returncode
folder = os.getcwd()
assert not own_root.is_own() and make_node() != 0, "this is no chroot"
before = os.listdir("/")
assert own_root.enter()
assert own_root.is_own() and make_node() == 0
assert os.listdir("/") == before and os.getcwd() == folder
assert not own_root.enter()
"""


def in_chroot(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    root = tmp_path / "root"
    root.mkdir()
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CHROOT, "sh", str(root)]
    return subprocess.run(
        [*unshare, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_tests_run_in_a_root_of_their_own():
    assert own_root.is_own()


def test_a_chroot_becomes_a_root_where_mininet_can_make_nodes(tmp_path):
    result = in_chroot(tmp_path, sys.executable, "-c", IN_THE_CHROOT)
    assert result.returncode == 0, result.stderr


def test_the_namespace_around_a_chroot_keeps_its_mounts(tmp_path):
    in_chroot(tmp_path, sys.executable, "-c", IN_THE_CHROOT)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_without_proc_it_is_said_what_to_mount(tmp_path):
    script = "umount -l /proc && exec " + shlex.join([sys.executable, "-m", "unnoticed", "doctor"])
    result = in_chroot(tmp_path, "sh", "-c", script)
    assert result.returncode == 77, result.stderr
    assert "There is no /proc here: mount it first (mount -t proc proc /proc)." in result.stderr
