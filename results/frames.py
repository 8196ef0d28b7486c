"""Frames as plain Python and numpy: rows with attributes, and nullable columns as floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame, each with its columns as attributes."""
    return list(frame.itertuples(index=False))


def floats(values: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """A nullable column as float64 with NaN for NA."""
    return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan), dtype=np.float64)
