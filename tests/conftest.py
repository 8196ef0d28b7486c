"""Which tests run here: those that need root, and those that need a newer kernel; and which may run side by side.

A test that needs root is skipped without it, with the reason. Where root is required (CI=true, or
UNNOTICED_REQUIRE_ROOT=1) nothing that such a test lacks is an excuse: its skips fail. One excuse stands: a kernel that
is older than what is tested.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from unnoticed import own_root
from unnoticed.errors import MachineError

# How long an example takes is this machine's affair, not the test's.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

ROOT_TESTS = Path(__file__).parent / "root"
# Whole runs, and what is cleaned up behind dead ones, one after another: they look at all that is on the machine.
ON_THEIR_OWN = (ROOT_TESTS / "experiments", ROOT_TESTS / "topology" / "test_clean.py")
OLDER_KERNEL = "the kernel is older: "


def root_is_required() -> bool:
    return os.environ.get("UNNOTICED_REQUIRE_ROOT", "") not in ("", "0") or os.environ.get("CI") == "true"


@functools.cache
def lacking_for_root() -> str:
    """What this machine lacks to run tests marked `root`, in words; empty if it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        own_root.enter()
        # Mininet waits for ever where mnexec fails, so it is tried before.
        subprocess.run(["mnexec", "-n", "true"], capture_output=True, text=True, timeout=10, check=True)
    except FileNotFoundError:
        return "needs Debian's mininet, which has mnexec"
    except subprocess.CalledProcessError as error:
        return f"cannot make network namespaces here: {error.stderr.strip()}"
    except (subprocess.TimeoutExpired, MachineError) as error:
        return str(error)
    return ""


def kernel_release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def pytest_configure(config: pytest.Config) -> None:
    lacking_for_root()  # asked early: a chroot is left before any thread starts
    # As from a terminal: under nohup, or in the background of a script, these are ignored, by all that is started too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def side_by_side(file: str) -> str:
    """The group of the tests in a file: those of one group run one after another, in one process."""
    path = Path(__file__).parent.parent / file
    if any(place == path or place in path.parents for place in ON_THEIR_OWN):
        return "runs"
    return "parts" if ROOT_TESTS in path.parents else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what, with `-n`: groups in their order, so that the long ones begin first.

    The groups that pytest-xdist 3.8 makes of marks are none under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return side_by_side(nodeid.partition("::")[0])

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("since_kernel")
    if marker is not None:
        (version,) = marker.args
        if kernel_release() < tuple(int(number) for number in version.split(".")):
            pytest.skip(f"{OLDER_KERNEL}{platform.release()}, needs {version}")
    if item.get_closest_marker("root") is not None and (reason := lacking_for_root()):
        pytest.skip(reason)


def without_excuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn the skip of a test that must run into a failure."""
    if report.skipped and isinstance(report.longrepr, tuple) and root_is_required():
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(OLDER_KERNEL):
            report.outcome = "failed"
            report.longrepr = f"Skipped, but root tests must run here: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("root") is not None:
        without_excuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if ROOT_TESTS in collector.path.parents:  # a module that skips itself
        without_excuse(report)
    return report
