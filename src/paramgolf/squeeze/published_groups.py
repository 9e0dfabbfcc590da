"""The container of #2140, for comparison with our own coder: integers of one kind of matrix in one stream.

Seven groups of integers, one a byte and column by column, the rows of three of them in a greedy order, each stream
compressed by itself; then everything else; then the orders (spec pr2140.md 4.6). Published, the seven go through
`lrzip -z -L 9` and the rest through brotli; here the compressor of the groups is the caller's choice, brotli unless he
makes one. "Everything else" begins with a JSON list of names, shapes and parts where the published file has torch's zip
and a pickle, so our figure is a little kinder to the published form.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import brotli
import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError, RecipeError
from paramgolf.squeeze.quantized import Float32, Int8, LowRank, Quantized, WideColumns, all_integers, group_columns
from paramgolf.squeeze.row_order import nearest_row_order

Tensor = Quantized | npt.NDArray[np.float16]
Codec = Callable[[bytes], bytes]
MAGIC = b"PGRP"
GROUPS = (
    "embedding",
    "attention.key",
    "attention.query",
    "attention.value",
    "attention.output",
    "mlp.up",
    "mlp.down",
)
REORDERED = ("embedding", "attention.query", "mlp.up")
_COUNT = struct.Struct("<I")


def brotli_11(data: bytes) -> bytes:
    """Brotli at its strongest, as for the published remainder."""
    compressed: bytes = brotli.compress(data, quality=11, lgwin=24)
    return compressed


def published_groups(tensors: Mapping[str, Tensor | Float32], compress: Codec = brotli_11) -> bytes:
    """The container: the groups' streams through `compress`, the remainder and the orders through brotli.

    Small tensors become float16. Raises `RecipeError` where a step is no float16 number, as those of clip "search" need
    not be.
    """
    groups, orders = group_streams(tensors)
    streams = [compress(group) if group else b"" for group in groups]
    return join_streams([*streams, brotli_11(_remainder(tensors)), brotli_11(orders) if orders else b""])


def group_streams(tensors: Mapping[str, Tensor | Float32]) -> tuple[list[bytes], bytes]:
    """The seven groups before compression, and the orders of rows as little-endian uint16 in the same traversal."""
    groups, orders = [], []
    for group in GROUPS:
        members = []
        for name in _members(tensors, group):
            tensor = tensors[name]
            assert isinstance(tensor, Quantized)
            values_RC = all_integers(tensor)
            if group in REORDERED:
                order_R = nearest_row_order(values_RC)
                orders.append(order_R.astype("<u2").tobytes())
                values_RC = values_RC[order_R]
            members.append(values_RC.T.tobytes())
        groups.append(b"".join(members))
    return groups, b"".join(orders)


def join_streams(streams: Sequence[bytes]) -> bytes:
    """Magic, the number of streams, their lengths, the streams."""
    lengths = b"".join(_COUNT.pack(len(stream)) for stream in streams)
    return MAGIC + _COUNT.pack(len(streams)) + lengths + b"".join(streams)


def split_streams(data: bytes) -> list[bytes]:
    """What `join_streams` joined; `ArtifactError` if the lengths are not those of the data."""
    if len(data) < 8 or data[:4] != MAGIC:
        raise ArtifactError(f"{len(data)} bytes that are no grouped container")
    (count,) = _COUNT.unpack_from(data, 4)
    place = 8 + 4 * count
    if place > len(data):
        raise ArtifactError(f"a container of {count} streams is cut short at {len(data)} bytes")
    streams = []
    for (length,) in _COUNT.iter_unpack(data[8:place]):
        streams.append(data[place : place + length])
        place += length
    if place != len(data):
        raise ArtifactError(f"the streams of a container end at {place}, the container at {len(data)}")
    return streams


def read_published_groups(data: bytes, decompress: Codec = brotli.decompress) -> dict[str, Tensor]:
    """What `published_groups` was made of: our own files only, as a proof that nothing is missing from their size."""
    *streams, remainder, packed_orders = split_streams(data)
    orders = np.frombuffer(brotli.decompress(packed_orders) if packed_orders else b"", "<u2")
    rest = _Reader(brotli.decompress(remainder))
    entries = json.loads(rest.take(rest.number()))
    integers: dict[str, Int8] = {}
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in entries}
    for group, stream in zip(GROUPS, streams, strict=True):
        reader = _Reader(decompress(stream) if stream else b"")
        for name in [entry["name"] for entry in entries if entry["group"] == group]:
            rows, columns = shapes[name]
            values_RC = np.frombuffer(reader.take(rows * columns), np.int8).reshape(columns, rows).T
            if group in REORDERED:
                order_R, orders = orders[:rows], orders[rows:]
                values_RC = values_RC[np.argsort(order_R)]
            integers[name] = values_RC
        reader.end()
    tensors = {entry["name"]: _read_rest(rest, entry, integers.get(entry["name"])) for entry in entries}
    rest.end()
    return tensors


def _members(tensors: Mapping[str, Tensor | Float32], group: str) -> Iterator[str]:
    """Quantised tensors of a group, by layer: as the model lists them."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Quantized) and _group_of(name) == group:
            yield name


