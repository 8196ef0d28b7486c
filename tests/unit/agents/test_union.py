"""The pages that are still to be sent: those left over, and those written meanwhile."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.source import _union

PAGES = 64
sets = st.sets(st.integers(0, PAGES - 1))


def runs_of(pages):
    """Maximal runs of a set of pages, made without numpy."""
    found = []
    for page in sorted(pages):
        if found and sum(found[-1]) == page:
            found[-1][1] += 1
        else:
            found.append([page, 1])
    return np.array(found, dtype=np.uint64).reshape(-1, 2)


@given(first=sets, second=sets)
def test_it_is_the_union_as_maximal_runs_in_order(first, second):
    result = _union(runs_of(first), runs_of(second))
    assert result.dtype == np.uint64
    assert result.tolist() == runs_of(first | second).tolist()


def test_it_imports_nothing_at_its_first_call_which_is_made_in_the_blackout():
    code = """
import sys
import numpy as np
from unnoticed.agents.source import _union
runs, before = np.array([[1, 2], [5, 1]], dtype=np.uint64), set(sys.modules)
_union(runs, runs + np.uint64(1))
print(sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
