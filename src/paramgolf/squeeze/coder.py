"""Entropy coder of quantised tensors: static tables, asymmetric numeral systems (constriction).

One tensor's code is a stack of 32-bit words from which are read, in this order: the class of each row, the number of
each row's step, then the integers class by class. What is shared by all tensors (the codebooks) is coded once.
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
from paramgolf.squeeze.codebook import Codebook, Int32, check_codes, expand, fit_codebook, log_codes
from paramgolf.squeeze.quantize import Quantized, step_numbers, steps_from_numbers

_HEADER = struct.Struct("<h")
_MAX_STEP_NUMBER = 0xFF << 4  # a float32's exponent and four bits of mantissa, not infinite


@dataclass(frozen=True)
class Codebooks:
    """Tables of a whole model: one codebook for each width of integer, and one for the steps."""

    values: Mapping[int, Codebook]
    steps: Codebook


def fit_codebooks(tensors: Sequence[Quantized]) -> Codebooks:
    """Tables for all tensors of a model, at least one."""
    widths = sorted({tensor.bits for tensor in tensors})
    values = {bits: fit_codebook([t.values for t in tensors if t.bits == bits]) for bits in widths}
    return Codebooks(values, fit_codebook([_relative_steps(tensor)[0][None, :] for tensor in tensors]))


def encode_tensor(tensor: Quantized, books: Codebooks) -> bytes:
    """The code of one tensor; its shape, bits and the codebooks are needed to read it back."""
    book = books.values[tensor.bits]
    class_R = book.classify(tensor.values)
    class_codes = log_codes(np.bincount(class_R, minlength=book.codes.shape[0]))
    steps_R, base = _relative_steps(tensor)
    step_class = int(books.steps.classify(steps_R[None, :])[0])
    stack = constriction.stream.stack.AnsCoder()
    tables = book.probabilities()
    for k in reversed(range(tables.shape[0])):
        symbols = book.index(tensor.values[class_R == k].ravel())
        stack.encode_reverse(symbols, _model(tables[k]))
    step_symbols = books.steps.index(steps_R)
    stack.encode_reverse(step_symbols, _model(books.steps.probabilities()[step_class]))
    stack.encode_reverse(class_R.astype(np.int32), _model(expand(class_codes)))
    words: bytes = stack.get_compressed().astype("<u4").tobytes()
    return _HEADER.pack(base) + bytes([step_class]) + class_codes.tobytes() + words


def decode_tensor(data: bytes, shape: tuple[int, ...], bits: int, books: Codebooks) -> Quantized:
    """Read back `encode_tensor`; `ArtifactError` if the code does not end where the tensor does."""
    book = books.values[bits]
    classes = book.codes.shape[0]
    start = _HEADER.size + 1 + classes
    if len(data) < start or (len(data) - start) % 4:
        raise ArtifactError(f"the code of a tensor of shape {shape} has {len(data)} bytes, which is no whole code")
    (base,) = _HEADER.unpack_from(data)
    step_class = data[_HEADER.size]
    if step_class >= books.steps.codes.shape[0]:
        raise ArtifactError(f"step table {step_class} of {books.steps.codes.shape[0]}")
    class_codes = np.frombuffer(data, np.uint8, classes, _HEADER.size + 1)
    check_codes(class_codes)
    rows, columns = _flat(shape)
    stack = _open_stack(np.frombuffer(data, "<u4", offset=start))
    class_R = stack.decode(_model(expand(class_codes)), rows)
    steps_R = books.steps.alphabet[stack.decode(_model(books.steps.probabilities()[step_class]), rows)]
    values_RC = _decode_values(stack, book, class_R, columns)
    if not stack.is_empty():
        raise ArtifactError(f"the code of a tensor of shape {shape} goes on after its last value")
    return Quantized(values_RC, _absolute_steps(steps_R, base), bits, shape)


def _decode_values(
    stack: constriction.stream.stack.AnsCoder, book: Codebook, class_R: Int32, columns: int
) -> npt.NDArray[np.int8]:
    values_RC = np.empty((class_R.size, columns), dtype=np.int8)
    tables = book.probabilities()
    for k in range(tables.shape[0]):
        rows = class_R == k
        count = int(rows.sum()) * columns
        if count:
            values_RC[rows] = book.alphabet[stack.decode(_model(tables[k]), count)].reshape(-1, columns)
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


def _relative_steps(tensor: Quantized) -> tuple[Int32, int]:
    """Each step's number above the tensor's smallest one (a row of noughts has -1), and the number of that one."""
    numbers_R = step_numbers(tensor.scales)
    used = numbers_R[numbers_R > 0]
    base = int(used.min()) if used.size else 0
    return np.where(numbers_R > 0, numbers_R - base, -1).astype(np.int32), base


def _absolute_steps(relative_R: Int32, base: int) -> npt.NDArray[np.float32]:
    numbers_R = np.where(relative_R >= 0, relative_R.astype(np.int64) + base, 0)
    if ((numbers_R < 0) | (numbers_R >= _MAX_STEP_NUMBER)).any():
        raise ArtifactError(f"a step above the smallest, number {base}, is no finite number")
    return steps_from_numbers(numbers_R.astype(np.int32))


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
