"""Smoothing steps from one level of counts to the next, for one token or a whole row, with the same bits.

Legend: T positions of one lane, K contexts (of 0, 1, ... K - 1 tokens), V vocabulary, n followers of one context.
In a row every token takes the step that a single one takes, operation by operation: (strength p + c) / (T + strength).
"""

from __future__ import annotations

from numba import njit

from paramgolf.predict.evidence import Int32
from paramgolf.predict.protocol import Float64, Int64


@njit(cache=True)
def level_targets(total_TK: Int32, count_TK: Int32, level_T: Int64, strength: float, out_T: Float64) -> None:
    """One Dirichlet step at the level of each position: `out_T` holds the prior and receives the result."""
    for t in range(len(level_T)):
        k = level_T[t]
        if k >= 0:
            out_T[t] = (strength * out_T[t] + count_TK[t, k]) / (total_TK[t, k] + strength)


@njit(cache=True)
def level_row(tokens_n: Int64, counts_n: Int64, strength: float, row_V: Float64) -> None:
    """The same step for a whole row."""
    total = 0
    for i in range(len(counts_n)):
        total += counts_n[i]
    for v in range(len(row_V)):
        row_V[v] = strength * row_V[v]
    for i in range(len(tokens_n)):
        row_V[tokens_n[i]] += counts_n[i]
    for v in range(len(row_V)):
        row_V[v] = row_V[v] / (total + strength)


@njit(cache=True)
def chain_targets(
    total_TK: Int32, count_TK: Int32, level_T: Int64, vocab_size: int, strength: float, out_T: Float64
) -> None:
    """Dirichlet steps from a uniform prior through all levels: strength V / 2 at the empty context, then `strength`."""
    for t in range(len(level_T)):
        p, weight = 1.0 / vocab_size, 0.5 * vocab_size
        for k in range(level_T[t] + 1):
            p = (weight * p + count_TK[t, k]) / (total_TK[t, k] + weight)
            weight = strength
        out_T[t] = p


@njit(cache=True)
def discount_targets(
    total_TK: Int32,
    count_TK: Int32,
    distinct_TK: Int32,
    level_T: Int64,
    vocab_size: int,
    once_K: Float64,
    twice_K: Float64,
    out_T: Float64,
) -> None:
    """Discounting steps from a uniform prior through all levels; `once_K` and `twice_K` move after each token."""
    for t in range(len(level_T)):
        p = 1.0 / vocab_size
        for k in range(level_T[t] + 1):
            discount = once_K[k] / (once_K[k] + 2.0 * twice_K[k])
            p = ((discount * distinct_TK[t, k]) * p + max(count_TK[t, k] - discount, 0.0)) / total_TK[t, k]
        out_T[t] = p
        discounts_before(count_TK[t : t + 1], once_K, twice_K)


@njit(cache=True)
def discount_row(tokens_n: Int64, counts_n: Int64, discount: float, row_V: Float64) -> None:
    """One discounting step for a whole row."""
    total = 0
    for i in range(len(counts_n)):
        total += counts_n[i]
    kept = discount * len(counts_n)
    for v in range(len(row_V)):
        row_V[v] = kept * row_V[v]
    for i in range(len(tokens_n)):
        row_V[tokens_n[i]] += max(counts_n[i] - discount, 0.0)
    for v in range(len(row_V)):
        row_V[v] = row_V[v] / total


@njit(cache=True)
def discounts_before(count_TK: Int32, once_K: Float64, twice_K: Float64) -> None:
    """Move the number of n-grams read once and twice, of each length, over tokens of the given earlier counts.

    Neither falls below where it started: counts that were carried, or that come late, are not of n-grams seen here.
    """
    for t in range(len(count_TK)):
        for k in range(len(once_K)):
            count = count_TK[t, k]
            if count == 0:
                once_K[k] += 1.0
            elif count == 1:
                once_K[k] = max(once_K[k] - 1.0, 1.0)
                twice_K[k] += 1.0
            elif count == 2:
                twice_K[k] = max(twice_K[k] - 1.0, 0.5)
