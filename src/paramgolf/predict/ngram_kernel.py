"""From counts to distributions: a chain of escapes whose weights are learnt from tokens already scored.

With contexts of k = 0, 1, ... tokens that have been seen, and counts c (of token v), n (total), d (distinct tokens):

    P_0 = 1 / V,     P_{k+1}(v) = (1 - g) c / n + g P_k(v),     g = g[k, bucket(n), bucket(d, n)]

The escape probabilities g begin as d / (n + d) (PPM's method C; Witten and Bell 1991) and follow the gradient of the
log-loss; contexts of more than eight tokens share theirs. Every P is a mixture of distributions, so it sums to one
whatever g is. No exp and no log: the same bits on every CPU. Legend: K orders (contexts of 0..K-1 tokens), T positions,
V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import log_fixed
from paramgolf.predict.ngram_table import COUNT, DISTINCT, FOLLOW, ROOT, SIBLING, TOKEN, TOTAL, Int32, Int64
from paramgolf.predict.protocol import Float64

TOTAL_BUCKETS = 11  # by the binary logarithm of n
VARIETY_BUCKETS = 5  # one distinct token, d/n below 0.1, 0.3, 1, all distinct
LEARNING_RATE = 0.02
LEAST_ESCAPE = 1e-4
OWN_CLASS = 8  # longest context that has escapes of its own: longer ones are too rare to learn from one by one


def first_escapes(orders: int) -> Float64:
    """Escape probabilities before anything was learnt, method C at the buckets' centres: [K, total, variety]."""
    total = 1.5 * 2.0 ** np.arange(TOTAL_BUCKETS)[:, None]
    distinct = np.array([0.0, 0.05, 0.2, 0.6, 1.0])[None, :] * total
    distinct = np.clip(np.concatenate([np.ones_like(total), distinct[:, 1:]], axis=1), 1.0, total)
    escape = distinct / (total + distinct)
    return np.tile(escape, (order_class(orders - 1) + 1, 1, 1))


@njit(cache=True)
def total_bucket(total: int) -> int:
    """Binary logarithm, rounded down, at most TOTAL_BUCKETS - 1."""
    bucket = 0
    while total > 1 and bucket < TOTAL_BUCKETS - 1:
        total >>= 1
        bucket += 1
    return bucket


@njit(cache=True)
def variety_bucket(total: int, distinct: int) -> int:
    """How surprising a context is: 0 always the same token ... 4 never the same twice."""
    if distinct == 1:
        return 0
    if distinct == total:
        return 4
    if 10 * distinct < total:
        return 1
    return 2 if 10 * distinct < 3 * total else 3


@njit(cache=True)
def order_class(k: int) -> int:
    """Which escapes a context of k tokens uses: its own up to eight tokens, then 9-12, 13-16, 17-24 and longer."""
    if k <= OWN_CLASS:
        return k
    if k <= 16:
        return OWN_CLASS + 1 if k <= 12 else OWN_CLASS + 2
    return OWN_CLASS + 3 if k <= 24 else OWN_CLASS + 4


@njit(cache=True)
def evidence_value(matched: int, total: int, distinct: int) -> int:
    """A small number for what the counts know: contexts matched, and total and variety of the longest of them."""
    if matched == 0:
        return 0
    size = min(total_bucket(total), 3)
    return 1 + (order_class(matched - 1) * VARIETY_BUCKETS + variety_bucket(total, distinct)) * 4 + size


def evidence_count(orders: int) -> int:
    """How many values `evidence_value` has for contexts of 0 to `orders` - 1 tokens."""
    return 1 + (order_class(orders - 1) + 1) * VARIETY_BUCKETS * 4


@njit(cache=True)
def chain_tokens(
    total_TK: Int32,
    count_TK: Int32,
    distinct_TK: Int32,
    escapes: Float64,
    vocab_size: int,
    probability_T: Float64,
    value_T: Int64,
) -> None:
    """Probability of each token and the value of the evidence before it; the escapes learn from one to the next."""
    orders = total_TK.shape[1]
    scratch_3K = np.empty((3, orders))
    for t in range(len(total_TK)):
        matched = 0
        while matched < orders and total_TK[t, matched] > 0:
            matched += 1
        longest = max(matched - 1, 0)
        value_T[t] = evidence_value(matched, total_TK[t, longest], distinct_TK[t, longest])
        probability_T[t] = step(total_TK[t], count_TK[t], distinct_TK[t], matched, escapes, vocab_size, scratch_3K)


@njit(cache=True)
def step(
    total_K: Int32,
    count_K: Int32,
    distinct_K: Int32,
    matched: int,
    escapes: Float64,
    vocab_size: int,
    scratch_3K: Float64,
) -> float:
    """Probability of a token with these counts after `matched` contexts; moves the escapes along the gradient."""
    share, chain, gate = scratch_3K
    probability = 1.0 / vocab_size
    for k in range(matched):
        share[k] = count_K[k] / total_K[k]
        gate[k] = escapes[order_class(k), total_bucket(total_K[k]), variety_bucket(total_K[k], distinct_K[k])]
        chain[k] = probability
        probability = (1.0 - gate[k]) * share[k] + gate[k] * probability
    pull = LEARNING_RATE / probability
    for k in range(matched - 1, -1, -1):
        cell = order_class(k), total_bucket(total_K[k]), variety_bucket(total_K[k], distinct_K[k])
        room = gate[k] * (1.0 - gate[k])
        moved = escapes[cell] + pull * (chain[k] - share[k]) * room * room
        escapes[cell] = min(max(moved, LEAST_ESCAPE), 1.0 - LEAST_ESCAPE)
        pull *= gate[k]
    return probability


@njit(cache=True)
def distribution(nodes: Int32, history: Int32, cursors_K: Int64, known: int, escapes: Float64, row_V: Float64) -> None:
    """The probability of every token after the contexts at these cursors (`ngram_walk`)."""
    row_V[:] = 1.0 / len(row_V)
    for k in range(known):
        cursor = cursors_K[k]
        total = nodes[cursor, TOTAL] if cursor >= 0 else 1
        distinct = nodes[cursor, DISTINCT] if cursor >= 0 else 1
        gate = escapes[order_class(k), total_bucket(total), variety_bucket(total, distinct)]
        row_V *= gate
        if cursor == ROOT:
            for v in range(len(row_V)):
                row_V[v] += (1.0 - gate) * (nodes[1 + v, COUNT] / total)
            continue
        child = np.int64(nodes[cursor, FOLLOW]) if cursor > 0 else cursor
        if child < 0:
            row_V[history[~child]] += 1.0 - gate
        while child > 0:
            row_V[nodes[child, TOKEN]] += (1.0 - gate) * (nodes[child, COUNT] / total)
            child = np.int64(nodes[child, SIBLING])


@njit(cache=True)
def log_into(probability_N: Float64, out_N: Float64) -> None:
    """Natural logarithms, the same bits on every CPU."""
    for i in range(len(probability_N)):
        out_N[i] = log_fixed(probability_N[i])
