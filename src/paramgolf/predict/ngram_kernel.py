"""From counts to distributions: a chain of escapes whose weights are learnt from tokens already scored.

With contexts of k = 0, 1, ... tokens that have been seen, and counts c (of token v), n (total), d (distinct tokens):

    P_0 = 1 / V,     P_{k+1}(v) = (1 - g) c / n + g P_k(v),     g = g[k, bucket(n), bucket(d, n)]

The escape probabilities g begin as d / (n + d) (PPM's method C; Witten and Bell 1991) and follow the gradient of the
log-loss. Every P is a mixture of distributions, so it sums to one whatever g is. No exp and no log: the same bits on
every CPU. Legend: K orders (contexts of 0..K-1 tokens), T positions, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import log_fixed
from paramgolf.predict.ngram_table import (
    CHILD,
    COUNT,
    DISTINCT,
    SIBLING,
    TOKEN,
    TOTAL,
    Int32,
    Int64,
    count_token,
    find_children,
    uncount_token,
)
from paramgolf.predict.protocol import Float64

TOTAL_BUCKETS = 11  # by the binary logarithm of n
VARIETY_BUCKETS = 5  # one distinct token, d/n below 0.1, 0.3, 1, all distinct
LEARNING_RATE = 0.02
LEAST_ESCAPE = 1e-4


def first_escapes(orders: int) -> Float64:
    """Escape probabilities before anything was learnt, method C at the buckets' centres: [K, total, variety]."""
    total = 1.5 * 2.0 ** np.arange(TOTAL_BUCKETS)[:, None]
    distinct = np.array([0.0, 0.05, 0.2, 0.6, 1.0])[None, :] * total
    distinct = np.clip(np.concatenate([np.ones_like(total), distinct[:, 1:]], axis=1), 1.0, total)
    escape = distinct / (total + distinct)
    return np.tile(escape, (orders, 1, 1))


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
def matched_orders(table: Int32, contexts_K: Int64) -> int:
    """How many contexts, from the shortest on, have been followed by a token before."""
    matched = 0
    while matched < len(contexts_K) and contexts_K[matched] >= 0 and table[contexts_K[matched], TOTAL] > 0:
        matched += 1
    return matched


@njit(cache=True)
def evidence(table: Int32, contexts_K: Int64) -> int:
    """A small number for what the counts know here: orders matched, and total and variety of the longest."""
    matched = matched_orders(table, contexts_K)
    if matched == 0:
        return 0
    node = contexts_K[matched - 1]
    size = min(total_bucket(table[node, TOTAL]), 3)
    return 1 + ((matched - 1) * VARIETY_BUCKETS + variety_bucket(table[node, TOTAL], table[node, DISTINCT])) * 4 + size


def evidence_count(orders: int) -> int:
    """How many values `evidence` has."""
    return 1 + orders * VARIETY_BUCKETS * 4


@njit(cache=True)
def step(
    table: Int32, contexts_K: Int64, children_K: Int64, escapes: Float64, vocab_size: int, scratch_3K: Float64
) -> float:
    """Probability of the token whose nodes are `children_K`; moves the escapes along the gradient."""
    share, chain, gate = scratch_3K
    matched = matched_orders(table, contexts_K)
    probability = 1.0 / vocab_size
    for k in range(matched):
        node = contexts_K[k]
        total = table[node, TOTAL]
        share[k] = table[children_K[k], COUNT] / total if children_K[k] >= 0 else 0.0
        gate[k] = escapes[k, total_bucket(total), variety_bucket(total, table[node, DISTINCT])]
        chain[k] = probability
        probability = (1.0 - gate[k]) * share[k] + gate[k] * probability
    pull = LEARNING_RATE / probability
    for k in range(matched - 1, -1, -1):
        node = contexts_K[k]
        total = table[node, TOTAL]
        room = gate[k] * (1.0 - gate[k])
        moved = gate[k] + pull * (chain[k] - share[k]) * room * room
        moved = min(max(moved, LEAST_ESCAPE), 1.0 - LEAST_ESCAPE)
        escapes[k, total_bucket(total), variety_bucket(total, table[node, DISTINCT])] = moved
        pull *= gate[k]
    return probability


@njit(cache=True)
def walk(
    table: Int32,
    used_1: Int64,
    contexts_K: Int64,
    escapes: Float64,
    tokens: Int64,
    keep: bool,
    probability_T: Float64,
    evidence_T: Int64,
    row_V: Float64,
    vocab_size: int,
) -> None:
    """Read `tokens`: position t is predicted from `tokens[:t]` and all before, moves the escapes, and is then counted.

    Gives the probability of each token and the evidence before it. `row_V`, unless empty, receives the whole
    distribution that follows the last. Unless `keep`, every count is taken back afterwards and the table is as it was;
    `contexts_K` and `escapes` are moved in any case (pass copies to try).
    """
    journal = 1 if keep else max(len(tokens), 1)
    contexts_JK = np.empty((journal, len(contexts_K)), np.int64)
    children_JK = np.empty((journal, len(contexts_K)), np.int64)
    scratch_3K = np.empty((3, len(contexts_K)))
    for t in range(len(tokens)):
        j = 0 if keep else t
        contexts_JK[j] = contexts_K
        find_children(table, contexts_K, tokens[t], children_JK[j])
        evidence_T[t] = evidence(table, contexts_K)
        probability_T[t] = step(table, contexts_K, children_JK[j], escapes, vocab_size, scratch_3K)
        count_token(table, used_1, contexts_K, tokens[t], children_JK[j])
    if len(row_V):
        distribution(table, contexts_K, escapes, row_V)
    if not keep:
        for t in range(len(tokens) - 1, -1, -1):
            uncount_token(table, used_1, contexts_JK[t], children_JK[t])


@njit(cache=True)
def distribution(table: Int32, contexts_K: Int64, escapes: Float64, row_V: Float64) -> None:
    """The probability of every token after these contexts."""
    row_V[:] = 1.0 / len(row_V)
    for k in range(matched_orders(table, contexts_K)):
        node = contexts_K[k]
        total = table[node, TOTAL]
        gate = escapes[k, total_bucket(total), variety_bucket(total, table[node, DISTINCT])]
        for v in range(len(row_V)):
            row_V[v] *= gate
        child = table[node, CHILD]
        while child != 0:
            row_V[table[child, TOKEN]] += (1.0 - gate) * (table[child, COUNT] / total)
            child = table[child, SIBLING]


@njit(cache=True)
def log_into(probability_N: Float64, out_N: Float64) -> None:
    """Natural logarithms, the same bits on every CPU."""
    for i in range(len(probability_N)):
        out_N[i] = log_fixed(probability_N[i])
