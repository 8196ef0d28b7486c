"""What performs a trial: the one seam between plans, runs and reports on one side and a network on the other.

`unnoticed.experiments.live` performs trials on a real fabric; `unnoticed.experiments.fake` computes them, so that all
the rest is tested without root.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from unnoticed.experiments.planning.grid import Trial

Progress = Callable[[str], None]  # told the phase that begins: "fabric", "warm-up", "migration", ...


class Bench(Protocol):
    """Performs trials, one at a time."""

    def perform(self, trial: Trial, folder: Path, progress: Progress) -> None:
        """Perform one trial and leave its raw records in `folder`, which exists and is empty.

        Raises UnnoticedError where it cannot; nothing of the trial may then be left but its records. KeyboardInterrupt
        passes through, after the same cleaning up.
        """
        ...

    def close(self) -> None:
        """Give up whatever is kept between trials."""
        ...
