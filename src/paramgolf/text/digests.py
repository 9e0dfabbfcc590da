"""Digests of files: SHA-256, and git's SHA-1 of a blob, by which the hub names its small files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["sha256", "git-sha1"]
_KINDS: dict[int, Kind] = {64: "sha256", 40: "git-sha1"}
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Digest:
    """A digest in lower-case hex, and of which kind it is."""

    kind: Kind
    hex: str

    @classmethod
    def of_etag(cls, etag: str | None) -> Digest | None:
        """The digest that an HTTP entity tag holds, None if it holds none that is known here."""
        value = (etag or "").strip().removeprefix("W/").strip('"').lower()
        kind = _KINDS.get(len(value)) if re.fullmatch(r"[0-9a-f]+", value) else None
        return None if kind is None else cls(kind, value)

    def of_same_kind(self, content: bytes) -> Digest:
        """The digest of `content`."""
        hasher = _hasher(self.kind, len(content))
        hasher.update(content)
        return Digest(self.kind, hasher.hexdigest())


def file_digests(path: Path, *kinds: Kind) -> dict[str, Digest]:
    """Digests of a file by kind, read once; raises `OSError`."""
    hashers = {kind: _hasher(kind, path.stat().st_size) for kind in kinds}
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_AT_ONCE):
            for hasher in hashers.values():
                hasher.update(chunk)
    return {kind: Digest(kind, hasher.hexdigest()) for kind, hasher in hashers.items()}


def _hasher(kind: Kind, size: int) -> hashlib._Hash:
    if kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
