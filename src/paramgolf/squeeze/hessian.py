"""Second moments of a layer's inputs, by which errors of its weights are weighed, and the file that keeps them.

Legend: C columns of a matrix, which are the channels of its inputs. The Hessian of a matrix with inputs `x` is the mean
over calibration sequences of the sum of `x xᵀ`, [C, C]; rounding a row to one that is off by `d` costs `d H dᵀ`
(Frantar et al. 2022, GPTQ; spec pr1430.md 3.1, without the factor 2, which changes nothing).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from paramgolf.errors import RecipeError, RunError
from paramgolf.run_folder import write_atomically
from paramgolf.squeeze.quantized import Float32, Float64

HESSIANS = "hessians.safetensors"
ASYMMETRY = 1e-4  # of the largest entry: float32 sums in another order differ by less
Hessians = Mapping[str, Float32]


@dataclass(frozen=True)
class HessianRecord:
    """Which weights the inputs were made by (`weights_digest` of them), and how many sequences they come from."""

    weights: str
    sequences: int


def require_columns(hessian: Float32 | Float64, columns: int, name: str = "") -> None:
    """Raise `RecipeError` unless the Hessian is square of that size."""
    if hessian.shape != (columns, columns):
        of = f" of {name}" if name else ""
        raise RecipeError(
            f"a Hessian{of} of shape {hessian.shape} for {columns} columns; it should be square of that size"
        )


def checked_hessian(hessian: Float32 | Float64, name: str = "") -> Float64:
    """The Hessian as float64; `RecipeError` unless it is square, finite, symmetric, its diagonal not negative."""
    require_columns(hessian, hessian.shape[-1], name)
    of = f" of {name}" if name else ""
    exact_CC = hessian.astype(np.float64)
    bad = int((~np.isfinite(exact_CC)).sum())
    if bad:
        raise RecipeError(f"{bad:,} entries of the Hessian{of} are not finite; calibrate again")
    least, peak = float(np.diagonal(exact_CC).min()), float(np.abs(exact_CC).max())
    if least < 0:
        raise RecipeError(f"the Hessian{of} has {least:.3g} on its diagonal; a mean of squares is not negative")
    lopsided = float(np.abs(exact_CC - exact_CC.T).max())
    if lopsided > ASYMMETRY * peak:
        raise RecipeError(
            f"the Hessian{of} is not symmetric: entries differ by {lopsided:.3g} where {peak:.3g} is most"
        )
    return exact_CC


def weights_digest(weights: Mapping[str, Float32]) -> str:
    """Eight hex digits that change with any weight."""
    total = 0
    for name in sorted(weights):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(weights[name], dtype=np.float32).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def save_hessians(path: Path, hessians: Hessians, record: HessianRecord) -> None:
    """Write one file whole, each array once however many matrices share it; raises `OutputError` on a full disk."""
    first: dict[int, str] = {}
    shared = {name: first.setdefault(id(hessian), name) for name, hessian in hessians.items()}
    arrays = {name: np.ascontiguousarray(hessians[name], dtype=np.float32) for name in first.values()}
    checksum = zlib.crc32(b"".join(struct.pack("<I", zlib.crc32(array.data)) for array in arrays.values()))
    described = {"shared": shared, "checksum": checksum, **asdict(record)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata={"record": json.dumps(described)}))


def load_hessians(path: Path) -> tuple[dict[str, Float32], HessianRecord]:
    """Read a file back; `RunError` if it is missing or damaged. Matrices that share one get the same array."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    try:
        (length,) = struct.unpack_from("<Q", data)
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["record"])
        arrays = safetensors.numpy.load(data)
        shared: dict[str, str] = described["shared"]
        stored = dict.fromkeys(shared.values())
        checksum = zlib.crc32(b"".join(struct.pack("<I", zlib.crc32(arrays[name].data)) for name in stored))
        record = HessianRecord(str(described["weights"]), int(described["sequences"]))
        hessians = {name: arrays[source] for name, source in shared.items()}
        expected = int(described["checksum"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RunError(f"{path} is damaged ({len(data):,} bytes): {error}; calibrate again") from None
    if checksum != expected:
        raise RunError(f"{path} is damaged: checksum {checksum}, expected {expected}; calibrate again")
    return hessians, record
