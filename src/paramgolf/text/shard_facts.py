"""What one pass over a shard tells, and whether it belongs to a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ShardError
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer
from paramgolf.text.shards import HEADER_BYTES, check_ids, read_shard

KnownTokenizer = SentencePieceTokenizer | CaseOpsTokenizer | ByteTokenizer
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ShardFacts:
    """`tokens` of a shard, `documents` that begin in it, and the bytes that its tokens decode to."""

    tokens: int
    documents: int
    text_bytes: int


def shard_facts(path: Path, tokenizer: KnownTokenizer, *, begins_stream: bool) -> ShardFacts:
    """Read a shard once and check it against its tokenizer.

    Raises `ShardError` for a wrong header, size or id, and if the stream that the shard begins does not start with the
    tokenizer's BOS.
    """
    ids = read_shard(path)
    counts = count_ids(ids)
    if counts[tokenizer.vocab_size :].any():
        check_ids(path, ids, tokenizer.vocab_size)
    if begins_stream and len(ids) and int(ids[0]) != tokenizer.boundary_id:
        raise ShardError(
            f"{path}: offset {HEADER_BYTES}: expected the stream to begin with the tokenizer's BOS "
            f"{tokenizer.boundary_id}, found {int(ids[0])}; the shard was made with another tokenizer"
        )
    if isinstance(tokenizer, CaseOpsTokenizer):
        text_bytes = tokenizer.total_bytes(ids)
    else:
        text_bytes = int(counts[: tokenizer.vocab_size] @ tokenizer.piece_bytes.lengths)
    return ShardFacts(len(ids), int(counts[tokenizer.boundary_id]), text_bytes)


def count_ids(ids: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """How often each of the 65,536 ids occurs, int64."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for start in range(0, len(ids), _AT_ONCE):
        counts += np.bincount(ids[start : start + _AT_ONCE], minlength=1 << 16)
    return counts
