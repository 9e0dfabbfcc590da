"""Two plain peeks: a credit above the row, and a row lifted at the true token.

`Peek` reports honest rows but credits the realised token with more than its row holds: the scorer that keeps its own
books, as any entry with a private scoring loop may (#1723 claimed 0.5384 with targets clamped into another alphabet).
Caught by `credit-is-row`.

`RenormalisedPeek` moves the row itself towards the true token and renormalises, so that every row sums to one and the
credit is the row's entry: only asking again with another target shows it. The learned "causal" mask whose diagonal
leaked is of this kind (claimed 0.5718, 2.0971 without the leak, before #998). Caught by `blind-to-target`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import Wrapped, log_softmax, table_of
from paramgolf.predict.protocol import Chunk, Float64, Predictor, Rows, TableRows


class Peek(Wrapped):
    """Credits exp(`bonus`) times what the row says, never more than certainty."""

    def __init__(self, base: Predictor, bonus: float = 0.3) -> None:
        super().__init__(base)
        self._bonus = bonus

    def predict(self, chunk: Chunk) -> Rows:
        return _LiftedCredit(self.base.predict(chunk), self._bonus)


class _LiftedCredit:
    def __init__(self, rows: Rows, bonus: float) -> None:
        self._rows = rows
        self._bonus = bonus

    def realised(self) -> Float64:
        return np.minimum(self._rows.realised() + self._bonus, 0.0)

    def row(self, lane: int, position: int) -> Float64:
        return self._rows.row(lane, position)


class RenormalisedPeek(Wrapped):
    """Adds `lift` nats to the true token's entry on a `share` of the positions and renormalises the row."""

    def __init__(self, base: Predictor, lift: float = 1.0, share: float = 1.0, seed: int = 0) -> None:
        super().__init__(base)
        self._lift = lift
        self._share = share
        self._seed = seed
        self._chunks = 0

    def predict(self, chunk: Chunk) -> Rows:
        logits_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        # Seeded by the place in the text, so that asking twice lifts the same positions.
        drawn = np.random.default_rng([self._seed, self._chunks]).random(chunk.tokens.shape) < self._share
        lanes, positions = np.nonzero(chunk.real() & drawn)
        logits_BTV[lanes, positions, chunk.tokens[lanes, positions]] += self._lift
        return TableRows(log_softmax(logits_BTV), chunk)

    def observe(self, chunk: Chunk) -> None:
        self._chunks += 1
        self.base.observe(chunk)
