"""The quantisers of #549, exactly: one percentile a tensor for integers below 8 bits, one fixed quantile at 8 bits.

Legend: R rows (the first dimension), C columns (all others, flattened). q is the largest integer, 2^(bits-1) - 1.
The published form keeps every step at 1/q or above (`floor`): rows below a magnitude of 1 then share one step, which
makes it a uniform grid, and the search inert. All arithmetic is float32 as published. Spec pr549.md 4.3, 4.4, 7-B1, B2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.quantized import Float32, Int8, Quantized
from paramgolf.squeeze.rows import as_rows, row_chunks

PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
INT8_PERCENTILE = 0.9999984
_LARGEST_HALF = np.float32(65504.0)


@dataclass(frozen=True)
class PercentileSteps:
    """`steps` float32 [R], by which weights are divided; magnitudes are cut at `clips` [R] first where there are any.

    Steps are stored as float16. Below 8 bits they are float16 numbers already; at 8 bits the integers come from the
    float32 step, and only what is stored is rounded, as published (spec pr549.md 4.4, 7-B12).
    """

    steps: Float32
    clips: Float32 | None


def percentile_steps(weight: npt.NDArray[np.floating], bits: int, *, floor: bool) -> PercentileSteps:
    """The steps of each row; a vector is one row. Raises `RecipeError` where a step is beyond float16."""
    weight_RC = as_rows(weight)
    largest = (1 << (bits - 1)) - 1
    steps_PR, clips_PR = _candidates(weight_RC, bits, floor)
    if bits == 8:
        return PercentileSteps(steps_PR[0], clips_PR[0])
    steps_PR = as_half(steps_PR)
    errors = [_squared_error(weight_RC, steps_R, largest) for steps_R in steps_PR]
    return PercentileSteps(steps_PR[int(np.argmin(errors))], None)


def percentile_candidates(weight: npt.NDArray[np.floating], bits: int, *, floor: bool) -> Float32:
    """The steps [P, R] that the published quantisers choose from, as float16 numbers; raises as `percentile_steps`."""
    return as_half(_candidates(as_rows(weight), bits, floor)[0])


def _candidates(weight_RC: Float32, bits: int, floor: bool) -> tuple[Float32, Float32]:
    """Steps and the clips that they come from, [P, R] each."""
    largest = (1 << (bits - 1)) - 1
    percentiles = (INT8_PERCENTILE,) if bits == 8 else PERCENTILES
    clips_PR = row_quantiles(np.abs(weight_RC), percentiles)
    steps_PR = clips_PR / np.float32(largest)
    if floor:
        steps_PR = np.maximum(steps_PR, np.float32(1.0 / largest))
    if steps_PR.max() > _LARGEST_HALF:
        raise RecipeError(f"a step of {steps_PR.max():.3g} is beyond float16; use squeeze.clip search for such weights")
    return steps_PR, clips_PR


def quantize_percentile(
    weight: npt.NDArray[np.floating], found: PercentileSteps, bits: int, coarseness: float = 1.0
) -> tuple[Int8, Float32]:
    """Integers [R, C] and stored steps [R], all steps times `coarseness`."""
    weight_RC = as_rows(weight)
    steps_R = np.minimum(found.steps * np.float32(coarseness), _LARGEST_HALF)
    scales_R = as_half(steps_R)
    if found.clips is None:
        steps_R = scales_R
    else:
        weight_RC = np.clip(weight_RC, -found.clips[:, None], found.clips[:, None])
    values_RC = _integers(weight_RC, steps_R, (1 << (bits - 1)) - 1)
    values_RC[scales_R == 0] = 0
    return values_RC.astype(np.int8), scales_R


def floored_share(tensors: Sequence[Quantized], coarseness: float = 1.0) -> float:
    """Share of all rows whose step is the published floor (times the coarseness), to the last digit of float16."""
    floored = rows = 0
    for tensor in tensors:
        floor = coarseness / ((1 << (tensor.bits - 1)) - 1)
        floored += int((tensor.scales <= floor * (1 + 2.0**-10)).sum())
        rows += len(tensor.scales)
    return floored / rows


def row_quantiles(magnitude_RC: Float32, quantiles: tuple[float, ...]) -> Float32:
    """Quantiles [P, R] of each row, interpolated linearly in float32 as torch.quantile does."""
    last = magnitude_RC.shape[1] - 1
    ranks = [np.float32(q) * np.float32(last) for q in quantiles]
    below = [int(rank) for rank in ranks]
    above = [int(np.ceil(rank)) for rank in ranks]
    sorted_RC = np.partition(magnitude_RC, sorted({*below, *above}), axis=1)
    shares = [np.float32(rank - np.float32(low)) for rank, low in zip(ranks, below)]
    return np.stack(
        [_between(sorted_RC[:, low], sorted_RC[:, high], share) for low, high, share in zip(below, above, shares)]
    )


def _between(low_R: Float32, high_R: Float32, share: np.float32) -> Float32:
    """From the nearer end and rounded once, as torch's fused multiply-add does."""
    width_R = (high_R - low_R).astype(np.float64)
    if share < 0.5:
        return (low_R + np.float64(share) * width_R).astype(np.float32)
    return (high_R - np.float64(np.float32(1) - share) * width_R).astype(np.float32)


def as_half(steps: Float32) -> Float32:
    """The nearest float16 numbers, as float32; what is beyond them becomes the largest."""
    return np.minimum(steps, _LARGEST_HALF).astype(np.float16).astype(np.float32)


def _integers(weight_RC: Float32, steps_R: Float32, largest: int) -> Float32:
    divisor_R1 = np.where(steps_R > 0, steps_R, np.float32(1))[:, None]
    rounded_RC = np.rint(weight_RC / divisor_R1)
    return np.clip(rounded_RC, -largest, largest, out=rounded_RC)


def _squared_error(weight_RC: Float32, steps_R: Float32, largest: int) -> float:
    total = 0.0
    for rows in row_chunks(weight_RC.shape):
        back_RC = _integers(weight_RC[rows], steps_R[rows], largest) * steps_R[rows, None]
        total += float(np.square(weight_RC[rows] - back_RC).sum(dtype=np.float64))
    return total
