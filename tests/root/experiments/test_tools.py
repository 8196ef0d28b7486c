"""Tools of others beside our probes, those that this machine has; and what the audit makes of them.

They are optional: what is not installed is refused with the name of its package, which is a test too.
"""

import json
import shutil
import subprocess
import sys

import pytest

from unnoticed.probes.tools import TOOLS

pytestmark = pytest.mark.root

MS = 1_000_000
INSTALLED = [name for name in TOOLS if shutil.which(name)]
MISSING = [name for name in TOOLS if name not in INSTALLED]


def test_tools_that_are_not_installed_are_refused_before_anything_is_made(start_run):
    if not MISSING:
        return
    run = start_run("run", "--set", f"clients.tools={'+'.join(TOOLS)}", "--set", "phases.warm_up=3 s")
    assert run.wait() == 77
    packages = " ".join(TOOLS[name].package for name in MISSING)
    assert f"apt-get install --no-install-recommends {packages}" in run.stderr()
    assert not run.out.exists()


def audit_of(run):
    command = [sys.executable, "-m", "unnoticed", "audit", str(run.out), "--json"]
    (audit,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["audits"]
    return audit


def iperf3_counted_on(run):
    """Hold what iperf3's server, the guest, has counted against itself; the datagrams lost."""
    received = json.loads((run.trial() / "c1-iperf3.out").read_text())["end"]["sum_received"]
    lost, highest = received["lost_packets"], received["packets"]
    assert received["bytes"] == 100 * (highest - lost)  # each datagram once, at the source or at the destination
    assert highest > 3000  # those of the warm-up are among them
    return lost


def test_installed_tools_run_beside_the_probes_and_are_audited(start_run):
    run = start_run("run", "--set", f"clients.tools={'+'.join(INSTALLED) or 'none'}", "--set", "phases.warm_up=3 s")
    assert run.wait() == 0, run.stderr()
    audit = audit_of(run)
    figures = {method["method"]: method["reported_ns"] for method in audit["methods"] if method["group"] == "tool"}
    assert set(figures) == {f"{name}, run" for name in INSTALLED}
    assert None not in figures.values()
    if "fping" in INSTALLED:
        assert figures["fping, run"] % (10 * MS) == 0
    if "wrk" in INSTALLED:  # its connection moved with the guest
        assert "Socket errors" not in (run.trial() / "c1-wrk.out").read_text()
    if "iperf3" in INSTALLED:
        assert figures["iperf3, run"] == iperf3_counted_on(run) * MS > 0
    from unnoticed.results.store import RunFolder

    trial = RunFolder(run.out).load().trials.iloc[0]
    assert trial["outcome"] == "completed"
    assert trial["integrity"]
    assert trial["kernel_agrees"]


@pytest.mark.parametrize("changed", ["migration.mode=post-copy", "migration.gap=hold"])
def test_a_test_of_iperf3_goes_on_with_a_guest_that_moves_otherwise(start_run, changed):
    if "iperf3" not in INSTALLED:
        return
    run = start_run("run", *("--set", "clients.tools=iperf3"), *("--set", "phases.warm_up=3 s"), *("--set", changed))
    assert run.wait() == 0, run.stderr()
    (found,) = [method for method in audit_of(run)["methods"] if method["group"] == "tool"]
    assert found["reported_ns"] == iperf3_counted_on(run) * MS
    if changed == "migration.gap=hold":  # late, not lost: what iperf3 does not see
        assert found["error_ns"] < 0
