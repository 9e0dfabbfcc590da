"""Hints: which token the past suggests at each position, and how sure it is. Counted exactly, from earlier tokens.

Legend: B lanes, T positions of a lane of a chunk, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from paramgolf.predict.protocol import Bool, Chunk, Int64


class Hints(NamedTuple):
    """Before each real position of a lane, int64 [T]: the token that followed its context most often (`NO_HINT`: the
    context is new), how often it did, and how often anything did. Position t knows the tokens before it alone."""

    token_T: Int64
    top_T: Int64
    total_T: Int64

    def gates(self, share: float) -> Bool:
        """Where the hint has had at least `share` of its context's followers [T]."""
        return (self.token_T >= 0) & (self.top_T / np.maximum(self.total_T, 1) >= share)


class HintSource(Protocol):
    """What gives hints and learns from what was scored. `hints` changes nothing; `observe` alone does.

    Lanes share what `observe` learnt; inside a chunk a position knows its own lane's earlier tokens besides.
    """

    @property
    def vocab_size(self) -> int: ...

    def hints(self, chunk: Chunk, lane: int) -> Hints: ...

    def observe(self, chunk: Chunk) -> None: ...


def no_hints(length: int) -> Hints:
    """Hints of nothing, to be written into."""
    return Hints(np.full(length, -1, dtype=np.int64), np.zeros(length, dtype=np.int64), np.zeros(length, np.int64))


def lane_tokens(chunk: Chunk, lane: int) -> Int64:
    """The real tokens of a lane."""
    return np.ascontiguousarray(chunk.tokens[lane, : chunk.lengths[lane]], dtype=np.int64)
