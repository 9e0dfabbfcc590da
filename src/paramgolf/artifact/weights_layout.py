"""Of which parts a stored tensor consists, as the header of `weights.bin` says it and as `Quantized` holds it.

Legend: R rows, C columns, K rank of a correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from paramgolf.errors import ArtifactError
from paramgolf.squeeze.correction import GROUP, LEFT_BITS, RIGHT_BITS, SYMMETRIC_BITS
from paramgolf.squeeze.quantized import LowRank, Quantized, WideColumns

RAW_TYPES = {16: "<f2", 32: "<f4"}  # by bits
_FORMS = {(LEFT_BITS, RIGHT_BITS): "asymmetric", (SYMMETRIC_BITS, SYMMETRIC_BITS): "symmetric"}


def plain_parts(tensor: Quantized) -> list[Quantized]:
    """The integers of weights: those of the narrow columns, then those of the wide ones, if there are any."""
    narrow = replace(tensor, shape=tensor.values.shape, wide=None, correction=None)
    return [narrow, *([tensor.wide.part] if tensor.wide else [])]


def factors_of(tensor: Quantized) -> list[Quantized]:
    """The factors of a correction, each in the shape of its integers; none without one."""
    if tensor.correction is None:
        return []
    return [replace(part, shape=part.values.shape) for part in (tensor.correction.left, tensor.correction.right)]


def describe_parts(tensor: Quantized) -> dict[str, Any]:
    """What the header says of a tensor beyond its shape and bits."""
    parts: dict[str, Any] = {}
    if tensor.wide is not None:
        parts["wide"] = [tensor.wide.part.bits, tensor.wide.size, list(tensor.wide.starts)]
    if tensor.correction is not None:
        left, right = tensor.correction.left, tensor.correction.right
        parts["low_rank"] = [_FORMS[left.bits, right.bits], left.shape[1]]
    return parts


@dataclass(frozen=True)
class Layout:
    """How a tensor is stored, checked: nothing in it is larger than its shape allows.

    `wide` is (bits, size, starts), `low_rank` (form, rank); None for what the tensor has not.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    wide: tuple[int, int, tuple[int, ...]] | None = None
    low_rank: tuple[str, int] | None = None

    @staticmethod
    def of(name: str, shape: tuple[int, ...], bits: object, parts: object) -> Layout:
        """From the entries of a header; `ArtifactError` for any that no writer would make."""
        if not (type(bits) is int and (2 <= bits <= 8 or bits in RAW_TYPES)):
            raise ArtifactError(f"weights: bits are 2..8, 16 or 32, found {str(bits)[:20]} for {name}")
        if not isinstance(parts, dict) or not set(parts) <= {"wide", "low_rank"}:
            raise ArtifactError(
                f"weights: {name} should have the parts wide and low_rank alone, found {str(parts)[:80]}"
            )
        if parts and (bits in RAW_TYPES or len(shape) != 2):
            raise ArtifactError(f"weights: {name} is no quantised matrix, and has further parts")
        wide = _checked_wide(parts["wide"], name, shape[1]) if "wide" in parts else None
        low_rank = _checked_low_rank(parts["low_rank"], name, shape) if "low_rank" in parts else None
        return Layout(name, shape, bits, wide, low_rank)

    def rows(self) -> int:
        """R; a vector or a scalar is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def parts(self) -> list[tuple[int, int]]:
        """Columns and bits of the narrow integers, then of the wide ones, if there are any."""
        columns = math.prod(self.shape) // self.rows()
        if self.wide is None:
            return [(columns, self.bits)]
        bits, size, starts = self.wide
        return [(columns - size * len(starts), self.bits), (size * len(starts), bits)]

    def factors(self) -> list[tuple[tuple[int, int], tuple[int, int], int]]:
        """Of each factor: the shape in which its integers share steps, its own shape, and its bits."""
        if self.low_rank is None:
            return []
        form, rank = self.low_rank
        left, right = (self.shape[0], rank), (rank, self.shape[1])
        if form == "symmetric":
            return [(left, left, SYMMETRIC_BITS), (right, right, SYMMETRIC_BITS)]
        groups = (math.prod(right) // GROUP, GROUP)
        return [((1, math.prod(left)), left, LEFT_BITS), (groups, right, RIGHT_BITS)]

    def widths(self) -> set[int]:
        """Bits of its integers; none for floating point."""
        return set() if self.bits in RAW_TYPES else {bits for _, bits in self.parts()}

    def factor_widths(self) -> set[int]:
        """Bits of its factors."""
        return {bits for _, _, bits in self.factors()}

    def compose(self, plain: Sequence[Quantized], factors: Sequence[Quantized]) -> Quantized:
        """The tensor of its decoded parts."""
        wide = None if self.wide is None else WideColumns(self.wide[2], self.wide[1], plain[1])
        correction = LowRank(*factors) if factors else None
        return replace(plain[0], shape=self.shape, wide=wide, correction=correction)


def _checked_wide(entry: object, name: str, columns: int) -> tuple[int, int, tuple[int, ...]]:
    if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], list):
        bits, size, starts = entry
        whole = all(type(number) is int for number in (bits, size, *starts))
        if whole and 2 <= bits <= 8 and size > 0 and 0 < size * len(starts) < columns:
            apart = all(start + size <= after for start, after in zip(starts, [*starts[1:], columns]))
            if starts[0] >= 0 and apart:
                return bits, size, tuple(starts)
    raise ArtifactError(f"weights: the wide columns of {name} do not fit {columns} columns: {str(entry)[:80]}")


def _checked_low_rank(entry: object, name: str, shape: tuple[int, ...]) -> tuple[str, int]:
    if isinstance(entry, list) and len(entry) == 2 and entry[0] in _FORMS.values() and type(entry[1]) is int:
        form, rank = entry
        whole = form == "symmetric" or rank * shape[1] % GROUP == 0
        if 1 <= rank <= min(shape) and whole:
            return form, rank
    raise ArtifactError(f"weights: the correction of {name} {list(shape)} is impossible: {str(entry)[:80]}")
