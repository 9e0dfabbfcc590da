"""The hashed n-gram caches as predictors: a model blended with bucket ratios that do not sum to one.

The published tables have 4,194,304 buckets an order for 62 million tokens. `filled` gives them few buckets, so that a
short text fills them alike. The tables are updated in `observe`, after scoring: nothing leaks, the sum is the only
defect. Caught by `sums-to-one`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from paramgolf.exhibits.hashed_tables import PR727, PR887, PR1430, HashedFamily, HashedTables
from paramgolf.exhibits.history import History
from paramgolf.exhibits.tables import Wrapped, blend, table_of
from paramgolf.predict.protocol import Chunk, Predictor, Rows, TableRows

LEAST = 1e-12  # probability that is credited at least, as published in #1430


class HashedNgram(Wrapped):
    """The base blended with one family's ratios; its row is what the scorer would credit for each token."""

    def __init__(self, base: Predictor, family: HashedFamily) -> None:
        super().__init__(base)
        self.family = family
        self._tables = HashedTables(family, base.vocab_size)
        self._history = History(max(family.orders) - 1)

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        if self._tables.tokens < self.family.active_after:
            return TableRows(logprob_BTV, chunk)
        entropy_BT = -(np.exp(logprob_BTV) * logprob_BTV).sum(axis=2)
        said_BTV, order_BT = self._tables.ratios(self._history.joined(chunk), self._history.size)
        weight_BT = np.where(order_BT > 0, self.family.alpha(entropy_BT), 0.0)
        mixed_BTV = blend(logprob_BTV, said_BTV, weight_BT[:, :, None])
        return TableRows(np.clip(mixed_BTV, np.log(LEAST), 0.0), chunk)

    def observe(self, chunk: Chunk) -> None:
        self._tables.count(self._history.joined(chunk), chunk.real())
        self._history.observe(chunk)
        self.base.observe(chunk)


def filled(family: HashedFamily, buckets: int = 256) -> HashedFamily:
    """The family with tables that a thousand tokens fill as 62 million fill the published ones."""
    return dataclasses.replace(family, buckets=buckets, active_after=min(64, family.active_after))


def hashed_727(base: Predictor) -> Predictor:
    """Orders 2 to 7, five primes, ratio of the buckets (#727; #702 alike)."""
    return HashedNgram(base, filled(PR727))


def hashed_887(base: Predictor) -> Predictor:
    """The same with seven primes (#887)."""
    return HashedNgram(base, filled(PR887))


def hashed_add_one(base: Predictor) -> Predictor:
    """The smoothing of #1185, which is sound on exact counts, on buckets: the sum is smaller, and still not one."""
    return HashedNgram(base, filled(dataclasses.replace(PR727, add_one=True), buckets=16))


def hashed_1430(base: Predictor) -> Predictor:
    """Orders 2 to 22, every token counted as often as the windows overlap (#1430)."""
    return HashedNgram(base, filled(PR1430))
