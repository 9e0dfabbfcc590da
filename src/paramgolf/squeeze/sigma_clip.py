"""Clip at a multiple of a row's standard deviation (SD-clip, spec pr2140.md 4.2), or at its largest magnitude.

Legend: R rows (the first dimension), C columns (all others, flattened).
Published, the step's floor of 1e-10 is 0 as float16, so a constant row divides 0 by 0 (spec pr2140.md 8, 25). Here the
floor is float16's least number above 0, and a row whose mean lies beyond its clip, which would come back as one
constant, is clipped at its largest magnitude: a constant row then comes back as it was, to the last digit of its step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.quantized import Float64
from paramgolf.squeeze.rows import as_rows

LEAST_STEP = 2.0**-24
LARGEST_HALF = 65504.0


def sigma_steps(weight: npt.NDArray[np.floating], largest: int, sigmas: float) -> Float64:
    """The step [R] of each row whose integers, up to `largest`, end at so many unbiased standard deviations.

    Raises `RecipeError` where a step is beyond float16, in which steps are stored.
    """
    weight_RC = as_rows(weight)
    spread_R = np.zeros(len(weight_RC))
    if weight_RC.shape[1] > 1:
        spread_R = weight_RC.std(axis=1, ddof=1, dtype=np.float64)
    clip_R = sigmas * spread_R
    beyond_R = np.abs(weight_RC.mean(axis=1, dtype=np.float64)) >= clip_R
    clip_R[beyond_R] = np.abs(weight_RC[beyond_R]).max(axis=1, initial=0.0)
    return _as_steps(clip_R, largest)


def largest_steps(weight: npt.NDArray[np.floating], largest: int) -> Float64:
    """The step [R] of each row whose integers end at its largest magnitude (spec pr2140.md 4.5); raises likewise."""
    return _as_steps(np.abs(as_rows(weight)).max(axis=1).astype(np.float64), largest)


def _as_steps(clip_R: Float64, largest: int) -> Float64:
    steps_R = clip_R / largest
    if steps_R.max() > LARGEST_HALF:
        raise RecipeError(f"a step of {steps_R.max():.3g} is beyond float16; use squeeze.clip search for such weights")
    return steps_R
