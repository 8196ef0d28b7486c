from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
CONFIGURATION = """
[tool.pytest.ini_options]
addopts = ["--strict-markers", "-p", "no:cacheprovider"]
markers = ["root", "since_kernel"]
"""


@pytest.fixture
def outcome(tmp_path):
    """Run a module of root tests in a pytest of its own: its exit code and what it printed."""

    def run(module: str, **environment: str) -> tuple[int, str]:
        folder = tmp_path / "tests" / "root"
        folder.mkdir(parents=True)
        (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
        shutil.copy(CONFTEST, tmp_path / "tests" / "conftest.py")
        (folder / "test_it.py").write_text(f"import pytest\n{module}\n")
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "UNNOTICED_REQUIRE_ROOT")}
        pytest_command = [sys.executable, "-m", "pytest", "-rs"]
        result = subprocess.run(
            pytest_command, cwd=tmp_path, env=inherited | environment, capture_output=True, text=True, check=False
        )
        return result.returncode, result.stdout

    return run


SKIPS = "@pytest.mark.root\ndef test_it(): pytest.skip('no such device')"
MODULE_SKIPS = "pytest.skip('no such device', allow_module_level=True)"
NEWER_KERNEL = "@pytest.mark.root\n@pytest.mark.since_kernel('999.0')\ndef test_it(): assert False"
THIS_KERNEL = "@pytest.mark.root\n@pytest.mark.since_kernel('2.6')\ndef test_it(): pytest.skip('no such device')"
REQUIRED = [{"CI": "true"}, {"UNNOTICED_REQUIRE_ROOT": "1"}]


@pytest.mark.parametrize("module", [SKIPS, MODULE_SKIPS, THIS_KERNEL])
def test_a_root_test_may_skip_where_root_is_not_required(outcome, module):
    code, _printed = outcome(module, UNNOTICED_REQUIRE_ROOT="0")
    assert code in (0, 5)  # 5: every module skipped itself


@pytest.mark.parametrize("environment", REQUIRED, ids=str)
@pytest.mark.parametrize("module", [SKIPS, MODULE_SKIPS, THIS_KERNEL])
def test_a_root_test_that_skips_where_root_is_required_fails(outcome, module, environment):
    code, printed = outcome(module, **environment)
    assert code in (1, 2)
    assert "root tests must run here" in printed


def test_an_older_kernel_is_an_excuse_even_where_root_is_required(outcome):
    code, printed = outcome(NEWER_KERNEL, CI="true")
    assert (code, "the kernel is older" in printed) == (0, True)


def test_a_unit_test_may_skip_where_root_is_required(outcome):
    code, _printed = outcome("def test_it(): pytest.skip('not today')", CI="true")
    assert code == 0
