"""The mixer's arithmetic: how much of the neural row to take, for each kind of evidence, learnt from scored tokens."""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into, log_fixed
from paramgolf.predict.protocol import Float64, Int64

FIRST_SHARE = 0.3
LEARNING_RATE = 0.05
LEAST_SHARE = 1e-3


@njit(cache=True)
def mix_tokens(
    neural_T: Float64, ngram_T: Float64, evidence_T: Int64, shares_E: Float64, out_T: Float64, share_T: Float64
) -> None:
    """Mixed log-probabilities [T] of tokens whose neural log-probability and n-gram probability are given.

    `share_T` records the neural share that each position used. `shares_E` moves along the gradient of the log-loss
    after each token, so pass a copy to try.
    """
    neural_probability_T = np.empty(len(neural_T))
    exp_into(neural_T, neural_probability_T, len(neural_T))
    for t in range(len(neural_T)):
        share = shares_E[evidence_T[t]]
        neural, ngram = neural_probability_T[t], ngram_T[t]
        probability = (1.0 - share) * ngram + share * neural
        out_T[t] = log_fixed(probability)
        share_T[t] = share
        room = share * (1.0 - share)
        share += LEARNING_RATE * (neural - ngram) / probability * room
        shares_E[evidence_T[t]] = min(max(share, LEAST_SHARE), 1.0 - LEAST_SHARE)


@njit(cache=True)
def mix_row(neural_V: Float64, ngram_V: Float64, share: float, out_V: Float64) -> None:
    """The mixed row in nats, of a neural row in nats and n-gram probabilities."""
    exp_into(neural_V, out_V, len(out_V))
    for v in range(len(out_V)):
        out_V[v] = log_fixed((1.0 - share) * ngram_V[v] + share * out_V[v])
