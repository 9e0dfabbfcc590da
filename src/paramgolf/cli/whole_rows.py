"""A predictor whose rows are all computed at once: exhibits look at every row of a chunk, one after the other.

Shapes: B lanes, T positions of a chunk, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from paramgolf.predict.protocol import Chunk, FullRows, Predictor, Rows, TableRows


class WholeRows:
    """Forwards both verbs; rows that can be had lane by lane become one table [B, T, V]."""

    def __init__(self, inner: Predictor) -> None:
        self.inner = inner

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    def predict(self, chunk: Chunk) -> Rows:
        rows = self.inner.predict(chunk)
        if not isinstance(rows, FullRows):
            return rows
        table_BTV = np.zeros((*chunk.tokens.shape, self.vocab_size))
        for lane, length in enumerate(chunk.lengths.tolist()):
            table_BTV[lane, :length] = rows.all_rows(lane)
        return TableRows(table_BTV, chunk)

    def observe(self, chunk: Chunk) -> None:
        self.inner.observe(chunk)
