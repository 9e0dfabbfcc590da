"""How much of a row the counts get: all of it, what the neural entropy says, or what they have earned so far.

Legend: T positions of one lane, E kinds of evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.predict.cache_kernel import NEURAL_ALONE, entropy_shares, learnt_shares
from paramgolf.predict.protocol import Float64, Int64

ENTROPY_EDGES = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])  # nats between the bins of LearntShare
TOTAL_BINS = 16  # powers of two; the last takes all larger totals
FIRST_SHARE = 0.3
FIRST_SEEN = 4.0  # positions that the first share counts as


@dataclass(frozen=True)
class Position:
    """What is known before the tokens of T positions: the level that the rule believes, its total, neural entropy.

    `entropy_T` is empty for a share that does not need it.
    """

    level_T: Int64
    total_T: Int64
    entropy_T: Float64


class Share(Protocol):
    """The counts' share of each row. `shares` changes nothing; `learn` is the only place where state moves.

    `neural_T` and `counted_T` are the two probabilities of the tokens that came. Only a share that `learns` looks at
    them, and at those of earlier positions only.
    """

    needs_entropy: bool
    learns: bool

    def shares(self, known: Position, neural_T: Float64, counted_T: Float64) -> Float64:
        """Share [T] of the counts, between 0 and 1."""
        ...

    def learn(self, known: Position, neural_T: Float64, counted_T: Float64) -> None:
        """Take in positions that were scored."""
        ...


class Whole:
    """The counts' estimate as it is: it has the neural row inside (`NormCache`)."""

    needs_entropy = False
    learns = False

    def shares(self, known: Position, neural_T: Float64, counted_T: Float64) -> Float64:
        return np.ones(len(known.level_T))

    def learn(self, known: Position, neural_T: Float64, counted_T: Float64) -> None:
        """Nothing."""


class EntropyShare:
    """alpha = base + range * sigmoid(2 (H - centre)), H the entropy of the neural row in nats.

    Sources: #1185 (base .08, range .65, centre 3.5), #1430 (.20, .55, 2.5).
    """

    needs_entropy = True
    learns = False

    def __init__(self, base: float, span: float, centre: float) -> None:
        if not (base >= 0 and span >= 0 and base + span <= 1):
            raise RecipeError(f"a share between {base} and {base + span} does not lie in 0..1")
        self._base = base
        self._span = span
        self._centre = centre

    def shares(self, known: Position, neural_T: Float64, counted_T: Float64) -> Float64:
        share_T = np.empty(len(known.level_T))
        entropy_shares(known.entropy_T, self._base, self._span, self._centre, share_T)
        return share_T

    def learn(self, known: Position, neural_T: Float64, counted_T: Float64) -> None:
        """Nothing."""


class LearntShare:
    """One share for each kind of evidence (level, floor(log2 total), bin of the neural entropy), learnt by online EM.

    Each is the mean of the posterior probability that the counts and not the model produced the token, over the
    positions of that kind that were scored. Source: #1185, spec sections 4.9 and 4.10 ("gate").
    """

    needs_entropy = True
    learns = True

    def __init__(self, levels: int) -> None:
        kinds = levels * TOTAL_BINS * (len(ENTROPY_EDGES) + 1)
        self._earned_E = np.full(kinds, FIRST_SHARE * FIRST_SEEN)
        self._seen_E = np.full(kinds, FIRST_SEEN)

    def shares(self, known: Position, neural_T: Float64, counted_T: Float64) -> Float64:
        return self._walk(known, neural_T, counted_T, self._earned_E.copy(), self._seen_E.copy())

    def learn(self, known: Position, neural_T: Float64, counted_T: Float64) -> None:
        """Move the shares over the positions, one after the other."""
        self._walk(known, neural_T, counted_T, self._earned_E, self._seen_E)

    def _walk(
        self, known: Position, neural_T: Float64, counted_T: Float64, earned_E: Float64, seen_E: Float64
    ) -> Float64:
        share_T = np.empty(len(known.level_T))
        learnt_shares(_kinds(known), neural_T, counted_T, earned_E, seen_E, share_T)
        return share_T


def _kinds(known: Position) -> Int64:
    """The kind of evidence [T] of each position, -1 where the neural row stands alone."""
    # The exponent of a whole number below 2^53 is exact, unlike its logarithm.
    total_bin_T = np.clip(np.frexp(known.total_T.astype(np.float64))[1] - 1, 0, TOTAL_BINS - 1)
    entropy_bin_T = np.searchsorted(ENTROPY_EDGES, known.entropy_T, side="right")
    kind_T = (known.level_T * TOTAL_BINS + total_bin_T) * (len(ENTROPY_EDGES) + 1) + entropy_bin_T
    return np.where(known.level_T == NEURAL_ALONE, -1, kind_T).astype(np.int64)
