"""Hashed n-gram counts as the field published them: two tables of buckets an order, and nothing to tell keys apart.

B lanes, T positions, V vocabulary, S remembered tokens. For order n with context c_0 .. c_{n-2} (oldest first) and next
token t: context key = XOR of c_k * P[k mod len(P)], pair key = context key XOR t * P[(n-1) mod len(P)], bucket = key
mod buckets (spec pr1430.md 6.2, pr1185.md 4.1). The numerator of every v is filled by unrelated pairs, so the ratios of
one context sum to anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.predict.protocol import Bool, Float64, Int64

BLOCK = 1 << 20  # tokens counted at once


@dataclass(frozen=True)
class HashedFamily:
    """One published cache. `min_count` of the context, highest order first, whatever the next token is.

    The weight of the cache is alpha = low + span * sigmoid(2 (H - centre)), H the model's entropy in nats. `add_one`
    gives (F + 1) / (C + V) in place of min(F, C) / C; `unigram` falls back to (count + 1/2) / (total + V/2) where no
    order knows the context; each token counts `weight` times (windows that overlap), and nothing is used before
    `active_after` counted tokens.
    """

    orders: tuple[int, ...]
    primes: tuple[int, ...]
    buckets: int = 1 << 22
    min_count: int = 2
    low: float = 0.05
    span: float = 0.55
    centre: float = 4.0
    add_one: bool = False
    unigram: bool = False
    weight: int = 1
    active_after: int = 0

    def alpha(self, entropy: Float64) -> Float64:
        """Weight of the cache for a model's entropy in nats."""
        return np.asarray(self.low + self.span / (1 + np.exp(-2 * (entropy - self.centre))), dtype=np.float64)


FIVE = (36313, 27191, 51647, 81929, 131071)
SEVEN = (*FIVE, 175447, 209591)
TEN = (*FIVE, 174763, 233017, 282527, 357347, 451439)
PR727 = HashedFamily(tuple(range(2, 8)), FIVE)
PR887 = HashedFamily(PR727.orders, SEVEN)
PR1430 = HashedFamily(tuple(range(2, 23)), TEN, low=0.20, centre=2.5, unigram=True, weight=32, active_after=5000)


def context_keys(context_XK: Int64, primes: tuple[int, ...]) -> Int64:
    """The key of each context [..., K], oldest token first."""
    keys = np.zeros(context_XK.shape[:-1], dtype=np.int64)
    for k in range(context_XK.shape[-1]):
        keys ^= context_XK[..., k] * primes[k % len(primes)]
    return keys


def pair_keys(context_keys: Int64, token: Int64, order: int, primes: tuple[int, ...]) -> Int64:
    """The key of a context of `order` - 1 tokens together with the token after it."""
    return np.asarray(context_keys ^ (token * primes[(order - 1) % len(primes)]), dtype=np.int64)


class HashedTables:
    """The counts: `context` and `pair` int32 [orders, buckets], `single` int64 [V]."""

    def __init__(self, family: HashedFamily, vocab_size: int) -> None:
        self.family, self.vocab_size = family, vocab_size
        self.context: npt.NDArray[np.int32] = np.zeros((len(family.orders), family.buckets), dtype=np.int32)
        self.pair: npt.NDArray[np.int32] = np.zeros((len(family.orders), family.buckets), dtype=np.int32)
        self.single: Int64 = np.zeros(vocab_size, dtype=np.int64)
        self.tokens = 0  # counted, without their weight

    def count(self, joined: Int64, real_BT: Bool) -> None:
        """Count the last T columns of `joined` [B, S + T] where they are real; -1 stands for "no token"."""
        family, steps = self.family, real_BT.shape[1]
        size = joined.shape[1] - steps
        self.single += family.weight * np.bincount(joined[:, size:][real_BT], minlength=self.vocab_size)
        self.tokens += int(real_BT.sum())
        for begin in range(0, steps, BLOCK):
            self._count(joined[:, begin : begin + BLOCK + size], real_BT[:, begin : begin + BLOCK], size)

    def ratios(self, joined: Int64, size: int) -> tuple[Float64, Int64]:
        """What is said of every token after the `size` first columns and the ones before it: [B, T, V].

        With it the order that said so [B, T]: 1 is the unigram, 0 nothing, where the numbers are 0.
        """
        family, every_V = self.family, np.arange(self.vocab_size)
        shape = joined.shape[0], joined.shape[1] - size
        found_BTV, order_BT = np.zeros((*shape, self.vocab_size)), np.zeros(shape, dtype=np.int64)
        if family.unigram:
            found_BTV[:] = (self.single + 0.5) / (self.single.sum() + 0.5 * self.vocab_size)
            order_BT[:] = 1
        for index, order in sorted(enumerate(family.orders), key=lambda item: -item[1]):
            keys_BT, known_BT = self._keys(joined, size, order)
            count_BT = np.where(known_BT, self.context[index][keys_BT % family.buckets], 0)
            hit = (count_BT >= max(1, family.min_count)) & (order_BT < 2)
            pair_NV = self.pair[index][pair_keys(keys_BT[hit][:, None], every_V, order, family.primes) % family.buckets]
            found_BTV[hit] = self._ratio(pair_NV, count_BT[hit][:, None])
            order_BT[hit] = order
        return found_BTV, order_BT

    def _ratio(self, pair_NV: npt.NDArray[np.int32], count_N1: Int64) -> Float64:
        if self.family.add_one:
            return np.asarray((pair_NV + 1.0) / (count_N1 + self.vocab_size), dtype=np.float64)
        return np.asarray(np.minimum(pair_NV, count_N1) / count_N1, dtype=np.float64)

    def _count(self, joined: Int64, real_BT: Bool, size: int) -> None:
        family = self.family
        for index, order in enumerate(family.orders):
            keys_BT, known_BT = self._keys(joined, size, order)
            seen = known_BT & real_BT
            pairs = pair_keys(keys_BT[seen], joined[:, size:][seen], order, family.primes)
            np.add.at(self.context[index], keys_BT[seen] % family.buckets, family.weight)
            np.add.at(self.pair[index], pairs % family.buckets, family.weight)

    def _keys(self, joined: Int64, size: int, order: int) -> tuple[Int64, Bool]:
        """Key of the `order` - 1 tokens before each position [B, T], and whether there are so many."""
        if order - 1 > size:
            raise ValueError(f"order {order} needs {order - 1} tokens before a position, {size} are kept")
        steps = joined.shape[1] - size
        first = size - (order - 1)
        windows_BTK = np.lib.stride_tricks.sliding_window_view(joined[:, first : size + steps - 1], order - 1, axis=1)
        return context_keys(np.maximum(windows_BTK, 0), self.family.primes), np.asarray((windows_BTK >= 0).all(axis=2))
