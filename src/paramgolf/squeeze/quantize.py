"""How one tensor is stored, and what makes it so: round to nearest with one step a row, or raw floating point.

Legend: R rows (the first dimension), C columns (all others, flattened).
A weight w becomes `clip(round(w / step), -q, q)` with q = 2^(bits-1) - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.clip_search import clip_search
from paramgolf.squeeze.percentile import PercentileSteps, as_half, percentile_steps, quantize_percentile
from paramgolf.squeeze.quantized import Float32, Float64, Quantized, snap_up
from paramgolf.squeeze.rows import as_rows, row_chunks
from paramgolf.squeeze.sigma_clip import LEAST_STEP, largest_steps, sigma_steps

RAW_BITS = 32
HALF_BITS = 16
Clip = Literal["search", "percentile", "percentile-floor", "sigma", "largest"]
Steps = Float64 | PercentileSteps
Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Scheme:
    """How one tensor is stored: integers of `bits` (2..8) with steps `coarseness` (> 0) times those of `clip`, or raw.

    `RAW_BITS` (32) and `HALF_BITS` (16) keep float32 and float16, for what is small and sensitive. `clip` is how steps
    are found: "search" for each row's best clip, "percentile" and "percentile-floor" as #549 does without and with its
    floor (see percentile.py), "sigma" at `sigmas` standard deviations of a row, "largest" at its largest magnitude.
    Wide columns, where GPTQ has chosen some, keep `wide_bits`.
    """

    bits: int
    coarseness: float = 1.0
    clip: Clip = "search"
    sigmas: float = 0.0
    wide_bits: int = 8

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 8 or self.bits in (HALF_BITS, RAW_BITS)):
            raise RecipeError(
                f"a scheme of {self.bits} bits: use 2..8, or {HALF_BITS} or {RAW_BITS} for raw floating point"
            )
        if not (math.isfinite(self.coarseness) and self.coarseness > 0):
            raise RecipeError(f"a scheme of coarseness {self.coarseness}: it multiplies the step, so use more than 0")
        if (self.clip == "sigma") != (self.sigmas > 0) or not math.isfinite(self.sigmas):
            raise RecipeError(f"a scheme of clip {self.clip!r} and sigmas {self.sigmas}: they go together, above 0")
        if not 2 <= self.wide_bits <= 8:
            raise RecipeError(f"a scheme of {self.wide_bits} bits for wide columns: use 2..8")

    def raw(self) -> bool:
        """Whether the tensor stays floating point."""
        return self.bits in (HALF_BITS, RAW_BITS)

    def largest(self) -> int:
        """The largest integer, q; the smallest is -q."""
        return (1 << (self.bits - 1)) - 1

    def widest(self) -> int:
        """The largest integer of wide columns."""
        return (1 << (self.wide_bits - 1)) - 1


def quantize(weight: npt.NDArray[np.floating], scheme: Scheme, hessian: Float64 | None = None) -> Quantized:
    """Quantise a tensor of any rank, rows being its first dimension (a vector or a scalar is one row).

    `hessian` [C, C] is the second moment of the layer's inputs: its diagonal weighs the columns while the clip is
    searched. Each entry within ±q·step is off by at most half a step. Raises `RecipeError` on NaN, infinities,
    magnitudes above 2^100, a Hessian of another size or with a clip of percentiles, and on a raw scheme.
    """
    return quantize_at(weight, find_steps(weight, scheme, hessian), scheme)


def find_steps(weight: npt.NDArray[np.floating], scheme: Scheme, hessian: Float64 | None = None) -> Steps:
    """The steps of each row, before the scheme's coarseness; raises as `quantize`."""
    if scheme.raw():
        raise RecipeError(f"a scheme of {scheme.bits} bits keeps floating point; it has no steps")
    if scheme.clip == "search":
        return clip_search(weight, scheme.largest(), hessian)
    if hessian is not None:
        raise RecipeError(f"clip {scheme.clip} takes no Hessian; use clip search")
    if scheme.clip == "sigma":
        return sigma_steps(weight, scheme.largest(), scheme.sigmas)
    if scheme.clip == "largest":
        return largest_steps(weight, scheme.largest())
    return percentile_steps(weight, scheme.bits, floor=scheme.clip == "percentile-floor")


def stored_steps(steps_R: Float64, scheme: Scheme) -> Float32:
    """The steps times the coarseness, on the grid on which that clip's steps are stored."""
    coarser_R = steps_R * scheme.coarseness
    if scheme.clip == "search":
        return snap_up(coarser_R)
    if scheme.clip == "sigma":
        coarser_R = np.maximum(coarser_R, LEAST_STEP)
    return as_half(coarser_R.astype(np.float32))


def quantize_at(weight: npt.NDArray[np.floating], steps: Steps, scheme: Scheme) -> Quantized:
    """Quantise with the steps [R] that `find_steps` found, times the scheme's coarseness."""
    if isinstance(steps, PercentileSteps):
        values_RC, scales_R = quantize_percentile(weight, steps, scheme.bits, scheme.coarseness)
        return Quantized(values_RC, scales_R, scheme.bits, tuple(np.shape(weight)))
    weight_RC = as_rows(weight)
    scales_R = stored_steps(steps, scheme)
    values_RC = np.zeros(weight_RC.shape, dtype=np.int8)
    largest = scheme.largest()
    for rows in row_chunks(weight_RC.shape):
        divisor_R1 = np.where(scales_R[rows] > 0, scales_R[rows], 1)[:, None]
        values_RC[rows] = np.clip(np.rint(weight_RC[rows] / divisor_R1), -largest, largest)
    values_RC[scales_R == 0] = 0
    return Quantized(values_RC, scales_R, scheme.bits, tuple(np.shape(weight)))


def to_raw(weight: npt.NDArray[np.floating], bits: int) -> Float32 | Half:
    """The tensor as float32 or float16; `RecipeError` where a number is beyond float16 or not finite."""
    as_rows(weight)
    array = np.asarray(weight, dtype=np.float32)
    if bits == RAW_BITS:
        return array
    most = float(np.abs(array).max())
    if most >= 65520:  # rounds to infinity
        raise RecipeError(f"a magnitude of {most:.3g} is beyond float16; use squeeze.small_bits 32")
    return array.astype(np.float16)
