"""`compiled`: what makes machine code of the loops that see every packet.

numba (https://numba.readthedocs.io) takes a second to import and some more to compile: modules with such functions are
imported inside of the functions that need them, so that no command and no child process pays for what it does not use.
What was compiled is kept: beside the source where that can be written to, else in the user's cache folder, or in
NUMBA_CACHE_DIR. A change of such a function is noticed by its file, so what calls one another is in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Kernel = Callable[..., Any]


def compiled(function: Kernel) -> Kernel:
    """The function, compiled when it is first called; releases the interpreter's lock while it runs."""
    try:
        kernel: Kernel = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # there is no folder that could be written to: compile in every process, then
        kernel = numba.njit(nogil=True)(function)
    return kernel
