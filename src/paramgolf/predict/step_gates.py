"""What decides at a position of the stepwise model how much counts: gates of heads, routers of the MLP.

Legend: T inputs of a block, D width, H query heads, J keys, values and scores of gates side by side. Plain reference:
`paramgolf.model.gates`.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from paramgolf.predict.step_math import sigmoid


@njit(cache=True, error_model="numpy")
def gate_heads(y_TD: Any, both_TJ: Any, scale: float, bias_H: Any) -> None:
    """What each head read, in place, times the sigmoid of its score, which stands last in a row of `both_TJ`."""
    heads = len(bias_H)
    if heads == 0:
        return
    size = y_TD.shape[1] // heads
    for t in range(len(y_TD)):
        gate_H = both_TJ[t, both_TJ.shape[1] - heads :]
        for n in range(heads):
            gate_H[n] = scale * gate_H[n] + bias_H[n]
        sigmoid(gate_H)
        for d in range(y_TD.shape[1]):
            y_TD[t, d] *= gate_H[d // size]


@njit(cache=True, error_model="numpy")
def keep_served(x_TD: Any, router_D: Any, bias: float, place_T: Any, open_T: Any) -> int:
    """Move the rows with a score above 0 to the top; their number, places, and 2 sigmoid(score) - 1."""
    served = 0
    for t in range(len(x_TD)):
        score = bias
        for d in range(x_TD.shape[1]):
            score += x_TD[t, d] * router_D[d]
        if score > 0.0:
            place_T[served], open_T[served] = t, score
            for d in range(x_TD.shape[1]):
                x_TD[served, d] = x_TD[t, d]
            served += 1
    sigmoid(open_T[:served])
    for n in range(served):
        open_T[n] = 2.0 * open_T[n] - 1.0
    return served


@njit(cache=True, error_model="numpy")
def put_served(y_TD: Any, served: int, place_T: Any, open_T: Any) -> None:
    """The first `served` rows back to their places, each times its opening; 0 in all others."""
    n = served - 1
    for t in range(len(y_TD) - 1, -1, -1):  # from the last: no row is written before it is read
        is_served = n >= 0 and place_T[n] == t
        for d in range(y_TD.shape[1]):
            y_TD[t, d] = open_T[n] * y_TD[n, d] if is_served else 0.0
        if is_served:
            n -= 1
