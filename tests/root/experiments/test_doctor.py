import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unnoticed.experiments.doctor.capabilities import CAPABILITIES, find
from unnoticed.patience import patient

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "capability", [entry for entry in CAPABILITIES if entry.required], ids=lambda entry: entry.name
)
def test_a_machine_that_runs_the_root_tests_has_what_is_required(capability):
    found = find(capability)
    assert found.works, found.detail


def test_attempts_leave_nothing_in_the_machine_s_own_namespace():
    before = set(Path("/sys/class/net").iterdir())
    for capability in CAPABILITIES:
        find(capability)
    assert set(Path("/sys/class/net").iterdir()) == before


def test_a_tool_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    namespaces = next(entry for entry in CAPABILITIES if entry.name == "network namespaces")
    found = find(namespaces)
    assert not found.works
    assert found.detail == "ip is not installed"


# Not by `su`: the modules may lie where nobody else may read.
AS_NOBODY = """
import os, sys
from unnoticed.experiments import cli
from unnoticed.experiments.commands import doctor
from unnoticed.experiments.doctor import capabilities, kernel_attempts, stalls
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
cli.main(sys.argv[1:])
"""
DOCTOR = ("-m", "unnoticed", "doctor", "--seconds", "0.05")


@pytest.fixture
def doctor():
    """Run the doctor in a process with fewer rights: its exit code, what it says, and its document."""

    def run(*before, program=DOCTOR[:2], arguments=DOCTOR[2:]):
        command = [*before, sys.executable, *program, *arguments]
        options = {"capture_output": True, "text": True, "timeout": patient(120)}
        text = subprocess.run(command, check=False, **options)
        document = subprocess.run([*command, "--json"], check=False, **options)
        assert document.returncode == text.returncode, document.stderr
        return text, json.loads(document.stdout)

    return run


def lacking(document):
    return {entry["name"] for entry in document["capabilities"] if entry["required"] and not entry["works"]}


def test_with_every_right_the_doctor_is_content(doctor):
    text, document = doctor()
    assert text.returncode == 0, text.stderr
    assert text.stderr == ""
    assert document["able"]
    assert lacking(document) == set()
    for entry in CAPABILITIES:
        assert f"  {entry.name} " in text.stdout


def test_without_root_the_doctor_says_to_be_root_and_tries_nothing_that_would_only_be_refused(doctor):
    text, document = doctor(program=("-c", AS_NOBODY))
    assert text.returncode == 77
    assert not document["able"]
    assert [entry["name"] for entry in document["capabilities"]] == ["root"]
    assert document["machine_noise"] is None
    assert text.stdout == ""
    assert text.stderr.splitlines() == [
        (
            "Whether this machine can run experiments shows only to root: what is tried would be refused to user "
            "65534; try: sudo unnoticed doctor"
        )
    ]


@pytest.mark.parametrize(
    ("capability", "lost"),
    [("net_admin", {"veth and bridge", "HTB", "TCP_REPAIR"}), ("sys_admin", {"network namespaces", "mnexec"})],
)
def test_without_one_capability_the_doctor_names_what_it_was_for(doctor, capability, lost):
    text, document = doctor("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}")
    assert text.returncode == 77
    assert lost <= lacking(document)
    assert not {"root", "memfd", "Mininet"} & lacking(document)
    for entry in document["capabilities"]:
        if entry["name"] in lost:
            assert "--privileged" in entry["remedy"]
            assert "not permitted" in entry["detail"]
            assert entry["cost"]
