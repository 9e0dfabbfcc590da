"""The steps that GPTQ rounds with, which are chosen by what rounding with them does.

Legend: P candidates, R rows, C columns. "search" takes for each row, among steps around those of the clip search, the
one whose error costs least under the Hessian: on trained matrices of 3, 4 and 6 bits that beat one choice for a whole
matrix, by either criterion. The percentiles are the published rule: one percentile for a matrix, whichever leaves the
least plain error of the weights (spec pr1430.md 3.3, step 6), with and without the published floor.
Every step lies on the grid that the file can store before the first column is rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paramgolf.squeeze.clip_search import clip_search
from paramgolf.squeeze.gptq import Factor, gptq, gptq_candidates
from paramgolf.squeeze.percentile import as_half, percentile_candidates
from paramgolf.squeeze.quantize import Scheme
from paramgolf.squeeze.quantized import Float32, Float64, Quantized, snap_up
from paramgolf.squeeze.rows import as_rows

FACTORS = np.array([0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25])  # on the steps of the clip search


def find_gptq_steps(weight: npt.NDArray[np.floating], factor: Factor, scheme: Scheme) -> Float64:
    """The step [R] of each row, before the scheme's coarseness; raises as `quantize`."""
    weight_RC, largest = as_rows(weight), scheme.largest()
    if scheme.clip == "search":
        steps_PR: Float64 = clip_search(weight_RC, largest) * FACTORS[:, None]
        _, loss_PR = gptq_candidates(weight_RC, factor, np.stack([snap_up(s_R) for s_R in steps_PR]), largest)
        steps_R: Float64 = steps_PR[loss_PR.argmin(axis=0), np.arange(len(weight_RC))]
        return steps_R
    candidates_PR = percentile_candidates(weight_RC, scheme.bits, floor=scheme.clip == "percentile-floor")
    values_PRC, _ = gptq_candidates(weight_RC, factor, candidates_PR, largest)
    errors_P = [
        np.square(weight_RC - values_RC * steps_R[:, None]).mean(dtype=np.float64)
        for values_RC, steps_R in zip(values_PRC, candidates_PR, strict=True)
    ]
    best_R: Float64 = candidates_PR[int(np.argmin(errors_P))].astype(np.float64)
    return best_R


def gptq_at(weight: npt.NDArray[np.floating], steps_R: Float64, factor: Factor, scheme: Scheme) -> Quantized:
    """GPTQ with the steps that `find_gptq_steps` found, times the scheme's coarseness."""
    scales_R = stored_steps(steps_R, scheme)
    rounded = gptq(as_rows(weight), factor, scales_R, scheme.largest())
    return Quantized(rounded.values_RC, scales_R, scheme.bits, tuple(np.shape(weight)))


def stored_steps(steps_R: Float64, scheme: Scheme) -> Float32:
    """The steps times the coarseness, on the grid on which that clip's steps are stored."""
    if scheme.clip == "search":
        return snap_up(steps_R * scheme.coarseness)
    return as_half((steps_R * scheme.coarseness).astype(np.float32))
