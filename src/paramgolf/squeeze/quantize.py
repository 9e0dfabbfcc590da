"""Round-to-nearest quantisation with one step a row and a search of where to clip.

Legend: R rows (the first dimension), C columns (all others, flattened).
A weight w becomes `clip(round(w / step), -q, q)` with q = 2^(bits-1) - 1. Steps keep four bits of mantissa: an entropy
coder turns a slightly larger step into a slightly shorter code, so a finer grid of steps buys nothing and costs bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]

RAW_BITS = 32
SMALLEST = 2.0**-100  # magnitudes below are noughts, so that no step is subnormal
LARGEST = 2.0**100
_MANTISSA_DROPPED = 19  # of the 23 bits of a float32
_CLIPS = np.geomspace(1.0, 0.25, 25)  # shares of a row's largest magnitude
_CHUNK = 1 << 18  # entries searched at a time: stays in the cache


@dataclass(frozen=True)
class Scheme:
    """How one tensor is stored: integers of `bits` (2..8) with steps `coarseness` (>= 1) times the best ones, or raw.

    `RAW_BITS` (32) keeps float32, for what is small and sensitive.
    """

    bits: int
    coarseness: float = 1.0

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 8 or self.bits == RAW_BITS):
            raise RecipeError(f"a scheme of {self.bits} bits: use 2..8, or {RAW_BITS} for raw float32")
        if not (math.isfinite(self.coarseness) and self.coarseness >= 1):
            raise RecipeError(f"a scheme of coarseness {self.coarseness}: it multiplies the step, so use 1 or more")

    def largest(self) -> int:
        """The largest integer, q; the smallest is -q."""
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Quantized:
    """A tensor of `shape` as `values` int8 [R, C] and `scales` float32 [R]: row r is `values[r] * scales[r]`."""

    values: Int8
    scales: Float32
    bits: int
    shape: tuple[int, ...]


def quantize(weight: npt.NDArray[np.floating], scheme: Scheme, hessian: Float64 | None = None) -> Quantized:
    """Quantise a tensor of any rank, rows being its first dimension (a vector is one row).

    `hessian` [C, C] is the second moment of the layer's inputs: its diagonal weighs the columns while the clip is
    searched. Each entry within ±q·step is off by at most half a step. Raises `RecipeError` on NaN, infinities,
    magnitudes above 2^100, or a Hessian of another size.
    """
    return quantize_at(weight, clip_search(weight, scheme.bits, hessian), scheme)


def quantize_at(weight: npt.NDArray[np.floating], steps: Float64, scheme: Scheme) -> Quantized:
    """Quantise with the steps [R] that `clip_search` found, times the scheme's coarseness."""
    weight_RC = as_rows(weight)
    scales_R = snap_up(steps * scheme.coarseness)
    values_RC = np.zeros(weight_RC.shape, dtype=np.int8)
    largest = scheme.largest()
    for rows in _row_chunks(weight_RC.shape):
        divisor_R1 = np.where(scales_R[rows] > 0, scales_R[rows], 1)[:, None]
        values_RC[rows] = np.clip(np.rint(weight_RC[rows] / divisor_R1), -largest, largest)
    values_RC[scales_R == 0] = 0
    return Quantized(values_RC, scales_R, scheme.bits, tuple(np.shape(weight)))


def dequantize(quantized: Quantized) -> Float32:
    """The tensor in its own shape; products of a step and an integer are exact in float32."""
    weight_RC = quantized.values.astype(np.float32) * quantized.scales[:, None]
    return weight_RC.reshape(quantized.shape)


def clip_search(weight: npt.NDArray[np.floating], bits: int, hessian: Float64 | None = None) -> Float64:
    """For each row the step [R], before snapping, whose (weighted) squared error is least on a grid of clips."""
    weight_RC = as_rows(weight)
    importance_C = _importance(weight_RC.shape[1], hessian)
    largest = Scheme(bits).largest()
    steps_R = np.zeros(weight_RC.shape[0])
    for rows in _row_chunks(weight_RC.shape):
        steps_R[rows] = _best_steps(weight_RC[rows], largest, importance_C)
    return steps_R


def snap_up(steps: Float64) -> Float32:
    """The nearest float32 not below each step that has four bits of mantissa."""
    single = steps.astype(np.float32)
    single = np.where(single < steps, np.nextafter(single, np.float32(np.inf)), single).astype(np.float32)
    unit = np.uint32(1 << _MANTISSA_DROPPED)
    return ((single.view(np.uint32) + (unit - np.uint32(1))) // unit * unit).view(np.float32)


def step_numbers(scales: Float32) -> npt.NDArray[np.int32]:
    """Position of each snapped step among all such numbers, 0 for 0: what the coder stores."""
    return (scales.view(np.uint32) >> _MANTISSA_DROPPED).astype(np.int32)


def steps_from_numbers(numbers: npt.NDArray[np.int32]) -> Float32:
    """Inverse of `step_numbers`."""
    return (numbers.astype(np.uint32) << np.uint32(_MANTISSA_DROPPED)).view(np.float32)


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


def _row_chunks(shape: tuple[int, ...]) -> list[slice]:
    rows = max(1, _CHUNK // shape[1])
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]
