"""What a wrapped model still offers: the states behind its rows, its weights."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from paramgolf.exhibits.tables import table_of
from paramgolf.predict.protocol import Chunk, Float64, FullRows, Predictor, Rows


@runtime_checkable
class Wrapper(Protocol):
    """A predictor that only forwards to `inner`."""

    inner: Predictor


def unwrapped(base: Predictor) -> Predictor:
    """The innermost predictor."""
    while isinstance(base, Wrapper):
        base = base.inner
    return base


def lane_tables(rows: Rows, chunk: Chunk, vocab_size: int) -> list[Float64]:
    """The rows of every lane, [length, V] nats each."""
    if isinstance(rows, FullRows):
        return [np.asarray(rows.all_rows(lane), dtype=np.float64) for lane in range(len(chunk.tokens))]
    table_BTV = table_of(rows, chunk, vocab_size)
    return [table_BTV[lane, :length] for lane, length in enumerate(chunk.lengths.tolist())]
