"""A run's state in one file, safetensors with a JSON record in its header: no pickle, checked, replaced atomically."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from paramgolf.errors import RunError
from paramgolf.run_folder import write_atomically
from paramgolf.train.state import Tensors

CHECKPOINT = "checkpoint.safetensors"
VERSION = 2


@dataclass(frozen=True)
class CheckpointRecord:
    """What goes beside the tensors: which run and data they belong to, its ledger so far, whether training is over."""

    fingerprint: str
    vocab_size: int
    data_digest: str
    ledger: list[dict[str, object]]
    finished: bool


def save_checkpoint(path: Path, tensors: Tensors, record: CheckpointRecord) -> None:
    """Write the file whole or leave the older one; raises `OutputError` on a full disk."""
    cpu = {name: value.cpu() for name, value in tensors.items()}
    described = json.dumps({"version": VERSION, **asdict(record)})
    metadata = {"record": described, "checksum": str(_checksum(cpu, described))}
    write_atomically(path, safetensors.torch.save(cpu, metadata=metadata))


def load_checkpoint(path: Path) -> tuple[Tensors, CheckpointRecord]:
    """Read a file back; `RunError` with the path if it is truncated, changed in any byte, or of another version."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    try:
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        described, checksum = metadata["record"], int(metadata["checksum"])
        tensors = safetensors.torch.load(data)
        found = _checksum(tensors, described)
        fields = json.loads(described)
        version = fields.pop("version")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise RunError(f"{path} is damaged ({len(data):,} bytes): {error}; {_NEXT}") from None
    if found != checksum:
        raise RunError(f"{path} is damaged: checksum {found}, expected {checksum}; {_NEXT}")
    if version != VERSION:
        raise RunError(f"{path} has format version {version}, this program reads {VERSION}; {_NEXT}")
    return tensors, CheckpointRecord(**fields)


_NEXT = "move it away to train from the start"


def _checksum(tensors: Tensors, record: str) -> int:
    total = zlib.crc32(record.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), total)
        total = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return total
