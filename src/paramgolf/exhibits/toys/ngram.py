"""Toy backoff cache: orders 2..4 in 64 hash buckets, as a ratio of two buckets, or normalised by its own sum.

Shapes: W windows, L positions, V vocabulary. Hash and mixture are those of #1430 (spec sections 6.2 and 6.3).

Readings of spec section 8.4 that give its figures: a batch of windows is followed by an update with the tokens from
three before the last update's end up to the last window's end, that token excluded; every n-gram and every token of
that stretch counts, also the three that were counted before; before the cache has 64 tokens the model stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.exhibits.toys.world import Credits, Tokens, World, batches, credited
from paramgolf.predict.protocol import Float64, Int64

BUCKETS, ORDERS, LEAST_COUNT, LEAST_TOKENS, OVERLAP = 64, (4, 3, 2), 2, 64, 3
PRIMES = (36313, 27191, 51647, 81929)


class HashedCounts:
    """Counts of contexts, and of contexts with their next token, each pair of them in one of 64 buckets."""

    def __init__(self, vocab_size: int) -> None:
        self.unigram_V = np.zeros(vocab_size)
        self.context = {order: np.zeros(BUCKETS) for order in ORDERS}
        self.full = {order: np.zeros(BUCKETS) for order in ORDERS}

    def add(self, tokens: Int64) -> None:
        """Count every token and every n-gram of a stretch."""
        np.add.at(self.unigram_V, tokens, 1.0)
        for order in ORDERS:
            for end in range(order - 1, len(tokens)):
                key = context_hash(tokens[end - order + 1 : end])
                self.context[order][key % BUCKETS] += 1
                self.full[order][(key ^ int(tokens[end]) * PRIMES[order - 1]) % BUCKETS] += 1

    def found(self, past: Int64) -> tuple[Float64, float] | None:
        """For the longest context with two counts: the buckets of every next token [V], and the context's."""
        for order in ORDERS:
            if len(past) < order - 1:
                continue
            key = context_hash(past[len(past) - order + 1 :])
            count = float(self.context[order][key % BUCKETS])
            if count >= LEAST_COUNT:
                keys_V = (key ^ np.arange(len(self.unigram_V)) * PRIMES[order - 1]) % BUCKETS
                return self.full[order][keys_V], count
        return None

    def mass(self, past: Int64, *, renormalised: bool) -> Float64:
        """What the cache gives to each token [V]: a ratio of buckets, or a distribution."""
        hit = self.found(past)
        if hit is None:
            return np.asarray((self.unigram_V + 0.5) / (self.unigram_V + 0.5).sum(), dtype=np.float64)
        full_V, count = hit
        if renormalised:
            return np.asarray((full_V + 0.5) / (full_V + 0.5).sum(), dtype=np.float64)
        return np.minimum(full_V, count) / count


def context_hash(context: Int64) -> int:
    """XOR of tokens times primes, oldest first."""
    key = 0
    for token, prime in zip(context.tolist(), PRIMES):
        key ^= token * prime
    return key


def cache_mix(row_V: Float64, mass_V: Float64) -> Float64:
    """log of the mixture with the weight 0.20 + 0.55 sigmoid(2 (H - 2.5)), H being the model's entropy in nats."""
    share_V = np.exp(row_V)
    entropy = -float((share_V * row_V).sum())
    weight = 0.20 + 0.55 / (1.0 + np.exp(-2.0 * (entropy - 2.5)))
    return np.asarray(np.log(np.maximum((1.0 - weight) * share_V + weight * mass_V, 1e-12)), dtype=np.float64)


def hashed_ratio(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """The cache as published: what it gives to all tokens together is more than one."""
    return _cached(world, sequences, declared, renormalised=False)


def hashed_renormalised(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """The same buckets divided by their own sum: honest, and worth nothing."""
    return _cached(world, sequences, declared, renormalised=True)


def _cached(
    world: World, sequences: Sequence[Tokens], declared: Sequence[int], *, renormalised: bool
) -> Iterator[Credits]:
    counts = HashedCounts(world.vocab_size)
    done = [0] * len(sequences)
    for batch in batches(world, sequences, declared):
        row_WLV = log_softmax(world.logits(world.hidden(batch.inputs_WL)))
        if counts.unigram_V.sum() >= LEAST_TOKENS:
            for w, i in np.argwhere(batch.scored_WL).tolist():
                mass_V = counts.mass(batch.inputs_WL[w, : i + 1], renormalised=renormalised)
                row_WLV[w, i] = cache_mix(row_WLV[w, i], mass_V)
        yield credited(batch, row_WLV)
        for which in np.unique(batch.sequence_W).tolist():
            end = int(batch.start_W[batch.sequence_W == which].max()) + world.window
            end = min(end, len(sequences[which]))
            counts.add(np.asarray(sequences[which][np.arange(max(0, done[which] - OVERLAP), end)], dtype=np.int64))
            done[which] = end
