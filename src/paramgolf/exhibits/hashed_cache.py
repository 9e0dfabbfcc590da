"""The hashed n-gram cache: a ratio of two hashed buckets, looked up for the true token alone.

Per order two tables of counters, one hashed by the context and one by context and token; at the target p = min(pair,
context) / context if the context was seen twice, highest order first, blended with the model by its entropy (0.05 +
0.55 sigmoid(2 (H - 4))). Where different pairs share a bucket, every token can look probable: the "distribution" sums
to hundreds (277 to 410 in #886; above 1,000 in #1147). Claimed: #659 1.0920, #727 0.9674, #779 0.6683, #809 0.2952,
#913 0.0887, #944 0.0165; #972 fell from 0.3922 to 1.5134 once normalised (#978). #1185 (0.9641) blended exact counts
at the target only.

The published tables have 4,194,304 buckets for 62 million tokens; here the buckets are few, so that a short text fills
them alike. The tables are updated in `observe`, after scoring: nothing leaks, the sum is the only defect. Caught by
`sums-to-one`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.history import History
from paramgolf.exhibits.tables import Wrapped, blend, table_of
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, Rows, TableRows

PRIMES = (36313, 27191, 51647, 81929, 131071)


class HashedCache(Wrapped):
    """The base blended with the bucket ratio; its row is what the scorer would credit for each token."""

    def __init__(self, base: Predictor, orders: tuple[int, ...] = (5, 4, 3, 2), buckets: int = 256) -> None:
        super().__init__(base)
        self._orders = orders
        self._buckets = buckets
        self._context = np.zeros((len(orders), buckets), dtype=np.int64)
        self._pair = np.zeros((len(orders), buckets), dtype=np.int64)
        self._history = History(max(orders) - 1)

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        entropy_BT = -(np.exp(logprob_BTV) * logprob_BTV).sum(axis=2)
        weight_BT = 0.05 + 0.55 / (1 + np.exp(-2 * (entropy_BT - 4)))
        ratio_BTV = self._ratio(self._history.joined(chunk))
        weight_BTV = np.where(ratio_BTV >= 0, weight_BT[:, :, None], 0.0)
        return TableRows(np.minimum(blend(logprob_BTV, np.maximum(ratio_BTV, 0), weight_BTV), 0.0), chunk)

    def observe(self, chunk: Chunk) -> None:
        real = chunk.real()
        joined = self._history.joined(chunk)
        for index, order in enumerate(self._orders):
            context_BT = self._context_hash(joined, order)
            seen = real & (context_BT >= 0)
            np.add.at(self._context[index], context_BT[seen] % self._buckets, 1)
            np.add.at(self._pair[index], self._pair_hash(context_BT, chunk.tokens, order)[seen], 1)
        self._history.observe(chunk)
        self.base.observe(chunk)

    def _context_hash(self, joined: Int64, order: int) -> Int64:
        """XOR of token x prime over the `order - 1` tokens before each position [B, T]; -1 where there are fewer."""
        size = self._history.size
        steps = joined.shape[1] - size
        hashed = np.zeros((len(joined), steps), dtype=np.int64)
        known = np.ones_like(hashed, dtype=np.bool_)
        for back in range(1, order):
            token = joined[:, size - back : size - back + steps]
            known &= token >= 0
            hashed ^= token * PRIMES[(order - 1 - back) % len(PRIMES)]
        return np.where(known, hashed, -1)

    def _pair_hash(self, context: Int64, token: Int64, order: int) -> Int64:
        return np.asarray((context ^ (token * PRIMES[(order - 1) % len(PRIMES)])) % self._buckets, dtype=np.int64)

    def _ratio(self, joined: Int64) -> Float64:
        """The ratio of buckets for every token [B, T, V], -1 where no order knows the context."""
        every_V = np.arange(self.vocab_size)
        shape = (len(joined), joined.shape[1] - self._history.size, self.vocab_size)
        ratio_BTV = np.full(shape, -1.0)
        for index, order in reversed(list(enumerate(self._orders))):
            context_BT = self._context_hash(joined, order)
            count_BT = np.where(context_BT >= 0, self._context[index][context_BT % self._buckets], 0)
            pair_BTV = self._pair[index][self._pair_hash(context_BT[:, :, None], every_V, order)]
            ratio = np.minimum(pair_BTV, count_BT[:, :, None]) / np.maximum(count_BT, 1)[:, :, None]
            ratio_BTV = np.where((count_BT >= 2)[:, :, None] & (ratio > 0), ratio, ratio_BTV)
        return ratio_BTV
