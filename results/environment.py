"""The environment of a run: what `environment.json` says of the machine, and in which of it two runs differ.

Gathered once, before the first trial. The host's name and its user are left out: a report is made to be shown.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import unnoticed

ENVIRONMENT_VERSION = 1

PACKAGES = ("matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "pyroute2", "scapy")
TOOLS: dict[str, tuple[str, ...]] = {
    "ip": ("ip", "-V"),
    "tc": ("tc", "-V"),
    "mnexec": ("mnexec", "-v"),
    "iperf3": ("iperf3", "--version"),
    "tcpdump": ("tcpdump", "--version"),
}
_SYSCTLS = ("net/ipv4/tcp_congestion_control", "net/core/rmem_max", "net/core/wmem_max")
# Two runs are compared silently only where all of these are equal.
_NOT_COMPARED = ("taken_utc", "version", "machine_noise", "load_average", "calibration")


def gather(
    *,
    machine_noise: Mapping[str, Any] | None = None,
    dirty_tracking: Sequence[str] | None = None,
    trials_at_once: int = 1,
) -> dict[str, Any]:
    """Everything about this machine that can move a result. `machine_noise` is what the doctor measured, if it did;
    `dirty_tracking` the trackers that work here, the best first; `trials_at_once` how many trials share the machine.

    What cannot be read is None. Costs about 50 ms: the tools are asked for their versions.
    """
    return {
        "version": ENVIRONMENT_VERSION,
        "taken_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "unnoticed": {"version": unnoticed.__version__, "git": _git_describe(Path(__file__).resolve().parent.parent)},
        "kernel": {"release": platform.release(), "build": platform.version(), "machine": platform.machine()},
        "system": _system_name(),
        "cpu": {"model": _cpu_model(), "count": os.cpu_count(), "usable": len(os.sched_getaffinity(0))},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "clocksource": _line(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        "cpu_governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "dirty_tracking": None if dirty_tracking is None else list(dirty_tracking),
        "sysctl": {name.replace("/", "."): _line(Path("/proc/sys") / name) for name in _SYSCTLS},
        "load_average": list(os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _package(name) for name in PACKAGES},
        "tools": {name: _tool(command) for name, command in TOOLS.items()},
        "trials_at_once": trials_at_once,
        "machine_noise": dict(machine_noise) if machine_noise is not None else None,
    }


def _line(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except OSError:
        return None


def _system_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _cpu_model() -> str | None:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tool(command: tuple[str, ...]) -> str | None:
    """The first line of what the tool says of its version; None where it is not installed or says nothing."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run((path, *command[1:]), capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else None


def _git_describe(folder: Path) -> str | None:
    """`git describe` of a checkout; None for an installed package."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    # Run as root in a user's checkout, git refuses to look unless it is told that the folder is safe.
    command = ("git", "-c", f"safe.directory={folder}", "-C", str(folder), "describe", "--always", "--dirty", "--tags")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that two environments do not have in common. `name` is dotted."""

    name: str
    first: str
    second: str


def flatten(environment: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and texts, for a table; None becomes `unknown`."""
    flat: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            flat[prefix + name] = ", ".join(str(entry) for entry in value)
        else:
            flat[prefix + name] = "unknown" if value is None else str(value)
    return flat


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Where two environments differ in something that can move a result."""
    flat_first = flatten({name: value for name, value in first.items() if name not in _NOT_COMPARED})
    flat_second = flatten({name: value for name, value in second.items() if name not in _NOT_COMPARED})
    return [
        Difference(name=name, first=flat_first.get(name, "unknown"), second=flat_second.get(name, "unknown"))
        for name in dict.fromkeys([*flat_first, *flat_second])
        if flat_first.get(name, "unknown") != flat_second.get(name, "unknown")
    ]
