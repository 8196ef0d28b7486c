"""What is chosen on the kernel at hand: PAGEMAP_SCAN from 6.7 on, soft-dirty bits before."""

import platform
import re

import pytest

from unnoticed.agents.tracking import available

pytestmark = pytest.mark.root


def test_dirty_pages_are_found_by_the_best_that_this_kernel_has():
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    assert available()[0] == ("userfaultfd-wp" if release >= (6, 7) else "soft-dirty")
    assert {"soft-dirty", "comparison"} <= set(available())