def _group_of(name: str) -> str | None:
    kind = name.removesuffix(".weight")
    if kind == "embedding":
        return kind
    return next((group for group in GROUPS if kind.startswith("blocks.") and kind.endswith(f".{group}")), None)


def _remainder(tensors: Mapping[str, Tensor | Float32]) -> bytes:
    """A header, then of each tensor what no group holds: integers of other tensors, steps, parts, float16."""
    header = json.dumps([_entry(name, tensor) for name, tensor in tensors.items()], separators=(",", ":")).encode()
    return _COUNT.pack(len(header)) + header + b"".join(_rest(name, tensor) for name, tensor in tensors.items())


def _entry(name: str, tensor: Tensor | Float32) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "group": None}
    if isinstance(tensor, Quantized):
        entry |= {"group": _group_of(name), "bits": tensor.bits}
        if tensor.wide is not None:
            entry["wide"] = [tensor.wide.part.bits, tensor.wide.size, list(tensor.wide.starts)]
        if tensor.correction is not None:
            factors = (tensor.correction.left, tensor.correction.right)
            entry["factors"] = [[f.bits, list(f.values.shape), list(f.shape)] for f in factors]
    return entry


def _rest(name: str, tensor: Tensor | Float32) -> bytes:
    if not isinstance(tensor, Quantized):
        return tensor.astype("<f2").tobytes()
    parts = [] if _group_of(name) else [all_integers(tensor).tobytes()]
    parts.append(_half(name, tensor.scales))
    if tensor.wide is not None:
        parts.append(_half(name, tensor.wide.part.scales))
    if tensor.correction is not None:
        for factor in (tensor.correction.left, tensor.correction.right):
            parts += [factor.values.tobytes(), _half(name, factor.scales)]
    return b"".join(parts)


def _half(name: str, scales: Float32) -> bytes:
    steps = scales.astype("<f2")
    if (steps.astype(np.float32) != scales).any():
        raise RecipeError(f"{name} has steps that are no float16 numbers; the published container holds only those")
    return steps.tobytes()


class _Reader:
    """A cursor over bytes of our own making."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, count: int) -> bytes:
        if self._place + count > len(self._data):
            raise ArtifactError(f"{count} bytes are wanted at {self._place} of {len(self._data)}")
        self._place += count
        return self._data[self._place - count : self._place]

    def number(self) -> int:
        return int(_COUNT.unpack(self.take(_COUNT.size))[0])

    def steps(self, count: int) -> Float32:
        return np.frombuffer(self.take(2 * count), "<f2").astype(np.float32)

    def end(self) -> None:
        if self._place != len(self._data):
            raise ArtifactError(f"{len(self._data) - self._place} bytes follow the last tensor")


def _read_rest(reader: _Reader, entry: dict[str, Any], values_RC: Int8 | None) -> Tensor:
    shape = tuple(entry["shape"])
    count = int(np.prod(shape, dtype=np.int64))
    if "bits" not in entry:
        return np.frombuffer(reader.take(2 * count), "<f2").reshape(shape)
    rows = shape[0] if len(shape) > 1 else 1
    if values_RC is None:
        values_RC = np.frombuffer(reader.take(count), np.int8).reshape(rows, -1)
    scales_R, wide, correction = reader.steps(rows), None, None
    if "wide" in entry:
        bits, size, starts = entry["wide"]
        columns_W = group_columns(starts, size)
        part = Quantized(values_RC[:, columns_W], reader.steps(rows), bits, (rows, len(columns_W)))
        wide = WideColumns(tuple(starts), size, part)
        values_RC = np.delete(values_RC, columns_W, axis=1)
    if "factors" in entry:
        correction = LowRank(*(_read_factor(reader, *factor) for factor in entry["factors"]))
    return Quantized(values_RC, scales_R, entry["bits"], shape, wide, correction)


def _read_factor(reader: _Reader, bits: int, stored: list[int], shape: list[int]) -> Quantized:
    values = np.frombuffer(reader.take(stored[0] * stored[1]), np.int8).reshape(stored)
    return Quantized(values, reader.steps(stored[0]), bits, tuple(shape))
