"""A quantised tensor as it is stored, and the grids that its steps lie on.

Legend: R rows (the first dimension), C columns (all others, flattened).
A row is integers times one step. Steps keep `COARSE_BITS` of mantissa: an entropy coder turns a slightly larger step
into a slightly shorter code, so a finer grid buys nothing and costs bytes. `FINE_BITS` are those of float16, for the
published quantisers, whose steps are float16 numbers (spec pr549.md 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]

COARSE_BITS = 4
FINE_BITS = 10
LOW_VALUES = 1 << (FINE_BITS - COARSE_BITS)
_MANTISSA_BITS = 23
_COARSE_SHIFT = np.uint32(_MANTISSA_BITS - COARSE_BITS)
_FINE_SHIFT = np.uint32(_MANTISSA_BITS - FINE_BITS)


@dataclass(frozen=True)
class Quantized:
    """A tensor of `shape` as `values` int8 [R, C] and `scales` float32 [R]: row r is `values[r] * scales[r]`."""

    values: Int8
    scales: Float32
    bits: int
    shape: tuple[int, ...]


def dequantize(quantized: Quantized) -> Float32:
    """The tensor in its own shape; products of a step and an integer are exact in float32."""
    weight_RC = quantized.values.astype(np.float32) * quantized.scales[:, None]
    return weight_RC.reshape(quantized.shape)


def snap_up(steps: Float64) -> Float32:
    """The nearest float32 not below each step that has `COARSE_BITS` of mantissa."""
    single = steps.astype(np.float32)
    single = np.where(single < steps, np.nextafter(single, np.float32(np.inf)), single).astype(np.float32)
    unit = np.uint32(1) << _COARSE_SHIFT
    return ((single.view(np.uint32) + (unit - np.uint32(1))) // unit * unit).view(np.float32)


def split_steps(scales: Float32) -> tuple[Int32, Int32]:
    """What the coder stores of each step: its number on the coarse grid (0 for 0), and its place above that number.

    The place counts the fine grid's points, 0..63, all 0 for coarse steps. Raises `RecipeError` for steps on neither.
    """
    words = scales.astype(np.float32).view(np.uint32)
    if (words & ((np.uint32(1) << _FINE_SHIFT) - np.uint32(1))).any():
        raise RecipeError(f"steps with more than {FINE_BITS} bits of mantissa cannot be stored; round them to float16")
    low = (words >> _FINE_SHIFT) & np.uint32(LOW_VALUES - 1)
    return (words >> _COARSE_SHIFT).astype(np.int32), low.astype(np.int32)


def join_steps(numbers: Int32, low: Int32) -> Float32:
    """Inverse of `split_steps`."""
    return (numbers.astype(np.uint32) << _COARSE_SHIFT | low.astype(np.uint32) << _FINE_SHIFT).view(np.float32)
