"""Two passes: fill a cache from the whole text in a first pass, report the score of the second.

The cache is a fine one: exact counts, normalised, and in the second pass frozen, so rows are causal, pure and sum to
one. Yet when a token is credited its own bytes have been read before. Claimed: #846 0.1434, #853 0.1315, #868 0.118,
#870 0.0935, #888 0.0942, #933 0.0804 (neural models of about 1.16), and #959 3.5e-7 as a deliberate reductio. Claimed
gain about 1.0. Caught by `single-pass`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from paramgolf.exhibits.history import History
from paramgolf.exhibits.tables import BaseFactory, Documents, Wrapped, blend, table_of
from paramgolf.predict.protocol import Chunk, Float64, Predictor, Rows, TableRows

Counts = dict[tuple[int, ...], Counter[int]]


class SecondPass(Wrapped):
    """The base blended with exact counts of contexts: longest known context first, weight n / (n + 1)."""

    def __init__(self, base: Predictor, counts: Counts, longest: int) -> None:
        super().__init__(base)
        self._counts = counts
        self._history = History(longest)

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        joined = self._history.joined(chunk)
        for lane, position in np.argwhere(chunk.real()):
            context = tuple(joined[lane, position : position + self._history.size].tolist())
            logprob_BTV[lane, position] = self._blended(logprob_BTV[lane, position], context)
        return TableRows(logprob_BTV, chunk)

    def observe(self, chunk: Chunk) -> None:
        self._history.observe(chunk)
        self.base.observe(chunk)

    def _blended(self, row_V: Float64, context: tuple[int, ...]) -> Float64:
        for skip in range(len(context)):
            counts = self._counts.get(context[skip:])
            if counts:
                total = counts.total()
                share_V = np.zeros(len(row_V))
                share_V[list(counts)] = np.array(list(counts.values())) / total
                return blend(row_V, share_V, total / (total + 1.0))
        return row_V


def two_pass(base: BaseFactory, held_out: Documents, longest: int = 3) -> SecondPass:
    """First pass: count what follows every context of up to `longest` tokens in the held-out text. Second: predict
    it."""
    counts: Counts = defaultdict(Counter)
    for document in held_out:
        tokens = [-1] * longest + np.asarray(document).tolist()
        for place in range(longest, len(tokens)):
            for size in range(1, longest + 1):
                counts[tuple(tokens[place - size : place])][tokens[place]] += 1
    return SecondPass(base(), dict(counts), longest)
