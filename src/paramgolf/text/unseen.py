"""Is a held-out document among the documents of training shards? Compared by the hash of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import LeakError
from paramgolf.text.shard_documents import documents_of
from paramgolf.text.shards import Uint16
from paramgolf.text.text import HeldOutText
from paramgolf.text.tokenizer import Tokenizer

LEAST_BYTES = 64  # of a document that is looked for: shorter ones may be alike by chance


def require_unseen(held_out: HeldOutText, tokenizer: Tokenizer, shards: Sequence[Uint16], where: str) -> None:
    """Raise `LeakError` with their number if documents of `held_out` are in the training shards of `tokenizer`."""
    seen = seen_documents(held_out, tokenizer, shards)
    if seen:
        raise LeakError(
            f"{len(seen):,} of {len(held_out.documents):,} held-out documents are also in the training shards of "
            f"{where}, the first is document {min(seen):,};\nhold out others (--leave-out-copies drops them), or "
            "prepare the training shards again"
        )


def seen_documents(held_out: HeldOutText, tokenizer: Tokenizer, shards: Sequence[Uint16]) -> set[int]:
    """Which documents of `held_out` are in the training shards of `tokenizer`, copies among them each.

    Works for shards of any making, as long as each document begins with the tokenizer's BOS.
    """
    wanted: dict[bytes, list[int]] = {}
    for index, document in enumerate(held_out.documents):
        if len(document) >= LEAST_BYTES:
            wanted.setdefault(_hash(tokenizer.encode(document)), []).append(index)
    hashes = (_hash(ids) for ids in documents_of(shards, tokenizer.boundary_id))
    return {index for found in hashes for index in wanted.get(found, ())}


def _hash(ids: npt.NDArray[np.integer]) -> bytes:
    return hashlib.sha256(ids.astype("<u2").tobytes()).digest()
