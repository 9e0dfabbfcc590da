"""Where to clip each row: a search over shares of its largest magnitude, weighted by what the inputs carry.

Legend: R rows (the first dimension), C columns (all others, flattened).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.quantized import Float32, Float64
from paramgolf.squeeze.rows import as_rows, row_chunks

SMALLEST = 2.0**-100  # magnitudes below are noughts, so that no step is subnormal
_CLIPS = np.geomspace(1.0, 0.25, 25)  # shares of a row's largest magnitude


def clip_search(weight: npt.NDArray[np.floating], largest: int, hessian: Float64 | None = None) -> Float64:
    """The step [R] of each row, integers up to `largest`, of least (weighted) squared error on a grid of clips."""
    weight_RC = as_rows(weight)
    importance_C = _importance(weight_RC.shape[1], hessian)
    steps_R = np.zeros(weight_RC.shape[0])
    for rows in row_chunks(weight_RC.shape):
        steps_R[rows] = _best_steps(weight_RC[rows], largest, importance_C)
    return steps_R


def _best_steps(weight_RC: Float32, largest: int, importance_C: Float32 | None) -> Float64:
    top_R = np.abs(weight_RC).max(axis=1).astype(np.float64)
    top_R[top_R < SMALLEST] = 0
    best_R: Float64 = top_R / largest
    least_R = np.full(top_R.shape, np.inf)
    for clip in _CLIPS:
        step_R = top_R * clip / largest
        error_R = _row_errors(weight_RC, step_R, largest, importance_C)
        better_R = error_R < least_R
        best_R = np.where(better_R, step_R, best_R)
        least_R = np.where(better_R, error_R, least_R)
    return best_R


def _row_errors(weight_RC: Float32, step_R: Float64, largest: int, importance_C: Float32 | None) -> Float64:
    """Squared error of each row in units of its step squared times that square, summed in float32 chunks of a row."""
    divisor_R1 = np.where(step_R > 0, step_R, 1.0).astype(np.float32)[:, None]
    scaled_RC = weight_RC / divisor_R1
    rounded_RC = np.rint(scaled_RC)
    np.clip(rounded_RC, -largest, largest, out=rounded_RC)
    rounded_RC -= scaled_RC
    np.square(rounded_RC, out=rounded_RC)
    if importance_C is not None:
        rounded_RC *= importance_C
    errors: Float64 = rounded_RC.sum(axis=1, dtype=np.float64) * np.square(step_R)
    return errors


def _importance(columns: int, hessian: Float64 | None) -> Float32 | None:
    if hessian is None:
        return None
    if hessian.shape != (columns, columns):
        raise RecipeError(f"a Hessian of shape {hessian.shape} for {columns} columns; it should be square of that size")
    diagonal_C = np.diagonal(hessian)
    if not (np.isfinite(diagonal_C).all() and (diagonal_C >= 0).all()):
        raise RecipeError("a Hessian whose diagonal is negative or not finite")
    peak = diagonal_C.max()
    return (diagonal_C / peak if peak > 0 else np.ones(columns)).astype(np.float32)
