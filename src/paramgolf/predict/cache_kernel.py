"""The arithmetic that rules over counts share: entropies, shares, mixtures. The same bits on every CPU.

Legend: T positions of one lane, K contexts (of 0, 1, ... K - 1 tokens), V vocabulary, E kinds of evidence.
Every sum has a fixed order and every exp and log comes from `fixed_math`, so that a decoder finds the encoder's bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.evidence import Int32
from paramgolf.predict.fixed_math import LOWEST, exp_into, log_fixed
from paramgolf.predict.protocol import Float64, Int64

SUMS = 8  # partial sums of an entropy: fixed, so that the order is, and wide enough for a CPU's vectors
LEAST_PROBABILITY = 1e-300  # still a normal number; V of them are nothing beside a tolerance of 1e-9
NEURAL_ALONE = -1  # level of a position where the counts know nothing that the rule believes


@njit(cache=True)
def entropies_into(logprob_TV: Float64, out_T: Float64) -> None:
    """Entropy in nats of each row of natural logarithms; an entry of minus infinity adds nothing."""
    size = logprob_TV.shape[1]
    probability_V = np.empty(size)
    whole = size // SUMS * SUMS
    for t in range(len(out_T)):
        row_V = logprob_TV[t]
        exp_into(row_V, probability_V, size)
        sums = np.zeros(SUMS)
        for first in range(0, whole, SUMS):
            for j in range(SUMS):
                sums[j] += probability_V[first + j] * max(row_V[first + j], LOWEST)
        total = 0.0
        for j in range(SUMS):
            total += sums[j]
        for v in range(whole, size):
            total += probability_V[v] * max(row_V[v], LOWEST)
        out_T[t] = max(-total, 0.0)


@njit(cache=True)
def longest_levels(total_TK: Int32, least: int, level_T: Int64) -> None:
    """Tokens of the longest known context at each position, `NEURAL_ALONE` where it has fewer than `least`."""
    for t in range(len(level_T)):
        known = 0
        while known < total_TK.shape[1] and total_TK[t, known] > 0:
            known += 1
        level_T[t] = known - 1 if known > 0 and known - 1 >= least else NEURAL_ALONE


@njit(cache=True)
def entropy_shares(entropy_T: Float64, base: float, span: float, centre: float, share_T: Float64) -> None:
    """share = base + span * sigmoid(2 (entropy - centre))."""
    for t in range(len(share_T)):
        share_T[t] = -2.0 * (entropy_T[t] - centre)
    exp_into(share_T, share_T, len(share_T))
    for t in range(len(share_T)):
        share_T[t] = base + span / (1.0 + share_T[t])


@njit(cache=True)
def learnt_shares(
    kind_T: Int64, neural_T: Float64, counted_T: Float64, earned_E: Float64, seen_E: Float64, share_T: Float64
) -> None:
    """Online EM: the share of a kind of evidence is the mean of what the counts had earned at its earlier positions.

    `neural_T` and `counted_T` are the two probabilities of the token that came. `earned_E` and `seen_E` move after each
    token, so pass copies to try. A kind below 0 has no share and teaches nothing.
    """
    for t in range(len(share_T)):
        kind = kind_T[t]
        if kind < 0:
            share_T[t] = 0.0
            continue
        share = earned_E[kind] / seen_E[kind]
        share_T[t] = share
        counted = share * counted_T[t]
        earned_E[kind] += counted / max(counted + (1.0 - share) * neural_T[t], LEAST_PROBABILITY)
        seen_E[kind] += 1.0


@njit(cache=True)
def mix_targets(
    log_T: Float64, neural_T: Float64, counted_T: Float64, level_T: Int64, share_T: Float64, out_T: Float64
) -> None:
    """Log-probability of each token; where the neural row stands alone, its own `log_T` bit for bit."""
    for t in range(len(out_T)):
        if level_T[t] == NEURAL_ALONE:
            out_T[t] = log_T[t]
        else:
            mixed = (1.0 - share_T[t]) * neural_T[t] + share_T[t] * counted_T[t]
            out_T[t] = log_fixed(max(mixed, LEAST_PROBABILITY))


@njit(cache=True)
def mix_row(neural_V: Float64, counted_V: Float64, share: float, out_V: Float64) -> None:
    """The same for a whole row of probabilities."""
    for v in range(len(out_V)):
        out_V[v] = log_fixed(max((1.0 - share) * neural_V[v] + share * counted_V[v], LEAST_PROBABILITY))
