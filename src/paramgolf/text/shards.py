"""The contest's shard file: 256 int32 of header, then token ids as uint16 (spec pr549 section 1.1).

| offset | type | content |
|---|---|---|
| 0 | int32 LE | magic 20240520 |
| 4 | int32 LE | version 1 |
| 8 | int32 LE | number of tokens n, below 2^31 |
| 12 | 253 x int32 | zero when written, not looked at when read |
| 1024 | n x uint16 LE | token ids, nothing after them |
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paramgolf.errors import OutputError, ShardError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 1024
MOST_TOKENS = 2**31 - 1
Uint16 = npt.NDArray[np.uint16]
_SCAN = 1 << 24  # tokens looked at together when ids are checked


def shard_header(tokens: int) -> bytes:
    """The 1024 bytes in front of `tokens` ids."""
    if not 0 <= tokens <= MOST_TOKENS:
        raise ShardError(f"a shard holds 0..{MOST_TOKENS} tokens, not {tokens}")
    return struct.pack("<3i", MAGIC, VERSION, tokens).ljust(HEADER_BYTES, b"\0")


def shard_ids(ids: npt.ArrayLike, where: str) -> Uint16:
    """`ids` as uint16; raise `ShardError` if one does not fit."""
    array = np.asarray(ids).ravel()
    if array.size and (int(array.min()) < 0 or int(array.max()) > 65535):
        raise ShardError(f"{where}: token ids {int(array.min())}..{int(array.max())} do not fit into 0..65535")
    return array.astype("<u2")


def write_shard(path: Path, ids: npt.ArrayLike) -> None:
    """Write a new shard; raise `OutputError` if `path` exists or cannot be written, `ShardError` for other ids."""
    tokens = shard_ids(ids, str(path))
    header = shard_header(len(tokens))
    try:
        with path.open("xb") as file:
            file.write(header)
            file.write(tokens.tobytes())
    except FileExistsError:
        raise OutputError(f"{path} exists; choose another name") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def read_shard(path: Path, vocab_size: int | None = None) -> Uint16:
    """Token ids uint16 [n], memory-mapped read-only.

    Raises `ShardError` with file, offset, expected and found for a wrong magic, version, count or size, and, if
    `vocab_size` is given, for an id that is not below it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise ShardError(f"cannot read shard {path}: {error.strerror}") from None
    if len(header) < HEADER_BYTES:
        raise ShardError(f"{path}: offset {len(header)}: expected {HEADER_BYTES} bytes of header, found {len(header)}")
    magic, version, tokens = struct.unpack_from("<3i", header)
    if magic != MAGIC:
        raise ShardError(f"{path}: offset 0: expected magic {MAGIC}, found {magic}; this is no token shard")
    if version != VERSION:
        raise ShardError(f"{path}: offset 4: expected version {VERSION}, found {version}")
    if tokens < 0 or size != HEADER_BYTES + 2 * tokens:
        expected = f"{tokens} tokens, a file of {HEADER_BYTES + 2 * tokens} bytes" if tokens >= 0 else "a count >= 0"
        raise ShardError(f"{path}: offset 8: expected {expected}, found count {tokens} in a file of {size} bytes")
    if tokens == 0:
        return np.zeros(0, dtype=np.uint16)
    ids = np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(tokens,))
    if vocab_size is not None:
        check_ids(path, ids, vocab_size)
    return ids


def check_ids(path: Path, ids: Uint16, vocab_size: int) -> None:
    """Raise `ShardError` with the offset of the first id that is not below `vocab_size`."""
    if vocab_size > 65535:
        return
    for start in range(0, len(ids), _SCAN):
        part = ids[start : start + _SCAN]
        if int(part.max()) >= vocab_size:
            at = start + int(np.argmax(part >= vocab_size))
            raise ShardError(
                f"{path}: offset {HEADER_BYTES + 2 * at}: expected an id below {vocab_size}, found {int(ids[at])} "
                f"(token {at}); the shard was made with another tokenizer"
            )
