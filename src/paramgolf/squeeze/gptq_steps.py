"""The steps that GPTQ rounds with, which are chosen by what rounding with them does.

Legend: P candidates, R rows, C columns. "search" takes for each row, among steps around those of the clip search, the
one whose error costs least under the Hessian: on trained matrices of 3, 4 and 6 bits that beat one choice for a whole
matrix, by either criterion. The percentiles are the published rule: one percentile for a matrix, whichever leaves the
least plain error of the weights (spec pr1430.md 3.3, step 6), with and without the published floor. "sigma" looks for
nothing.
Every step lies on the grid that the file can store before the first column is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.squeeze.clip_search import clip_search
from paramgolf.squeeze.gptq import Factor, WideGrid, gptq, gptq_candidates
from paramgolf.squeeze.percentile import percentile_candidates
from paramgolf.squeeze.quantize import Scheme, quantize_at, stored_steps
from paramgolf.squeeze.quantized import Float32, Float64, Quantized, WideColumns, group_columns, snap_up
from paramgolf.squeeze.rows import as_rows
from paramgolf.squeeze.sigma_clip import sigma_steps
from paramgolf.squeeze.wide_groups import Groups

WIDEST = 8  # bits of integers whose steps are given: the entropy coder takes nothing for what is not used
FACTORS = np.array([0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25])  # on the steps of the clip search


def find_gptq_steps(weight: npt.NDArray[np.floating], factor: Factor, scheme: Scheme) -> Float64:
    """The step [R] of each row, before the scheme's coarseness; raises as `quantize`."""
    weight_RC, largest = as_rows(weight), scheme.largest()
    if scheme.clip == "search":
        steps_PR: Float64 = clip_search(weight_RC, largest) * FACTORS[:, None]
        _, loss_PR = gptq_candidates(weight_RC, factor, np.stack([snap_up(s_R) for s_R in steps_PR]), largest)
        steps_R: Float64 = steps_PR[loss_PR.argmin(axis=0), np.arange(len(weight_RC))]
        return steps_R
    if scheme.clip == "sigma":
        return sigma_steps(weight_RC, largest, scheme.sigmas)
    candidates_PR = percentile_candidates(weight_RC, scheme.bits, floor=scheme.clip == "percentile-floor")
    values_PRC, _ = gptq_candidates(weight_RC, factor, candidates_PR, largest)
    errors_P = [
        np.square(weight_RC - values_RC * steps_R[:, None]).mean(dtype=np.float64)
        for values_RC, steps_R in zip(values_PRC, candidates_PR, strict=True)
    ]
    best_R: Float64 = candidates_PR[int(np.argmin(errors_P))].astype(np.float64)
    return best_R


def gptq_at(
    weight: npt.NDArray[np.floating], steps_R: Float64, factor: Factor, scheme: Scheme, groups: Groups | None = None
) -> Quantized:
    """GPTQ with the steps that `find_gptq_steps` found, times the scheme's coarseness.

    Columns of `groups` are rounded at the scheme's `wide_bits`, their steps finer in the ratio of the two grids (spec
    pr2140.md 4.3). With clip "sigma" weights of inputs that were always 0 become 0 (4.2).
    """
    scales_R = stored_steps(steps_R, scheme)
    wide = None
    if groups is not None:
        wide = WideSteps(groups, stored_steps(steps_R * wide_share(scheme), scheme), scheme.wide_bits)
    return gptq_with(_without_unused(weight, factor, scheme), factor, scales_R, scheme.bits, wide)


def gptq_at_steps(
    weight: npt.NDArray[np.floating], steps_R: Float64, factor: Factor, scheme: Scheme, groups: Groups | None = None
) -> Quantized:
    """GPTQ with any steps, as an allocation makes them: put on the coarse grid, no integer cut short of `WIDEST` bits.

    The scheme gives the ratio of the two grids and what becomes of weights of unused inputs. Where wide integers are as
    wide as the others, steps that fine may not reach the wide columns' largest weight: then they are as fine as does.
    """
    weight_RC, wide = _without_unused(weight, factor, scheme), None
    if groups is not None:
        peaks_RW = weight_RC[:, group_columns(groups.starts, groups.size)]
        finest_R = np.abs(peaks_RW).max(axis=1).astype(np.float64) / ((1 << (WIDEST - 1)) - 1)
        wide = WideSteps(groups, snap_up(np.maximum(steps_R * wide_share(scheme), finest_R)), WIDEST)
    return gptq_with(weight_RC, factor, snap_up(steps_R), WIDEST, wide)


def nearest_at_steps(weight: npt.NDArray[np.floating], steps_R: Float64) -> Quantized:
    """Rounded to nearest with any steps, otherwise likewise."""
    return quantize_at(weight, steps_R, Scheme(WIDEST))


@dataclass(frozen=True)
class WideSteps:
    """The groups of wide columns with their stored steps [R] and bits."""

    groups: Groups
    scales_R: Float32
    bits: int


def wide_share(scheme: Scheme) -> float:
    """Steps of wide columns over those of the others: both grids end at the same weight."""
    return scheme.largest() / scheme.widest()


def gptq_with(
    weight: npt.NDArray[np.floating], factor: Factor, scales_R: Float32, bits: int, wide: WideSteps | None
) -> Quantized:
    """GPTQ with the very steps that are stored."""
    weight_RC, shape, largest = as_rows(weight), tuple(np.shape(weight)), (1 << (bits - 1)) - 1
    if wide is None:
        return Quantized(gptq(weight_RC, factor, scales_R, largest).values_RC, scales_R, bits, shape)
    columns_W = group_columns(wide.groups.starts, wide.groups.size)
    grid = WideGrid(columns_W, wide.scales_R, (1 << (wide.bits - 1)) - 1)
    values_RC = gptq(weight_RC, factor, scales_R, largest, grid).values_RC
    part = Quantized(values_RC[:, columns_W], wide.scales_R, wide.bits, (len(values_RC), len(columns_W)))
    rest_RC = np.delete(values_RC, columns_W, axis=1)
    return Quantized(rest_RC, scales_R, bits, shape, WideColumns(wide.groups.starts, wide.groups.size, part))


def _without_unused(weight: npt.NDArray[np.floating], factor: Factor, scheme: Scheme) -> Float32:
    weight_RC = as_rows(weight)
    if scheme.clip != "sigma" or not factor.unused_C.any():
        return weight_RC
    return np.where(factor.unused_C, np.float32(0), weight_RC)
