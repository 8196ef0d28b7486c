"""Makes this process's / the root of a mount namespace where it is not, as in a chroot.

Mininet's mnexec, and whoever else enters the mount namespace of a node, lands at the root of that namespace. In a
container that is /. In a chroot it is the root of the system around it; and mnexec cannot even make a node there
("remount: Invalid argument"), since / is no mount point. `enter` does what a container's start does: a mount namespace
of its own whose root is what / was (pivot_root(2) has the trick with the dots; include/uapi/linux/mount.h).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from unnoticed.errors import MachineError

_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2

_NAMESPACE = "/proc/self/ns/mnt"


def check_proc() -> None:
    """Raise MachineError where there is no /proc, without which nothing else can be found out."""
    if not Path("/proc/self").exists():
        raise MachineError("There is no /proc here: mount it first (mount -t proc proc /proc).")


def is_own() -> bool:
    """Whether / is the root of the mount namespace of this process. Needs root; raises MachineError without /proc."""
    check_proc()
    mount_points = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    if "/" not in mount_points:
        return False
    # nsenter enters the namespace that it is in: that alone moves it to the root of it.
    stat = ["nsenter", f"--mount={_NAMESPACE}", "stat", "--format", "%d %i", "/"]
    there = subprocess.run(stat, capture_output=True, text=True, check=False).stdout.split()
    here = Path("/").stat()
    return there == [str(here.st_dev), str(here.st_ino)]


def enter() -> bool:
    """Give this process, and those it starts, a mount namespace whose root is /; False if it has one.

    To be called before any thread starts (a thread keeps the root that it has). Nothing changes for other processes.
    Raises MachineError where the kernel does not allow it.
    """
    if is_own():
        return False
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            why = os.strerror(ctypes.get_errno())
            raise MachineError(f"/ cannot be made the root of a mount namespace of its own here ({name}: {why}).")

    folder = Path.cwd()
    call("unshare", _CLONE_NEWNS)
    root = os.open("/", os.O_PATH)
    namespace = os.open(_NAMESPACE, os.O_RDONLY)
    try:
        call("setns", namespace, _CLONE_NEWNS)  # out of the chroot, so that / is a mount point that can be changed
        call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
        os.fchdir(root)
        path = os.fsencode(Path.cwd())
    finally:
        os.close(root)
        os.close(namespace)
    call("mount", path, path, None, ctypes.c_ulong(_MS_BIND | _MS_REC), None)
    os.chdir(path)  # onto the new mount, not what is below it
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir(folder)
    return True
