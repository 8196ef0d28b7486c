"""From one flag per page to runs of pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.dirty import runs_of


@given(st.lists(st.booleans(), max_size=200))
def test_runs_hold_exactly_the_pages_that_are_set_in_as_few_runs_as_can_be(flags):
    runs = runs_of(np.array(flags, dtype=np.bool_))
    held = [page for first, count in runs.tolist() for page in range(first, first + count)]
    assert held == [page for page, flag in enumerate(flags) if flag]
    ends = runs[:-1, 0] + runs[:-1, 1]
    assert (runs[1:, 0] > ends).all()
    assert (runs[:, 1] > 0).all()
    assert (runs.shape[1], runs.dtype) == (2, np.uint64)
