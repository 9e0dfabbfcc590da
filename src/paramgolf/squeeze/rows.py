"""A tensor as rows, and rows in pieces that stay in the cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.quantized import Float32

LARGEST = 2.0**100
_CHUNK = 1 << 18  # entries


def as_rows(weight: npt.NDArray[np.floating]) -> Float32:
    """The tensor as float32 [R, C], refused when it holds what no integer stands for."""
    array = np.asarray(weight, dtype=np.float32)
    if array.size == 0:
        raise RecipeError(f"a weight of shape {array.shape} holds nothing to quantise")
    rows_RC = array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)
    if not (np.abs(rows_RC).max() <= LARGEST):  # also catches NaN
        bad = int((~(np.abs(rows_RC) <= LARGEST)).sum())
        raise RecipeError(f"{bad} of {array.size} weights are NaN, infinite or above 2^100; training has diverged")
    return rows_RC


def row_chunks(shape: tuple[int, ...]) -> list[slice]:
    """Slices of rows, each of which stays in the cache."""
    rows = max(1, _CHUNK // shape[1])
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]
