import shutil
from pathlib import Path

import pytest

from unnoticed.experiments.doctor.capabilities import CAPABILITIES, find

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
