"""How many raw bytes each token of a held-out shard stands for, in a file beside the shard (spec pr2140.md 1.1, 1.4).

The file is a shard file whose entries are bytes: `NAME_val_bytes_NNNNNN.bin` beside `NAME_val_NNNNNN.bin`, as many
entries as the shard has tokens. BOS stands for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ShardError
from paramgolf.text.shards import HEADER_BYTES, Uint16, read_shard

MOST_BYTES = 65535  # of one token: an entry has 16 bits
_MARK = "_bytes_"


def is_sidecar(name: str) -> bool:
    """Whether a file of this name holds bytes, not tokens; the contest's own pattern for shards matches both."""
    return f"_val{_MARK}" in name


def sidecar_path(shard: Path) -> Path:
    """The sidecar of a held-out shard."""
    stem, _, number = shard.name.rpartition("_")
    return shard.with_name(f"{stem}{_MARK}{number}")


def sidecar_entries(counts: npt.ArrayLike, where: str) -> Uint16:
    """Bytes of a document's tokens as entries; raises `ShardError` if a token stands for more than 65,535.

    That takes a run of white space which one token of a normalising model swallows.
    """
    array = np.asarray(counts).ravel()
    if array.size and int(array.max()) > MOST_BYTES:
        at = int(array.argmax())
        raise ShardError(
            f"{where}: token {at} stands for {int(array[at]):,} bytes, an entry of a sidecar holds {MOST_BYTES:,};\n"
            "shorten that run of white space, or use a tokenizer that does not normalise"
        )
    return array.astype("<u2")


def read_sidecar(shard: Path, boundary_id: int | None = None) -> Uint16:
    """Bytes uint16 [n] that the n tokens of `shard` stand for, memory-mapped read-only.

    Raises `ShardError` for a file that is missing or no shard file, has another length than the shard (both are named),
    or, if `boundary_id` is given, charges bytes for a boundary.
    """
    path = sidecar_path(shard)
    entries = read_shard(path)
    check_entries(entries, path.name, shard, boundary_id)
    return entries


def check_entries(entries: Uint16, name: str, shard: Path, boundary_id: int | None) -> None:
    """Raise `ShardError` unless the entries of the sidecar `name` fit the tokens of its shard."""
    ids = read_shard(shard)
    if len(entries) != len(ids):
        raise ShardError(
            f"{name} has {len(entries):,} entries, {shard.name} has {len(ids):,} tokens; they are not of one make "
            f"(both in {shard.parent})"
        )
    if boundary_id is not None:
        charged = np.flatnonzero((ids == boundary_id) & (entries > 0))
        if len(charged):
            at = int(charged[0])
            raise ShardError(
                f"{name}: offset {HEADER_BYTES + 2 * at}: expected 0 bytes for a BOS, found {int(entries[at])}"
            )


def check_sidecars(shards: Sequence[Path], sidecars: Iterable[Path], boundary_id: int | None) -> None:
    """Raise `ShardError` unless there are none, or every shard has one of its length and each belongs to a shard."""
    found = set(sidecars)
    if not found:
        return
    wanted = {sidecar_path(shard): shard for shard in shards}
    for path in sorted(found - wanted.keys()):
        raise ShardError(f"{path} belongs to no shard: {path.name.replace(_MARK, '_')} is missing; fetch or remove it")
    for path, shard in wanted.items():
        if path not in found:
            raise ShardError(f"{shard} has no sidecar {path.name}, other shards of the folder have theirs")
        read_sidecar(shard, boundary_id)
