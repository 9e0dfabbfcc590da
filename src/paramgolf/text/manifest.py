"""The manifest of a shard folder: what the files are, and from which text and tokenizer they were made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from paramgolf.errors import ShardError
from paramgolf.text.tokenizer import Tokenizer

MANIFEST = "manifest.json"
FORMAT = "paramgolf-shards"
TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "caseops": "tokenizer_caseops.model", "bytes": "tokenizer.json"}
TRAIN_GLOB, HELD_OUT_GLOB = "*_train_*.bin", "*_val_*.bin"  # the second finds sidecars too


def read_manifest(path: Path) -> dict[str, Any]:
    """The folder's manifest, or an empty one; raise `ShardError` if it is not the manifest of these files."""
    file = path / MANIFEST
    if not file.exists():
        return {}
    try:
        manifest = json.loads(file.read_bytes())
        if manifest.get("format") != FORMAT:
            return {}
        missing = sorted(set(manifest["files"]) - {entry.name for entry in path.iterdir()})
        shards = {shard.name for glob in (TRAIN_GLOB, HELD_OUT_GLOB) for shard in path.glob(glob)}
        unlisted = sorted(shards - set(manifest["files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{file} is no manifest: {error}") from None
    if missing:
        raise ShardError(f"{path} lacks {', '.join(missing)}, which {MANIFEST} lists")
    if unlisted:
        raise ShardError(
            f"{path} holds {', '.join(unlisted)}, which {MANIFEST} does not list: remove what is not its own"
        )
    return dict(manifest)


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The manifest's entry for a tokenizer."""
    return {
        "kind": tokenizer.kind,
        "digest": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
        "boundary_id": tokenizer.boundary_id,
        "lossless": tokenizer.lossless,
    }
