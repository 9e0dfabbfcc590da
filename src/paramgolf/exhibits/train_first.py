"""Train first: fit the adapter on the whole held-out text, then score that text.

The oldest leak of the contest (V01): gradient steps over the validation stream, then the score of the very same
stream. #152 (claimed 1.1767), #417 (1.1227), #442 (1.1027), #462 (1.0672), #518 (1.0622 after 50 epochs), #672 (1.0781
after 30); and, baked into the weights before quantisation (V05), #1735 (1.0429) and #1958 (1.01355). Claimed gain
0.02-0.11. While it is scored it looks like a fixed, causal, normalised model: only replacing later text shows what it
knew. Caught by `score-before-update`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.adapter import Adapter, tokens_before
from paramgolf.exhibits.tables import BaseFactory, Documents, Wrapped, document_chunks, table_of
from paramgolf.predict.protocol import Chunk, Float64, Int64, Rows, TableRows


class Adapted(Wrapped):
    """A base whose rows an adapter corrects; keeps each lane's last token (0 before a document's first)."""

    def __init__(self, base: BaseFactory, adapter: Adapter) -> None:
        super().__init__(base())
        self.adapter = adapter
        self._last_B: Int64 | None = None

    def before(self, chunk: Chunk) -> Int64:
        """The token before each position [B, T]."""
        last_B = np.zeros(len(chunk.tokens), dtype=np.int64) if self._last_B is None else self._last_B
        return tokens_before(chunk.tokens, np.where(chunk.starts, 0, last_B))

    def base_table(self, chunk: Chunk) -> Float64:
        """The base's own rows [B, T, V]."""
        return table_of(self.base.predict(chunk), chunk, self.vocab_size)

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = self.base_table(chunk)
        flat = self.adapter.rows(logprob_BTV.reshape(-1, self.vocab_size), self.before(chunk).reshape(-1))
        return TableRows(flat.reshape(logprob_BTV.shape), chunk)

    def observe(self, chunk: Chunk) -> None:
        ends_B = chunk.tokens[np.arange(len(chunk.tokens)), np.maximum(chunk.lengths - 1, 0)]
        old_B = np.zeros_like(ends_B) if self._last_B is None else self._last_B
        self._last_B = np.where(chunk.lengths > 0, ends_B, old_B)
        self.base.observe(chunk)

    def fit(self, chunk: Chunk, steps: int) -> None:
        """Train the adapter on the chunk's real tokens."""
        real = chunk.real()
        if real.any():
            logprob_NV, before_N = self.base_table(chunk)[real], self.before(chunk)[real]
            for _ in range(steps):
                self.adapter.step(logprob_NV, before_N, chunk.tokens[real])


class TrainFirst(Adapted):
    """Before the first answer, `epochs` passes over the held-out text train the adapter; then a fresh base is scored.

    It waits for the first chunk only to know the number of lanes that its base expects.
    """

    def __init__(self, base: BaseFactory, held_out: Documents, epochs: int = 3, length: int = 256) -> None:
        super().__init__(base, Adapter(base().vocab_size))
        self._factory = base
        self._held_out = held_out
        self._epochs = epochs
        self._length = length
        self._trained = False

    def predict(self, chunk: Chunk) -> Rows:
        if not self._trained:
            self._train(len(chunk.tokens))
        return super().predict(chunk)

    def _train(self, lanes: int) -> None:
        self._trained = True
        for _ in range(self._epochs):
            reader = Adapted(self._factory, self.adapter)
            for chunk in document_chunks(self._held_out, lanes, self._length):
                reader.fit(chunk, steps=1)
                reader.observe(chunk)
