from __future__ import annotations

import subprocess
import sys

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.spec import FabricSpec


def test_a_spec_says_what_cannot_be():
    with pytest.raises(PlanError, match="clients, not 0"):
        FabricSpec(clients=0)
    with pytest.raises(PlanError, match="queue of 1 ms"):
        FabricSpec(rate_bit_per_s=100_000_000, queue_ns=1_000_000)


def test_without_a_rate_links_are_not_shaped():
    assert FabricSpec(rate_bit_per_s=None, queue_ns=0).shaping is None


def python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_mininet_is_not_imported_before_a_fabric_starts():
    done = python("import sys, unnoticed.topology.fabric; sys.exit('mininet' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_importing_mininet_leaves_no_warning_no_output_and_no_foreign_logger_class():
    done = python(
        "import logging\n"
        "import unnoticed.topology.quietly\n"
        "import mininet.log\n"
        "assert logging.getLoggerClass() is logging.Logger\n"
        "mininet.log.info('info'); mininet.log.output('output'); mininet.log.error('error')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
