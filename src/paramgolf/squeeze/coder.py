"""Entropy coder of quantised tensors: static tables, asymmetric numeral systems (constriction).

One tensor's code is a stack of 32-bit words from which are read, in this order: each row's gain and the row it refers
to, if any does (`references.py`); the class of each row, the shift of each column if there are any (`cells.py`); the
number of each row's step, the place of each step above that number if the steps are fine ones; then the integers table
by table. What is shared by all tensors (the codebooks) is coded once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import constriction
import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError
from paramgolf.squeeze.cells import MOST_SHIFT, SHIFTS_D, assign, fit_cells, tables_of
from paramgolf.squeeze.codebook import Codebook, Int32, check_codes, expand, fit_codebook, log_codes
from paramgolf.squeeze.quantized import Float32, Int8, Quantized, join_steps, split_steps
from paramgolf.squeeze.references import EIGHTHS, References, find_references

# Number of the smallest step, table of the steps, table of their places, bytes of the tables of shifts and of gains
_HEADER = struct.Struct("<hBBBB")
_COARSE = 0xFF  # instead of a table of places: all steps are on the coarse grid
_MAX_STEP_NUMBER = 0xFF << 4  # a float32's exponent and four bits of mantissa, not infinite


@dataclass(frozen=True)
class Codebooks:
    """Tables of a whole model: a codebook for each width of integer, for the steps, for the places of fine steps."""

    values: Mapping[int, Codebook]
    steps: Codebook
    places: Codebook | None = None

    def byte_count(self) -> int:
        """Bytes of all tables as stored."""
        books = [self.steps, *self.values.values(), *([self.places] if self.places else [])]
        return sum(len(book.to_bytes()) for book in books)


@dataclass(frozen=True)
class _Steps:
    """A tensor's steps as coded: [R] numbers above the tensor's smallest one, `base` (a row of noughts has -1), and
    [R] places above those numbers (see `split_steps`)."""

    relative_R: Int32
    places_R: Int32
    base: int

    @staticmethod
    def of(scales: Float32) -> _Steps:
        numbers_R, places_R = split_steps(scales)
        used = numbers_R[numbers_R > 0]
        base = int(used.min()) if used.size else 0
        return _Steps(np.where(numbers_R > 0, numbers_R - base, -1).astype(np.int32), places_R, base)

    def fine(self) -> bool:
        return bool(self.places_R.any())

    def scales(self) -> Float32:
        """The steps; `ArtifactError` if one is no finite number."""
        there_R = self.relative_R >= 0
        numbers_R = np.where(there_R, self.relative_R.astype(np.int64) + self.base, 0)
        if ((numbers_R < 0) | (numbers_R >= _MAX_STEP_NUMBER)).any():
            raise ArtifactError(f"a step above the smallest, number {self.base}, is no finite number")
        return join_steps(numbers_R.astype(np.int32), np.where(there_R, self.places_R, 0).astype(np.int32))


def code_tensors(tensors: Sequence[Quantized]) -> tuple[Codebooks, list[bytes]]:
    """Tables for all tensors of a model, at least one, and with them the code of each.

    A tensor's shape, bits and the codebooks are needed to read it back.
    """
    referred = [_Referred.of(tensor) for tensor in tensors]
    books = _fit(referred)
    return books, [_encode(each, books) for each in referred]


def fit_codebooks(tensors: Sequence[Quantized]) -> Codebooks:
    """Tables for all tensors of a model, at least one."""
    return _fit([_Referred.of(tensor) for tensor in tensors])


def encode_tensor(tensor: Quantized, books: Codebooks) -> bytes:
    """The code of one tensor; its shape, bits and the codebooks are needed to read it back."""
    return _encode(_Referred.of(tensor), books)


@dataclass(frozen=True)
class _Referred:
    """A tensor with the references of its rows, which take a while to find, and what is stored of its integers."""

    tensor: Quantized
    references: References
    stored_RC: Int8

    @staticmethod
    def of(tensor: Quantized) -> _Referred:
        references = find_references(tensor.values, largest_of(tensor.bits))
        return _Referred(tensor, references, references.differences(tensor.values))


def _fit(referred: Sequence[_Referred]) -> Codebooks:
    tensors = [each.tensor for each in referred]
    stored = [(each.tensor.bits, each.stored_RC) for each in referred]
    widths = sorted({tensor.bits for tensor in tensors})
    values = {bits: fit_cells([values for width, values in stored if width == bits]) for bits in widths}
    parts = [_Steps.of(tensor.scales) for tensor in tensors]
    fine = [part.places_R[None, :] for part in parts if part.fine()]
    steps = fit_codebook([part.relative_R[None, :] for part in parts])
    return Codebooks(values, steps, fit_codebook(fine) if fine else None)


def _encode(referred: _Referred, books: Codebooks) -> bytes:
    tensor, references, stored_RC = referred.tensor, referred.references, referred.stored_RC
    book = books.values[tensor.bits]
    class_R, shift_C = assign(stored_RC, book)
    class_codes = log_codes(np.bincount(class_R, minlength=book.codes.shape[0]))
    shift_codes = log_codes(np.bincount(shift_C + MOST_SHIFT, minlength=SHIFTS_D.size))
    gain_codes = log_codes(np.bincount(references.gain_R, minlength=EIGHTHS + 1))
    shifted, refers = bool(shift_C.any()), references.any()
    steps = _Steps.of(tensor.scales)
    step_class, place_class = int(books.steps.classify(steps.relative_R[None, :])[0]), _COARSE
    stack = constriction.stream.stack.AnsCoder()
    tables = book.probabilities()
    table_RC, index_RC = tables_of(class_R, shift_C, len(tables)), book.index(stored_RC)
    for k in reversed(range(len(tables))):
        stack.encode_reverse(index_RC[table_RC == k], _model(tables[k]))
    if steps.fine():
        assert books.places is not None
        place_class = int(books.places.classify(steps.places_R[None, :])[0])
        _push(stack, steps.places_R, books.places, place_class)
    _push(stack, steps.relative_R, books.steps, step_class)
    if shifted:
        stack.encode_reverse((shift_C + MOST_SHIFT).astype(np.int32), _model(expand(shift_codes)))
    stack.encode_reverse(class_R.astype(np.int32), _model(expand(class_codes)))
    if refers:
        named = references.row_R[references.gain_R > 0]
        stack.encode_reverse(named, constriction.stream.model.Uniform(len(stored_RC)))
        stack.encode_reverse(references.gain_R, _model(expand(gain_codes)))
    words: bytes = stack.get_compressed().astype("<u4").tobytes()
    known = [class_codes, shift_codes[: shifted * SHIFTS_D.size], gain_codes[: refers * (EIGHTHS + 1)]]
    header = _HEADER.pack(steps.base, step_class, place_class, known[1].size, known[2].size)
    return header + b"".join(codes.tobytes() for codes in known) + words


def decode_tensor(data: bytes, shape: tuple[int, ...], bits: int, books: Codebooks) -> Quantized:
    """Read back `encode_tensor`; `ArtifactError` if the code does not end where the tensor does."""
    book = books.values[bits]
    classes = book.codes.shape[0]
    base, step_class, place_class, shifts, gains = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    start = _HEADER.size + classes + shifts + gains
    known = shifts in (0, SHIFTS_D.size) and gains in (0, EIGHTHS + 1)
    if not known or len(data) < start or (len(data) - start) % 4:
        raise ArtifactError(f"the code of a tensor of shape {shape} has {len(data)} bytes, which is no whole code")
    class_codes = np.frombuffer(data, np.uint8, classes, _HEADER.size)
    check_codes(class_codes)
    rows, columns = _flat(shape)
    stack = _open_stack(np.frombuffer(data, "<u4", offset=start))
    references = _pop_references(stack, np.frombuffer(data, np.uint8, gains, start - gains), rows)
    class_R = stack.decode(_model(expand(class_codes)), rows)
    shift_C = np.zeros(columns, dtype=np.int32)
    if shifts:
        shift_codes = np.frombuffer(data, np.uint8, shifts, _HEADER.size + classes)
        check_codes(shift_codes)
        shift_C = stack.decode(_model(expand(shift_codes)), columns) - MOST_SHIFT
    relative_R = _pop(stack, rows, books.steps, step_class)
    places_R = np.zeros(rows, dtype=np.int32)
    if place_class != _COARSE:
        places_R = _pop(stack, rows, books.places, place_class)
    values_RC = _decode_values(stack, book, tables_of(class_R, shift_C, classes))
    if not stack.is_empty():
        raise ArtifactError(f"the code of a tensor of shape {shape} goes on after its last value")
    scales_R = _Steps(relative_R, places_R, base).scales()
    integers_RC = references.integers(values_RC, largest_of(bits)) if gains else values_RC
    return Quantized(integers_RC, scales_R, bits, shape)


def largest_of(bits: int) -> int:
    """The largest integer of a width."""
    return (1 << (bits - 1)) - 1


def _pop_references(
    stack: constriction.stream.stack.AnsCoder, gain_codes: npt.NDArray[np.uint8], rows: int
) -> References:
    found = References.none(rows)
    if not gain_codes.size:
        return found
    if rows < 2:
        raise ArtifactError("the only row of a tensor refers to another one")
    check_codes(gain_codes)
    gain_R = stack.decode(_model(expand(gain_codes)), rows)
    found.row_R[gain_R > 0] = stack.decode(constriction.stream.model.Uniform(rows), int((gain_R > 0).sum()))
    return References(gain_R, found.row_R)


def _push(stack: constriction.stream.stack.AnsCoder, values: Int32, book: Codebook, table: int) -> None:
    stack.encode_reverse(book.index(values), _model(book.probabilities()[table]))


def _pop(stack: constriction.stream.stack.AnsCoder, count: int, book: Codebook | None, table: int) -> Int32:
    tables = book.codes.shape[0] if book else 0
    if book is None or table >= tables:
        raise ArtifactError(f"the code of a tensor names table {table} of {tables} for its steps")
    values: Int32 = book.alphabet[stack.decode(_model(book.probabilities()[table]), count)]
    return values


def _decode_values(
    stack: constriction.stream.stack.AnsCoder, book: Codebook, table_RC: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int8]:
    values_RC = np.empty(table_RC.shape, dtype=np.int8)
    for k, table in enumerate(book.probabilities()):
        here_RC = table_RC == k
        count = int(here_RC.sum())
        if count:
            values_RC[here_RC] = book.alphabet[stack.decode(_model(table), count)]
    return values_RC


def _model(table: npt.NDArray[np.float64]) -> constriction.stream.model.Categorical:
    if table.size == 1:  # constriction wants two symbols; the second is never used
        table = np.array([1.0, 0.0])
    return constriction.stream.model.Categorical(table, perfect=False)


def _open_stack(words: npt.NDArray[np.uint32]) -> constriction.stream.stack.AnsCoder:
    try:
        return constriction.stream.stack.AnsCoder(words.astype(np.uint32))
    except ValueError as error:
        raise ArtifactError(f"the code of a tensor is damaged: {error}") from None


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
