"""The arithmetic of the tilt and of the choice among experts: the same bits on every CPU.

Legend: E experts, T positions of one lane, V vocabulary. Every exp and log comes from `fixed_math`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into, log_fixed
from paramgolf.predict.protocol import Bool, Float64, Int64

NO_HINT = -1


@njit(cache=True)
def log_normaliser(log_q: float, boost: float) -> float:
    """log(1 + q (e^boost - 1)) for log q <= 0 (more is taken as 0): what the row adds up to once h is raised."""
    pair = np.empty(2)
    pair[0], pair[1] = min(log_q, 0.0), boost
    exp_into(pair, pair, 2)
    return log_fixed(1.0 + pair[0] * (pair[1] - 1.0))


@njit(cache=True)
def tilt_row(row_V: Float64, hint: int, boost: float) -> None:
    """Raise the hint by `boost` nats and normalise again, in place; the other ratios stay."""
    shift = log_normaliser(row_V[hint], boost)
    for v in range(len(row_V)):
        row_V[v] -= shift
    row_V[hint] += boost


@njit(cache=True)
def tilt_credits(tokens_T: Int64, hint_T: Int64, boost_T: Float64, log_q_T: Float64, out_T: Float64) -> None:
    """The same for the log-probability of the token that stands there, in place; where there is no hint, nothing."""
    for t in range(len(out_T)):
        if hint_T[t] != NO_HINT:
            out_T[t] -= log_normaliser(log_q_T[t], boost_T[t])
            if hint_T[t] == tokens_T[t]:
                out_T[t] += boost_T[t]


@njit(cache=True)
def choose(
    token_ET: Int64,
    top_ET: Int64,
    total_ET: Int64,
    gate_ET: Bool,
    boost_E: Float64,
    agreement: float,
    hint_T: Int64,
    boost_T: Float64,
) -> None:
    """Of the experts whose gate is open the one that promises most (#2140, 6.3).

    That is p boost - log(1 + p (e^boost - 1)) with p the share that its hint has had; among equals the earlier. If
    another open expert names the same hint, it is raised by `agreement` nats more.
    """
    for t in range(len(hint_T)):
        hint_T[t], boost_T[t] = NO_HINT, 0.0
        best = -np.inf
        for e in range(len(boost_E)):
            if gate_ET[e, t]:
                share = top_ET[e, t] / total_ET[e, t]
                promise = share * boost_E[e] - log_normaliser(log_fixed(share), boost_E[e])
                if promise > best:
                    best, hint_T[t], boost_T[t] = promise, token_ET[e, t], boost_E[e]
        same = 0
        for e in range(len(boost_E)):
            same += gate_ET[e, t] and token_ET[e, t] == hint_T[t]
        if same > 1:
            boost_T[t] += agreement
