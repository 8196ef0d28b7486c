"""How long processes wait for one another before they give up: longer on machines that are slower than most.

`UNNOTICED_PATIENCE=10` makes these waits ten times as long, for machines that are emulated or overloaded. It changes no
measurement and nothing in the protocol: only when somebody who says nothing is taken for dead.
"""

from __future__ import annotations

import math
import os

VARIABLE = "UNNOTICED_PATIENCE"


def patient(wait_s: float) -> float:
    """The wait, as long as this machine needs it. A factor that is no number of at least 1 is none."""
    return wait_s * _factor(os.environ.get(VARIABLE, ""))


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        return 1.0
    return factor if math.isfinite(factor) and factor >= 1 else 1.0
