"""`weights.bin`: the checked binary format of the weights. No pickle, no code, nothing that is trusted.

    magic "PGOLFWTS", version u32
    section  header: deflated JSON {"tensors": [[name, shape, bits], ...], "main": books, "factors": books}, where a
             tensor with further parts has a fourth entry {"wide": [bits, size, starts], "low_rank": [form, rank]},
             either of the two alone or both, and books are {"widths": [bits, ...], "fine_steps": bool}
    section  of the main books, then of the factors': codebook of the steps, one of the places of fine steps if there
             are any, one for each of the widths
    section  one for each tensor: its code (squeeze.coder); when bits are 16 or 32 its little-endian floats, deflated:
             the first byte of each, then the second of each, ... (exponents shrink, mantissas hardly). After it one for
             its wide columns, and two for the factors of its correction, if it has them
    CRC-32 of all bytes before it

A section is: length u32, CRC-32 u32, bytes. Integers are little-endian. Factors have tables of their own: their
integers reach one further below 0 than those of the weights.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.artifact.reader import ByteReader, inflate, parse_json_object, section
from paramgolf.artifact.weights_layout import RAW_TYPES, Layout, describe_parts, factors_of, plain_parts
from paramgolf.errors import ArtifactError
from paramgolf.squeeze.codebook import Codebook
from paramgolf.squeeze.coder import Codebooks, code_tensors, decode_tensor
from paramgolf.squeeze.quantized import LOW_VALUES, Quantized, dequantize

Float32 = npt.NDArray[np.float32]
Raw = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Shapes = Mapping[str, tuple[int, ...]]

MAGIC = b"PGOLFWTS"
VERSION = 3
MAX_PARAMETERS = 1 << 28  # a gigabyte of float32
MAX_TENSORS = 16_384
MAX_HEADER = 1 << 20
_FRONT = struct.Struct("<8sI")


@dataclass(frozen=True)
class WeightsFile:
    """The bytes of `weights.bin`, and how many of them each tensor takes (the rest are tables and headers)."""

    data: bytes
    bytes_by_tensor: Mapping[str, int]


def write_weights(tensors: Mapping[str, Quantized | Raw]) -> WeightsFile:
    """The file for tensors that are quantised, or raw floats; the same tensors always give the same bytes."""
    quantised = [tensor for tensor in tensors.values() if isinstance(tensor, Quantized)]
    main, plain = _code([part for tensor in quantised for part in plain_parts(tensor)])
    factors, further = _code([factor for tensor in quantised for factor in factors_of(tensor)])
    header = {
        "tensors": [_entry(name, tensor) for name, tensor in tensors.items()],
        "main": _describe(main),
        "factors": _describe(factors),
    }
    parts = [_FRONT.pack(MAGIC, VERSION), section(zlib.compress(_json(header), 9))]
    parts += [section(book.to_bytes()) for books in (main, factors) for book in _in_order(books)]
    codes = {name: _sections(tensor, plain, further) for name, tensor in tensors.items()}
    body = b"".join([*parts, *codes.values()])
    return WeightsFile(body + _crc(body), {name: len(code) for name, code in codes.items()})


def _code(tensors: list[Quantized]) -> tuple[Codebooks | None, Iterator[bytes]]:
    books, codes = code_tensors(tensors) if tensors else (None, [])
    return books, iter(codes)


def _describe(books: Codebooks | None) -> dict[str, Any]:
    return {"widths": sorted(books.values) if books else [], "fine_steps": bool(books and books.places)}


def _in_order(books: Codebooks | None) -> list[Codebook]:
    if books is None:
        return []
    return [books.steps, *([books.places] if books.places else []), *books.values.values()]


def _entry(name: str, tensor: Quantized | Raw) -> list[Any]:
    bits = tensor.bits if isinstance(tensor, Quantized) else 8 * tensor.dtype.itemsize
    further = describe_parts(tensor) if isinstance(tensor, Quantized) else {}
    return [name, list(tensor.shape), bits, *([further] if further else [])]


def read_weights(data: bytes, shapes: Shapes) -> dict[str, Float32]:
    """The weights as float32, in the order of `shapes`, which says what must be there.

    Nothing is allocated before its size agreed with `shapes`. Raises `ArtifactError` on any damage, on tensors that
    are missing, unknown or of another shape, and on numbers that are not finite.
    """
    tensors = read_tensors(data, shapes)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = {name: as_float32(tensor) for name, tensor in tensors.items()}
    endless = [name for name, values in weights.items() if not np.isfinite(values).all()]
    if endless:
        raise ArtifactError(f"weights: {', '.join(endless[:4])} has steps so large that its weights are not finite")
    return weights


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
    if magic == MAGIC and version < VERSION:
        raise ArtifactError(
            f"weights: they are of version {version}, which an earlier paramgolf wrote; this one reads version "
            f"{VERSION}: pack the run again, or run the file by itself, for it carries its reader"
        )
    if magic != MAGIC or version != VERSION:
        raise ArtifactError(f"weights: magic {magic!r} version {version}; expected {MAGIC!r} version {VERSION}")
    header = parse_json_object(
        inflate(reader.section("the header"), MAX_HEADER, "weights: the header"), "weights: the header"
    )
    layouts = _check_header(header, shapes)
    main = _read_books(reader, header["main"], "", below=0)
    factors = _read_books(reader, header["factors"], " of the factors", below=1)
    tensors = {name: _read_tensor(reader, layout, main, factors) for name, layout in layouts.items()}
    reader.end()
    return tensors


def _check_header(header: dict[str, Any], shapes: Shapes) -> dict[str, Layout]:
    """How each tensor is stored, once names, order and shapes are those of the model."""
    kinds = {name: type(part) for name, part in header.items()}
    if kinds != {"tensors": list, "main": dict, "factors": dict}:
        raise ArtifactError("weights: the header should list tensors, and describe the books of main and factors")
    for books in (header["main"], header["factors"]):
        if {name: type(part) for name, part in books.items()} != {"widths": list, "fine_steps": bool}:
            raise ArtifactError("weights: books should list widths, and say whether steps are fine")
    entries = header["tensors"]
    if len(entries) != len(shapes) or len(entries) > MAX_TENSORS:
        raise ArtifactError(f"weights: {len(entries)} tensors, the recipe's model has {len(shapes)}")
    layouts: dict[str, Layout] = {}
    for entry, (name, shape) in zip(entries, shapes.items()):
        if not (isinstance(entry, list) and len(entry) in (3, 4) and entry[:2] == [name, list(shape)]):
            raise ArtifactError(f"weights: found {str(entry)[:80]} where the recipe's model has {name} {list(shape)}")
        layouts[name] = Layout.of(name, shape, entry[2], entry[3] if len(entry) == 4 else {})
    for which, widths in (("main", "widths"), ("factors", "factor_widths")):
        if header[which]["widths"] != sorted({b for layout in layouts.values() for b in getattr(layout, widths)()}):
            raise ArtifactError("weights: the codebooks are not those of the tensors")
    return layouts


def _read_books(reader: ByteReader, described: dict[str, Any], of: str, below: int) -> Codebooks | None:
    """Tables of integers that reach `below` further below 0 than above it."""
    if not described["widths"]:
        return None
    steps = Codebook.from_bytes(reader.section(f"the codebook{of} of the steps"))
    places = Codebook.from_bytes(reader.section(f"the codebook{of} of fine steps")) if described["fine_steps"] else None
    if places and (places.alphabet[0] < 0 or places.alphabet[-1] >= LOW_VALUES):
        raise ArtifactError(f"weights: the codebook{of} of fine steps is outside 0..{LOW_VALUES - 1}")
    values = {
        bits: Codebook.from_bytes(reader.section(f"the codebook{of} of int{bits}")) for bits in described["widths"]
    }
    for bits, book in values.items():
        largest = (1 << (bits - 1)) - 1
        if book.alphabet[0] < -largest - below or book.alphabet[-1] > largest:
            raise ArtifactError(f"weights: the codebook{of} of int{bits} reaches beyond ±{largest}")
    return Codebooks(values, steps, places)


def _sections(tensor: Quantized | Raw, plain: Iterator[bytes], factors: Iterator[bytes]) -> bytes:
    """All sections of a tensor, whose codes come next."""
    if isinstance(tensor, Quantized):
        codes = [next(plain) for _ in plain_parts(tensor)] + [next(factors) for _ in factors_of(tensor)]
        return b"".join(map(section, codes))
    width = tensor.dtype.itemsize
    floats = np.frombuffer(tensor.astype(RAW_TYPES[8 * width]).tobytes(), np.uint8)
    return section(zlib.compress(floats.reshape(-1, width).T.tobytes(), 9))


def _read_tensor(
    reader: ByteReader, layout: Layout, main: Codebooks | None, factors: Codebooks | None
) -> Quantized | Raw:
    if layout.bits in RAW_TYPES:
        return _read_raw(reader.section(layout.name), layout)
    assert main is not None  # there is one for every width
    rows = layout.rows()
    plain = [
        decode_tensor(reader.section(layout.name), (rows, columns), bits, main) for columns, bits in layout.parts()
    ]
    low_rank = [
        replace(decode_tensor(reader.section(f"a factor of {layout.name}"), stored, bits, factors), shape=shape)
        for stored, shape, bits in layout.factors()
        if factors is not None
    ]
    return layout.compose(plain, low_rank)


def _read_raw(payload: bytes, layout: Layout) -> Raw:
    name, bits, shape = layout.name, layout.bits, layout.shape
    expected = bits // 8 * math.prod(shape)
    planes = inflate(payload, expected, f"weights: {name}")
    if len(planes) != expected:
        raise ArtifactError(f"weights: {name} has {len(planes)} bytes, {expected} expected")
    floats = np.frombuffer(planes, np.uint8).reshape(bits // 8, -1).T.tobytes()
    values: Raw = np.frombuffer(floats, RAW_TYPES[bits]).reshape(shape)
    if not np.isfinite(values).all():
        raise ArtifactError(f"weights: {name} holds NaN or infinities")
    return values


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _crc(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little")
