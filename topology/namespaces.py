"""Working inside the network namespaces of other processes: from threads of this one, with no shell in between.

A thread that called setns(2) is in another network namespace than the rest of its process, and so are the commands it
starts and the sockets it opens. /proc/sys/net shows the namespace of the thread that opens a file there; /sys shows
the namespace of whoever mounted it, so it is read through the root of a process that mounted its own (mnexec does).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from unnoticed.errors import FabricError, MachineError

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_COMMAND_TIMEOUT_S = 30.0
_WORKERS = 4  # the kernel serialises most of the work (rtnl_lock); more would only wait

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def _enter(pid: int) -> None:
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FabricError(
            f"The process {pid} that held a namespace of the fabric is gone ({error.strerror})."
        ) from error
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise FabricError(
                f"Cannot enter the network namespace of process {pid}: {os.strerror(ctypes.get_errno())}."
            )
    finally:
        os.close(namespace)


def run_inside(jobs: Sequence[tuple[int, Callable[[], T]]]) -> list[T]:
    """Call each function in the network namespace of its pid, several at a time, and return what they returned.

    Raises what the first of them raised. The calling thread never changes its namespace.
    """

    def run(job: tuple[int, Callable[[], T]]) -> T:
        pid, function = job
        _enter(pid)
        return function()

    if not jobs:
        return []
    with ThreadPoolExecutor(max_workers=min(_WORKERS, len(jobs)), thread_name_prefix="namespace") as pool:
        return list(pool.map(run, jobs))


def run_batch(command: Sequence[str], lines: Sequence[str]) -> str:
    """Give `lines` to `command -batch -` (ip, tc or bridge, with options) and return its output.

    Raises FabricError with the line that failed and what the command said; MachineError if there is no such command.
    """
    try:
        done = subprocess.run(
            [*command, "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError(f"There is no command {command[0]!r} on this machine: install iproute2.") from error
    except subprocess.TimeoutExpired as error:
        raise FabricError(f"{' '.join(command)} did not answer within {_COMMAND_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        number = re.search(r"Command failed -:(\d+)", done.stderr)
        failed = lines[int(number[1]) - 1] if number else "; ".join(lines)
        said = " ".join(done.stderr.split())
        raise FabricError(f"`{command[0]} {failed}` failed: {said}")
    return done.stdout


def json_documents(text: str) -> list[Any]:
    """The JSON documents that stand one after the other in `text`, as `-j -batch` prints them."""
    decoder, documents, position = json.JSONDecoder(), [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        try:
            document, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise FabricError(
                f"A command should have printed JSON, but printed {text[position : position + 80]!r}."
            ) from error
        documents.append(document)
    return documents


def set_sysctl(path: str, value: str, *, optional: bool = False) -> None:
    """Set and read back a network sysctl, e.g. "net/ipv4/ip_forward", of the namespace the calling thread is in.

    An `optional` one may be missing. Raises FabricError if it cannot be set.
    """
    file = Path("/proc/sys") / path
    try:
        file.write_text(value)
        now = file.read_text().strip()
    except FileNotFoundError:
        if optional:
            return
        raise FabricError(f"This kernel has no sysctl {path}.") from None
    except OSError as error:
        raise FabricError(f"Cannot set the sysctl {path} to {value} in a namespace: {error.strerror}.") from error
    if now != value:
        raise FabricError(f"The sysctl {path} was set to {value} in a namespace, but is {now}.")


def device_folder(pid: int, device: str) -> Path:
    """The sysfs folder of a network device in the namespace of `pid`, which must have a /sys of its own."""
    return Path(f"/proc/{pid}/root/sys/class/net/{device}")


def read_device(pid: int, device: str, attribute: str) -> str:
    """One attribute of a device from sysfs, e.g. "operstate". Raises FabricError if it cannot be read."""
    try:
        return (device_folder(pid, device) / attribute).read_text().strip()
    except OSError as error:
        raise FabricError(
            f"Cannot read {attribute} of {device} in the namespace of {pid}: {error.strerror}."
        ) from error
