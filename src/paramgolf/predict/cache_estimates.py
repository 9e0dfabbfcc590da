"""From exact counts to a probability of every token, four ways. Each sums to one over the vocabulary by its formula.

Legend: T positions of one lane, K contexts (of 0, 1, ... K - 1 tokens), V vocabulary; c, T_k and N_k are a level's
count of a token, total, and number of different followers. `neural` are probabilities of the neural row.

A total is the sum of the very counts that it divides, so no estimate needs to be normalised.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.predict.cache_chains import (
    chain_targets,
    discount_row,
    discount_targets,
    discounts_before,
    level_row,
    level_targets,
)
from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.protocol import Float64, Int64

NEVER = 1 << 30  # tokens of a context that no text has


class Estimate(Protocol):
    """What the counts say. `targets` and `row` change nothing; `learn` is the only place where state moves.

    A position whose longest known context has fewer than `least_level` tokens belongs to the neural row alone; its
    entry of `targets` means nothing and its `row` is not asked for.
    """

    least_level: int
    learns: bool

    def targets(self, evidence: Evidence, level_T: Int64, neural_T: Float64) -> Float64:
        """Probability [T] of the tokens that stand at the positions, given their neural probabilities."""
        ...

    def row(self, evidence: Evidence, position: int, followers: list[Followers], neural_V: Float64) -> Float64:
        """Probability [V] of every token at one position."""
        ...

    def learn(self, evidence: Evidence) -> None:
        """Take in positions that were scored."""
        ...


class Laplace:
    """#1185 as published: (c + 1) / (T_k + V) of the longest known context of one token or more.

    V is the vocabulary's size; the published code wrote 1024 instead. It is a distribution, hence honest, and almost
    uniform: a context seen once gives its follower 2 / (V + 1). Mixed into a good model it does harm.
    Source: shared spec of #1185, sections 4.3 and 4.6.
    """

    least_level = 1
    learns = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def targets(self, evidence: Evidence, level_T: Int64, neural_T: Float64) -> Float64:
        out_T = np.full(len(level_T), 1.0 / self._vocab_size)
        level_targets(evidence.total_TK, evidence.count_TK, level_T, float(self._vocab_size), out_T)
        return out_T

    def row(self, evidence: Evidence, position: int, followers: list[Followers], neural_V: Float64) -> Float64:
        row_V = np.full(self._vocab_size, 1.0 / self._vocab_size)
        _step(followers[-1], float(self._vocab_size), row_V)
        return row_V

    def learn(self, evidence: Evidence) -> None:
        """Nothing."""


class NormCache:
    """(c + strength p_neural) / (T_k + strength) of the longest known context of `least_level` tokens or more.

    One Dirichlet step with the neural row as prior: the counts weigh as many occurrences as they have, the neural row
    `strength`. An infinite strength is the neural row, bit for bit. Source: #1185, spec section 4.10.
    """

    learns = False

    def __init__(self, least_level: int, strength: float) -> None:
        if not strength > 0:
            raise RecipeError(f"a cache of strength {strength}: the neural row must count as something, say 16")
        self.least_level = NEVER if math.isinf(strength) else least_level
        self._strength = strength

    def targets(self, evidence: Evidence, level_T: Int64, neural_T: Float64) -> Float64:
        out_T = neural_T.copy()
        level_targets(evidence.total_TK, evidence.count_TK, level_T, self._strength, out_T)
        return out_T

    def row(self, evidence: Evidence, position: int, followers: list[Followers], neural_V: Float64) -> Float64:
        row_V = neural_V.copy()
        _step(followers[-1], self._strength, row_V)
        return row_V

    def learn(self, evidence: Evidence) -> None:
        """Nothing."""


class Backoff:
    """All contexts from the empty one up: p_k(v) = (c + strength p_{k-1}(v)) / (T_k + strength).

    The empty context gives (c + 1/2) / (n + V / 2), as #1430 has it. Its longer contexts divided the cells of two hash
    tables and did not sum to one; here each level smooths the one below (MacKay and Peto 1995). Source: #1430, spec
    section 6.
    """

    least_level = 0
    learns = False

    def __init__(self, vocab_size: int, strength: float) -> None:
        if not (strength > 0 and math.isfinite(strength)):
            raise RecipeError(f"a backoff of strength {strength}: it must be a positive number, say 1")
        self._vocab_size = vocab_size
        self._strength = strength

    def targets(self, evidence: Evidence, level_T: Int64, neural_T: Float64) -> Float64:
        out_T = np.empty(len(level_T))
        chain_targets(evidence.total_TK, evidence.count_TK, level_T, self._vocab_size, self._strength, out_T)
        return out_T

    def row(self, evidence: Evidence, position: int, followers: list[Followers], neural_V: Float64) -> Float64:
        row_V = np.full(self._vocab_size, 1.0 / self._vocab_size)
        strength = 0.5 * self._vocab_size
        for level in followers:
            _step(level, strength, row_V)
            strength = self._strength
        return row_V

    def learn(self, evidence: Evidence) -> None:
        """Nothing."""


class AbsoluteDiscounting:
    """p_k(v) = (max(c - D_k, 0) + D_k N_k p_{k-1}(v)) / T_k from a uniform p up (Ney, Essen, Kneser 1994).

    D_k = n1 / (n1 + 2 n2) of the n-grams of that length that were read once and twice, counted as they pass. The
    lower levels use plain counts: it is not Kneser-Ney, which needs to know how many contexts a token has followed.
    """

    least_level = 0
    learns = True

    def __init__(self, vocab_size: int, levels: int) -> None:
        self._vocab_size = vocab_size
        self._once_K = np.ones(levels)  # one and a half: a discount of 1/2 before anything is known
        self._twice_K = np.full(levels, 0.5)

    def targets(self, evidence: Evidence, level_T: Int64, neural_T: Float64) -> Float64:
        out_T = np.empty(len(level_T))
        discount_targets(
            evidence.total_TK,
            evidence.count_TK,
            evidence.distinct_TK,
            level_T,
            self._vocab_size,
            self._once_K.copy(),
            self._twice_K.copy(),
            out_T,
        )
        return out_T

    def row(self, evidence: Evidence, position: int, followers: list[Followers], neural_V: Float64) -> Float64:
        once_K, twice_K = self._once_K.copy(), self._twice_K.copy()
        discounts_before(evidence.count_TK[:position], once_K, twice_K)
        row_V = np.full(self._vocab_size, 1.0 / self._vocab_size)
        for k, level in enumerate(followers):
            discount = once_K[k] / (once_K[k] + 2.0 * twice_K[k])
            discount_row(level.tokens, level.counts, discount, row_V)
        return row_V

    def learn(self, evidence: Evidence) -> None:
        """Count the n-grams that were read once and twice."""
        discounts_before(evidence.count_TK, self._once_K, self._twice_K)


def _step(followers: Followers, strength: float, row_V: Float64) -> None:
    level_row(followers.tokens, followers.counts, strength, row_V)
