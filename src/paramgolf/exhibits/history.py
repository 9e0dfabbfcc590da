"""The last tokens of every lane, for exhibits that look contexts up. B lanes, T positions."""

from __future__ import annotations

import numpy as np

from paramgolf.predict.protocol import Chunk, Int64


class History:
    """Keeps the last `size` tokens of each lane, forgotten where a lane starts a document; -1 stands for "nothing
    yet"."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tail_BS: Int64 | None = None

    def joined(self, chunk: Chunk) -> Int64:
        """Tail and chunk side by side [B, size + T]: column `size + t` is position t."""
        lanes = len(chunk.tokens)
        tail_BS = np.full((lanes, self.size), -1, dtype=np.int64) if self._tail_BS is None else self._tail_BS
        tail_BS = np.where(chunk.starts[:, None], -1, tail_BS)
        return np.concatenate([tail_BS, chunk.tokens], axis=1)

    def observe(self, chunk: Chunk) -> None:
        """Move on to after the chunk's real tokens."""
        joined = self.joined(chunk)
        columns = chunk.lengths[:, None] + np.arange(self.size)
        self._tail_BS = np.take_along_axis(joined, columns, axis=1)
