"""The container of #549, for comparison with our own coder: nothing is coded tightly, xz finds what it can.

The payload holds, in the tensors' order, integers one a byte, float16 steps after them, and small tensors as float16
(spec pr549.md 4.5). In front stands a JSON list of names, shapes and bits where the published file has torch's zip of
one member a tensor and a pickle, some 60 kB of which most is padding and repetition: 27.20 MB against 27,138,232 bytes
of payload in the record configuration, before compression. So our figure is a little kinder to the published form.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError, RecipeError
from paramgolf.squeeze.quantized import Quantized

Half = npt.NDArray[np.float16]
Tensor = Quantized | Half
PRESETS = {"xz 6": 6, "xz 9e": 9 | lzma.PRESET_EXTREME}  # published, and the strongest (spec pr549.md 7-B18)
_LENGTH = struct.Struct("<I")


def published_payload(tensors: Mapping[str, Tensor | npt.NDArray[np.float32]]) -> bytes:
    """What the published file holds before compression, without its header.

    Raises `RecipeError` where a step is no float16 number, as those of clip "search" need not be; small tensors are
    rounded to float16.
    """
    return b"".join(_tensor_bytes(name, tensor) for name, tensor in tensors.items())


def published_file(tensors: Mapping[str, Tensor | npt.NDArray[np.float32]], preset: int = 6) -> bytes:
    """Header and payload in an xz container with CRC64."""
    entries = [[name, list(t.shape), t.bits if isinstance(t, Quantized) else 16] for name, t in tensors.items()]
    header = json.dumps(entries, separators=(",", ":")).encode()
    return lzma.compress(_LENGTH.pack(len(header)) + header + published_payload(tensors), preset=preset)


def read_published(data: bytes) -> dict[str, Tensor]:
    """What `published_file` was made of: our own files only, as a proof that nothing is missing from their size."""
    raw = lzma.decompress(data)
    (length,) = _LENGTH.unpack_from(raw)
    place = _LENGTH.size + length
    tensors: dict[str, Tensor] = {}
    for name, shape, bits in json.loads(raw[_LENGTH.size : place]):
        tensors[name], place = _read_tensor(raw, place, tuple(shape), bits)
    if place != len(raw):
        raise ArtifactError(f"{len(raw) - place} bytes follow the last tensor")
    return tensors


def _tensor_bytes(name: str, tensor: Tensor | npt.NDArray[np.float32]) -> bytes:
    if not isinstance(tensor, Quantized):
        return tensor.astype("<f2").tobytes()
    steps = tensor.scales.astype("<f2")
    if (steps.astype(np.float32) != tensor.scales).any():
        raise RecipeError(f"{name} has steps that are no float16 numbers; the published container holds only those")
    return tensor.values.tobytes() + steps.tobytes()


def _read_tensor(raw: bytes, place: int, shape: Sequence[int], bits: int) -> tuple[Tensor, int]:
    count = int(np.prod(shape, dtype=np.int64))
    if bits == 16:
        return np.frombuffer(raw, "<f2", count, place).reshape(shape), place + 2 * count
    rows = shape[0] if len(shape) > 1 else 1
    values_RC = np.frombuffer(raw, np.int8, count, place).reshape(rows, -1)
    scales_R = np.frombuffer(raw, "<f2", rows, place + count).astype(np.float32)
    return Quantized(values_RC, scales_R, bits, tuple(shape)), place + count + 2 * rows
