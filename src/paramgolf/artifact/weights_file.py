"""`weights.bin`: the checked binary format of the weights. No pickle, no code, nothing that is trusted.

    magic "PGOLFWTS", version u32
    section  header: deflated JSON {"tensors": [[name, shape, bits], ...], "books": [bits, ...], "fine_steps": bool}
    section  codebook of the steps, one of the places of fine steps if there are any, one for each width in "books"
    section  one for each tensor: its code (squeeze.coder); when bits are 16 or 32 its little-endian floats, deflated:
             the first byte of each, then the second of each, ... (exponents shrink, mantissas hardly)
    CRC-32 of all bytes before it

A section is: length u32, CRC-32 u32, bytes. Integers are little-endian.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.artifact.reader import ByteReader, inflate, parse_json_object, section
from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Codebook
from paramgolf.squeeze.coder import Codebooks, decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.quantized import LOW_VALUES, Quantized, dequantize

Float32 = npt.NDArray[np.float32]
Raw = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Shapes = Mapping[str, tuple[int, ...]]

MAGIC = b"PGOLFWTS"
VERSION = 2
MAX_PARAMETERS = 1 << 28  # a gigabyte of float32
MAX_TENSORS = 16_384
MAX_HEADER = 1 << 20
RAW_TYPES = {16: "<f2", 32: "<f4"}  # by bits
_FRONT = struct.Struct("<8sI")


@dataclass(frozen=True)
class WeightsFile:
    """The bytes of `weights.bin`, and how many of them each tensor takes (the rest are tables and headers)."""

    data: bytes
    bytes_by_tensor: Mapping[str, int]


def write_weights(tensors: Mapping[str, Quantized | Raw]) -> WeightsFile:
    """The file for tensors that are quantised, or raw floats; the same tensors always give the same bytes."""
    quantised = [tensor for tensor in tensors.values() if isinstance(tensor, Quantized)]
    books = fit_codebooks(quantised) if quantised else None
    widths = sorted(books.values) if books else []
    entries = [[name, list(tensor.shape), _bits(tensor)] for name, tensor in tensors.items()]
    shared = [books.steps, *([books.places] if books.places else []), *books.values.values()] if books else []
    header = {"tensors": entries, "books": widths, "fine_steps": bool(books and books.places)}
    parts = [_FRONT.pack(MAGIC, VERSION), section(zlib.compress(_json(header), 9))]
    parts += [section(book.to_bytes()) for book in shared]
    codes = {name: section(_encode(tensor, books)) for name, tensor in tensors.items()}
    body = b"".join([*parts, *codes.values()])
    return WeightsFile(body + _crc(body), {name: len(code) for name, code in codes.items()})


def read_weights(data: bytes, shapes: Shapes) -> dict[str, Float32]:
    """The weights as float32, in the order of `shapes`, which says what must be there.

    Nothing is allocated before its size agreed with `shapes`. Raises `ArtifactError` on any damage, on tensors that
    are missing, unknown or of another shape, and on numbers that are not finite.
    """
    tensors = read_tensors(data, shapes)
    return {name: as_float32(tensor) for name, tensor in tensors.items()}


def as_float32(tensor: Quantized | Raw) -> Float32:
    """What a reader computes with: dequantised, or widened."""
    return dequantize(tensor) if isinstance(tensor, Quantized) else tensor.astype(np.float32)


def read_tensors(data: bytes, shapes: Shapes) -> dict[str, Quantized | Raw]:
    """What was written, integers and steps as they are; raises as `read_weights`."""
    if sum(map(math.prod, shapes.values())) > MAX_PARAMETERS:
        raise ArtifactError(f"weights: the model has more than {MAX_PARAMETERS} parameters, this version's limit")
    body, checksum = data[:-4], data[-4:]
    if _crc(body) != checksum:
        raise ArtifactError("weights: the checksum of the whole does not fit; the file is damaged or cut short")
    reader = ByteReader(body, "weights")
    magic, version = _FRONT.unpack(reader.take(_FRONT.size, "the front"))
    if magic != MAGIC or version != VERSION:
        raise ArtifactError(f"weights: magic {magic!r} version {version}; expected {MAGIC!r} version {VERSION}")
    header = parse_json_object(
        inflate(reader.section("the header"), MAX_HEADER, "weights: the header"), "weights: the header"
    )
    bits = _check_header(header, shapes)
    books = _read_books(reader, header["books"], header["fine_steps"])
    tensors = {name: _decode(reader.section(name), name, shapes[name], bits[name], books) for name in shapes}
    reader.end()
    return tensors


def _check_header(header: dict[str, Any], shapes: Shapes) -> dict[str, int]:
    """Bits of each tensor, once names, order and shapes are those of the model."""
    kinds = {name: type(part) for name, part in header.items()}
    if kinds != {"tensors": list, "books": list, "fine_steps": bool}:
        raise ArtifactError("weights: the header should list tensors and books, and say whether steps are fine")
    entries, books = header["tensors"], header["books"]
    if len(entries) != len(shapes) or len(entries) > MAX_TENSORS:
        raise ArtifactError(f"weights: {len(entries)} tensors, the recipe's model has {len(shapes)}")
    bits: dict[str, int] = {}
    for entry, (name, shape) in zip(entries, shapes.items()):
        if not (isinstance(entry, list) and len(entry) == 3 and entry[:2] == [name, list(shape)]):
            raise ArtifactError(f"weights: found {str(entry)[:80]} where the recipe's model has {name} {list(shape)}")
        bits[name] = entry[2]
    if not all(type(b) is int and (2 <= b <= 8 or b in RAW_TYPES) for b in bits.values()):
        raise ArtifactError(f"weights: bits are 2..8, 16 or 32, found {sorted(set(map(str, bits.values())))}")
    if books != sorted({b for b in bits.values() if b not in RAW_TYPES}):
        raise ArtifactError("weights: the codebooks are not those of the tensors")
    return bits


def _read_books(reader: ByteReader, widths: list[int], fine_steps: bool) -> Codebooks | None:
    if not widths:
        return None
    steps = Codebook.from_bytes(reader.section("the codebook of the steps"))
    places = Codebook.from_bytes(reader.section("the codebook of fine steps")) if fine_steps else None
    if places and (places.alphabet[0] < 0 or places.alphabet[-1] >= LOW_VALUES):
        raise ArtifactError(f"weights: the codebook of fine steps is outside 0..{LOW_VALUES - 1}")
    values = {bits: Codebook.from_bytes(reader.section(f"the codebook of int{bits}")) for bits in widths}
    for bits, book in values.items():
        largest = (1 << (bits - 1)) - 1
        if np.abs(book.alphabet).max() > largest:
            raise ArtifactError(f"weights: the codebook of int{bits} reaches beyond ±{largest}")
    return Codebooks(values, steps, places)


def _encode(tensor: Quantized | Raw, books: Codebooks | None) -> bytes:
    if isinstance(tensor, Quantized):
        assert books is not None
        return encode_tensor(tensor, books)
    width = tensor.dtype.itemsize
    floats = np.frombuffer(tensor.astype(RAW_TYPES[8 * width]).tobytes(), np.uint8)
    return zlib.compress(floats.reshape(-1, width).T.tobytes(), 9)


def _decode(payload: bytes, name: str, shape: tuple[int, ...], bits: int, books: Codebooks | None) -> Quantized | Raw:
    if bits not in RAW_TYPES and books is not None:
        return decode_tensor(payload, shape, bits, books)
    expected = bits // 8 * math.prod(shape)
    planes = inflate(payload, expected, f"weights: {name}")
    if len(planes) != expected:
        raise ArtifactError(f"weights: {name} has {len(planes)} bytes, {expected} expected")
    floats = np.frombuffer(planes, np.uint8).reshape(bits // 8, -1).T.tobytes()
    values: Raw = np.frombuffer(floats, RAW_TYPES[bits]).reshape(shape)
    if not np.isfinite(values).all():
        raise ArtifactError(f"weights: {name} holds NaN or infinities")
    return values


def _bits(tensor: Quantized | Raw) -> int:
    return tensor.bits if isinstance(tensor, Quantized) else 8 * tensor.dtype.itemsize


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _crc(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little")
