"""A quantised tensor as it is stored, and the grids that its steps lie on.

Legend: R rows (the first dimension), C columns (all others, flattened), K rank of a correction.
A row is integers times one step. Some columns may have integers and steps of their own, and a product of two small
integer matrices may be added (spec pr2140.md 4.3, 4.4): `dequantize` puts the parts together. Steps keep `COARSE_BITS`
of mantissa: an entropy coder turns a slightly larger step into a slightly shorter code, so a finer grid buys nothing
and costs bytes. `FINE_BITS` are those of float16, for the published quantisers, whose steps are float16 numbers (spec
pr549.md 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
T = TypeVar("T", np.float32, np.int8)

COARSE_BITS = 4
FINE_BITS = 10
LOW_VALUES = 1 << (FINE_BITS - COARSE_BITS)
_MANTISSA_BITS = 23
_COARSE_SHIFT = np.uint32(_MANTISSA_BITS - COARSE_BITS)
_FINE_SHIFT = np.uint32(_MANTISSA_BITS - FINE_BITS)


@dataclass(frozen=True)
class Quantized:
    """A tensor of `shape` as `values` int8 [R, C] and `scales` float32 [R]: row r is `values[r] * scales[r]`.

    With `wide` columns, `values` hold the others alone, side by side. A `correction` is added to the whole.
    """

    values: Int8
    scales: Float32
    bits: int
    shape: tuple[int, ...]
    wide: WideColumns | None = None
    correction: LowRank | None = None

    def columns(self) -> int:
        """C, the wide columns included."""
        wide = 0 if self.wide is None else len(self.wide.columns_W())
        return int(self.values.shape[1]) + wide


@dataclass(frozen=True)
class WideColumns:
    """Groups of `size` neighbouring columns, from `starts` on (ascending, no two overlap), and their `part`.

    `part` is a plain `Quantized` of the groups' columns side by side, with steps of its own for the tensor's rows.
    """

    starts: tuple[int, ...]
    size: int
    part: Quantized

    def columns_W(self) -> Int64:
        """Numbers of the columns, ascending."""
        return group_columns(self.starts, self.size)


@dataclass(frozen=True)
class LowRank:
    """A product `left @ right`, [R, K] and [K, C]; their integers lie in groups that share a step, one a row."""

    left: Quantized
    right: Quantized


def group_columns(starts: Sequence[int], size: int) -> Int64:
    """Numbers of the columns of groups, in the groups' order."""
    return (np.asarray(starts, dtype=np.int64)[:, None] + np.arange(size)).ravel()


def dequantize(quantized: Quantized) -> Float32:
    """The tensor in its own shape, the same bits on every machine: products of a step and an integer are exact in
    float32, and a correction is added rank by rank.
    """
    weight_RC = quantized.values.astype(np.float32) * quantized.scales[:, None]
    if quantized.wide is not None:
        weight_RC = _join_columns(weight_RC, quantized.wide, dequantize(quantized.wide.part))
    if quantized.correction is not None:
        weight_RC = weight_RC + low_rank_product(quantized.correction)
    return weight_RC.reshape(quantized.shape)


def all_integers(quantized: Quantized) -> Int8:
    """The integers [R, C] of all columns in their places, wide ones among them; a correction has no part in them."""
    if quantized.wide is None:
        return quantized.values
    return _join_columns(quantized.values, quantized.wide, quantized.wide.part.values)


def low_rank_product(correction: LowRank) -> Float32:
    """`left @ right` [R, C], summed in the order of the ranks."""
    left_RK, right_KC = dequantize(correction.left), dequantize(correction.right)
    product_RC = np.zeros((len(left_RK), right_KC.shape[1]), dtype=np.float32)
    for rank, right_C in enumerate(right_KC):
        product_RC += left_RK[:, rank, None] * right_C
    return product_RC


def _join_columns(narrow: npt.NDArray[T], wide: WideColumns, part: npt.NDArray[T]) -> npt.NDArray[T]:
    columns_W = wide.columns_W()
    joined_RC = np.empty((len(narrow), narrow.shape[1] + len(columns_W)), dtype=narrow.dtype)
    others_C = np.ones(joined_RC.shape[1], dtype=bool)
    others_C[columns_W] = False
    joined_RC[:, others_C], joined_RC[:, columns_W] = narrow, part
    return joined_RC


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
