"""The text that a verb was given: a file, a container, a folder of text, or a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.errors import TextError

if TYPE_CHECKING:
    from paramgolf.text.text import HeldOutText
    from paramgolf.text.tokenizer import Tokenizer


def held_out_text(path: Path, tokenizer: Tokenizer | None = None) -> HeldOutText:
    """The held-out text at `path`; of a shard folder its held-out side.

    `tokenizer` is for a folder of shards that has none of its own. Raises `TextError` for no text, and for shards
    whose raw bytes are known not to come back because their tokenizer changes text. Of the contest's shards the text
    is what their tokens decode to, as in the contest's own count of bytes (spec pr549.md 1.6).
    """
    from paramgolf.text.documents import read_documents
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.text import HeldOutText

    if not _has_shards(path):
        return HeldOutText(path.name or str(path), read_documents([path]))
    folder = ShardFolder.open(path, None if _has_tokenizer(path) else tokenizer)
    differ = folder.manifest.get("held_out", {}).get("documents_that_differ")
    if differ:
        raise TextError(
            f"{path}: {differ} held-out documents do not come back from their tokens, so their bytes are unknown; "
            "score the text itself"
        )
    return folder.held_out_text()


def _has_shards(path: Path) -> bool:
    from paramgolf.text.manifest import HELD_OUT_GLOB, TRAIN_GLOB

    return path.is_dir() and any(next(path.glob(glob), None) is not None for glob in (HELD_OUT_GLOB, TRAIN_GLOB))


def _has_tokenizer(path: Path) -> bool:
    from paramgolf.text.manifest import TOKENIZER_FILES

    return any((path / name).is_file() for name in TOKENIZER_FILES.values())
