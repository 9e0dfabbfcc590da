"""A name for what a run is trained on, cheap enough for 16 GB of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EDGE_TOKENS = 1 << 19


def data_digest(shards: Sequence[npt.NDArray[np.integer]], tokenizer_digest: str, text_digest: str = "") -> str:
    """SHA-256 (hex) of the tokenizer, the text's own digest if one is known, and each shard's size and both ends.

    At most the first and the last 524,288 tokens of a shard are read, as uint16: a change in the middle of a longer
    shard shows only in `text_digest`.
    """
    total = hashlib.sha256(f"{tokenizer_digest} {text_digest} {len(shards)}\n".encode())
    for shard in shards:
        total.update(f"{len(shard)}\n".encode())
        edges = (shard,) if len(shard) <= 2 * EDGE_TOKENS else (shard[:EDGE_TOKENS], shard[-EDGE_TOKENS:])
        for edge in edges:
            total.update(np.ascontiguousarray(edge, dtype="<u2").tobytes())
    return total.hexdigest()
