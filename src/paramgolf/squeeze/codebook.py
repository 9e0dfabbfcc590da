"""Tables for integer matrices whose rows come in a few kinds.

Rows differ in spread: the clip follows the largest weight of a row, not its width. So the rows of all matrices of one
width of integer are sorted into K classes, each with a table of its own, by the k-means of code lengths (every row goes
to the class that codes it shortest, every class takes the histogram of its rows). K is whichever makes the sum of
codes, classes and tables smallest.

Legend: R rows of all matrices, S symbols of the alphabet, K classes. Tables are logarithmic: a weight of 2^(-n/8) is
the byte n, which costs 0.01 % of the code and makes a table of a bell smooth enough to shrink to some thirty bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError

Integers = npt.NDArray[np.integer]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

MAX_CLASSES = 32
MAX_SYMBOLS = 8192
_CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_ROUNDS = 12
# 2^(-n/8) for n = 0..7 in units of 2^-24: integers, so that every machine derives the same table.
_EIGHTHS = np.array([16777216, 15384775, 14107901, 12937002, 11863283, 10878679, 9975792, 9147842], dtype=np.int64)
_HEADER = struct.Struct("<HBI")


@dataclass(frozen=True)
class Codebook:
    """`alphabet` int32 [S], ascending; `codes` uint8 [K, S], the logarithmic tables."""

    alphabet: Int32
    codes: Codes

    def probabilities(self) -> Float64:
        """Table of each class [K, S]; exact divisions of integers, the same everywhere."""
        return expand(self.codes)

    def to_bytes(self) -> bytes:
        """The stored form: sizes, then deltas of the alphabet and of the tables, deflated."""
        deltas = np.diff(self.alphabet, prepend=np.int32(0)).astype("<i4").tobytes()
        tables = np.diff(self.codes, axis=1, prepend=np.uint8(0)).tobytes()  # wraps at 256, and back when summed
        packed = zlib.compress(deltas + tables, 9)
        return _HEADER.pack(self.alphabet.size, self.codes.shape[0], len(packed)) + packed

    @staticmethod
    def from_bytes(data: bytes) -> Codebook:
        """Read back `to_bytes`; `ArtifactError` on anything else."""
        if len(data) < _HEADER.size:
            raise ArtifactError(f"a table of {len(data)} bytes is cut short")
        symbols, classes, length = _HEADER.unpack_from(data)
        if not (1 <= symbols <= MAX_SYMBOLS and 1 <= classes <= MAX_CLASSES and length == len(data) - _HEADER.size):
            raise ArtifactError(f"a table claims {symbols} symbols, {classes} classes, {length} bytes")
        expected = symbols * (4 + classes)
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(data[_HEADER.size :], expected + 1)
        except zlib.error as error:
            raise ArtifactError(f"a table does not inflate: {error}") from None
        if len(raw) != expected or not inflate.eof or inflate.unused_data:
            raise ArtifactError(f"a table inflates to {len(raw)} bytes or more, expected {expected}")
        alphabet = np.cumsum(np.frombuffer(raw, "<i4", symbols), dtype=np.int64)
        if (np.diff(alphabet) <= 0).any() or np.abs(alphabet).max() >= 1 << 31:
            raise ArtifactError("a table's symbols do not ascend")
        deltas = np.frombuffer(raw, np.uint8, symbols * classes, symbols * 4).reshape(classes, symbols)
        codes = np.cumsum(deltas, axis=1, dtype=np.uint8)
        check_codes(codes)
        return Codebook(alphabet.astype(np.int32), codes)

    def index(self, values: Integers) -> Int32:
        """Position of each value, all of which must be symbols, in the alphabet."""
        first = int(self.alphabet[0])
        position = np.zeros(int(self.alphabet[-1]) - first + 1, dtype=np.int32)
        position[self.alphabet - first] = np.arange(self.alphabet.size)
        return position[values.astype(np.int32) - first]

    def classify(self, values_RC: Integers) -> Int64:
        """The class [R] that codes each row shortest."""
        return np.asarray(np.argmin(_costs(self._histograms(values_RC), self.codes), axis=1), dtype=np.int64)

    def _histograms(self, values_RC: Integers) -> Float64:
        rows, size = values_RC.shape[0], self.alphabet.size
        cells = self.index(values_RC) + np.arange(rows)[:, None] * size
        return np.bincount(cells.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def fit_codebook(matrices: Sequence[Integers]) -> Codebook:
    """The codebook that makes the codes of all rows, their classes and itself smallest; at least one matrix."""
    alphabet = symbols_of(matrices)
    blank = Codebook(alphabet, np.zeros((1, alphabet.size), dtype=np.uint8))
    histograms_RS = np.concatenate([blank._histograms(matrix) for matrix in matrices])
    best = blank
    least = np.inf
    for classes in (k for k in _CANDIDATES if k <= max(1, histograms_RS.shape[0] // 8)):
        book, bits = _cluster(histograms_RS, alphabet, classes)
        total = bits + 8 * len(book.to_bytes())
        if total >= least:
            break  # more classes only cost more tables from here on
        best, least = book, total
    return best


def symbols_of(matrices: Sequence[Integers]) -> Int32:
    """All integers that occur, ascending."""
    return np.unique(np.concatenate([_symbols(matrix) for matrix in matrices])).astype(np.int32)


def _symbols(matrix: Integers) -> Int64:
    """The integers that occur, by counting: sorting millions of them would take seconds."""
    first = int(matrix.min())
    found: Int64 = np.flatnonzero(np.bincount(matrix.ravel().astype(np.int32) - first)) + first
    return found


def log_codes(counts: Integers | Float64) -> Codes:
    """Logarithmic tables [..., S] of counts: the byte n for a share of 2^(-n/8) of the largest count."""
    counts = np.asarray(counts, dtype=np.float64)
    top = np.maximum(counts.max(axis=-1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        eighths = np.rint(-8 * np.log2(counts / top))
    seen = (counts > 0) | (counts.max(axis=-1, keepdims=True) == 0)  # a class without rows gets a flat table
    return np.where(seen, np.clip(np.nan_to_num(eighths, posinf=0), 0, 254), 255).astype(np.uint8)


def check_codes(codes: Codes) -> None:
    """Raise `ArtifactError` unless the likeliest symbol of each table has the byte 0, as `log_codes` makes it."""
    if codes.min(axis=-1).any():
        raise ArtifactError("a table has no likeliest symbol")


def expand(codes: Codes) -> Float64:
    """Probabilities [..., S] of logarithmic tables."""
    weights = _EIGHTHS[codes % 8] >> (codes // 8).astype(np.int64)
    probabilities: Float64 = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def _cluster(histograms_RS: Float64, alphabet: Int32, classes: int) -> tuple[Codebook, float]:
    """k-means of code lengths, from rows sorted by spread; the codebook, and the bits of rows and classes."""
    assigned_R = _by_spread(histograms_RS, alphabet, classes)
    codes_KS = _tables(histograms_RS, assigned_R, classes)
    for _ in range(_ROUNDS if classes > 1 else 1):
        share_K = np.bincount(assigned_R, minlength=classes) + 0.5
        class_bits_K = -np.log2(share_K / share_K.sum())
        bits_RK = _costs(histograms_RS, codes_KS) + class_bits_K
        moved_R = bits_RK.argmin(axis=1)
        if (moved_R == assigned_R).all():
            break
        assigned_R = moved_R
        codes_KS = _tables(histograms_RS, assigned_R, classes)
    bits = float(_costs(histograms_RS, codes_KS)[np.arange(assigned_R.size), assigned_R].sum())
    share_K = np.bincount(assigned_R, minlength=classes) / assigned_R.size
    used_K = share_K > 0
    bits += -assigned_R.size * float((share_K[used_K] * np.log2(share_K[used_K])).sum())
    return Codebook(alphabet, codes_KS[used_K]), bits


def _by_spread(histograms_RS: Float64, alphabet: Int32, classes: int) -> Int64:
    spread_R = histograms_RS @ np.abs(alphabet - np.median(alphabet)) / histograms_RS.sum(axis=1)
    rank_R = np.empty(spread_R.size, dtype=np.int64)
    rank_R[np.argsort(spread_R, kind="stable")] = np.arange(spread_R.size)
    class_R: Int64 = rank_R * classes // spread_R.size
    return class_R


def _tables(histograms_RS: Float64, assigned_R: Int64, classes: int) -> Codes:
    member_KR = (np.arange(classes)[:, None] == assigned_R).astype(np.float64)
    return log_codes(member_KR @ histograms_RS)  # sums of integers far below 2^53: exact in any order


def _costs(histograms_RS: Float64, codes_KS: Codes) -> Float64:
    """Bits of each row under each class; a symbol that a class never saw costs what the coder's least share does."""
    bits_KS = -np.log2(np.maximum(expand(codes_KS), 2.0**-24))
    costs: Float64 = histograms_RS @ bits_KS.T
    return costs
