"""Rows that resemble an earlier row of their tensor are stored as what they differ from it.

Rows of rare tokens are hardly trained apart: in a table of embeddings many are nearly copies, which a packer of bytes
finds and a table of frequencies does not. A referring row is predicted as `gain / 8` of the row it names, in whole
numbers, and its integers become the differences. Rows of matrices do not resemble each other; only tensors with many
more rows than columns are searched.

Legend: R rows, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Int32, Int64
from paramgolf.squeeze.quantized import Int8

EIGHTHS = 8
TALL = 2  # times as many rows as columns, for a tensor to be searched
_CHUNK = 1024
# A name takes log2 R bits; the best of R rows that have nothing in common seems to save as many.
_SIDE_BITS = 8
_ROUNDING = 1 / 12  # variance that rounding leaves even to a perfect prediction


@dataclass(frozen=True)
class References:
    """For each row [R] the gain in eighths, 0 to refer to none, and the earlier row it refers to (0 if none)."""

    gain_R: Int32
    row_R: Int32

    @staticmethod
    def none(rows: int) -> References:
        """No row refers to any."""
        return References(np.zeros(rows, np.int32), np.zeros(rows, np.int32))

    def any(self) -> bool:
        """Whether some row does."""
        return bool(self.gain_R.any())

    def differences(self, values_RC: Int8) -> Int8:
        """What is stored instead of the integers."""
        wide_RC = values_RC.astype(np.int32)
        return (wide_RC - predicted(wide_RC[self.row_R], self.gain_R[:, None])).astype(np.int8)

    def integers(self, differences_RC: Int8, largest: int) -> Int8:
        """Inverse of `differences`; `ArtifactError` where a row refers to none before it, or leaves the width.

        That is `largest` and one more below 0, as far as factors of corrections reach.
        """
        refers_R = self.gain_R > 0
        if (self.row_R[refers_R] >= np.flatnonzero(refers_R)).any() or (self.gain_R < 0).any():
            raise ArtifactError("a row of a tensor refers to one that is not before it")
        wide_RC = differences_RC.astype(np.int32)
        for row in np.flatnonzero(refers_R):
            wide_RC[row] += predicted(wide_RC[self.row_R[row]], self.gain_R[row])
            if wide_RC[row].max() > largest or wide_RC[row].min() < -largest - 1:
                raise ArtifactError(f"row {row} of a tensor is outside {-largest - 1}..{largest}, its integers' width")
        return wide_RC.astype(np.int8)


def predicted(values: Int32, gain: Int32 | np.int32) -> Int32:
    """`gain / 8` of the integers, rounded: whole numbers, the same on every machine."""
    prediction: Int32 = (values * gain + EIGHTHS // 2) >> 3
    return prediction


def find_references(values_RC: Int8, largest: int) -> References:
    """Of each row the earlier one that it resembles most, where the code is expected to become clearly shorter.

    Differences stay within ±`largest`.
    """
    rows, columns = values_RC.shape
    found = References.none(rows)
    if rows < TALL * columns:
        return found
    exact_RC = values_RC.astype(np.float32)
    squares_R = np.square(exact_RC).sum(axis=1)
    unit_RC = exact_RC / np.sqrt(np.maximum(squares_R, 1))[:, None]
    row_R = _most_alike(unit_RC)
    along_R = (exact_RC * exact_RC[row_R]).sum(axis=1) / np.maximum(squares_R[row_R], 1)
    gain_R = np.clip(np.rint(EIGHTHS * along_R), 0, EIGHTHS).astype(np.int32)
    wide_RC = values_RC.astype(np.int32)
    left_RC = wide_RC - predicted(wide_RC[row_R], gain_R[:, None])
    shorter_R = columns / 2 * np.log2((squares_R / columns + _ROUNDING) / (np.square(left_RC).mean(axis=1) + _ROUNDING))
    worth_R = (shorter_R > 3 * np.log2(rows) + _SIDE_BITS) & (np.abs(left_RC).max(axis=1) <= largest) & (gain_R > 0)
    worth_R[0] = False
    return References(np.where(worth_R, gain_R, 0).astype(np.int32), np.where(worth_R, row_R, 0).astype(np.int32))


def _most_alike(unit_RC: npt.NDArray[np.float32]) -> Int64:
    """For each row the earlier one of largest product; row 0 has none and gets 0."""
    row_R = np.zeros(len(unit_RC), dtype=np.int64)
    for start in range(0, len(unit_RC), _CHUNK):
        end = min(start + _CHUNK, len(unit_RC))
        product = unit_RC[start:end] @ unit_RC[:end].T
        product[np.arange(end) >= np.arange(start, end)[:, None]] = -np.inf
        row_R[start:end] = product.argmax(axis=1)
    return row_R
