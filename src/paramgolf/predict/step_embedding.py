"""What the stepwise model makes of tokens before its first layer, and the values that it looks up by token.

Legend: T inputs of a block, N inputs of a call with those before it, D width, C channels of all values, B rows of a
table, P its width, O columns. Plain reference: `paramgolf.model.embeddings`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from paramgolf.predict.step_math import multiply, normalise
from paramgolf.predict.step_weights import EmbeddingWeights

HERE_KEY, BEFORE_KEY = 36313, 27191  # spec pr549.md 2.4


@njit(cache=True, error_model="numpy")
def embed(w: EmbeddingWeights, tokens_N: Any, at: int, first: int, out_TD: Any, value_TC: Any) -> None:
    """The stream before the first layer, and values by token, of the inputs `tokens_N[at : at + T]` at places first.. .

    What comes before them in their frame comes before them in `tokens_N`, two tokens of it at most. Without a value
    embedding `value_TC` is left as it is.
    """
    count, width = out_TD.shape
    lead = 1 if first > 0 and len(w.smear_D) else 0  # the place before takes part too
    x_TD = np.empty((count + lead, width))
    if len(w.pair_BP):
        bucket_T = np.empty(count + lead, dtype=np.int64)
        for t in range(count + lead):
            n, last = at - lead + t, len(w.pair_BP) - 1
            bucket_T[t] = last
            if first - lead + t > 0:
                bucket_T[t] = ((HERE_KEY * tokens_N[n]) ^ (BEFORE_KEY * tokens_N[n - 1])) % last
        look_up(w.pair_BP, w.pair_PD, bucket_T, w.pair_scale, x_TD)
    for t in range(count + lead):
        for d in range(width):
            pair = x_TD[t, d] if len(w.pair_BP) else 0.0
            x_TD[t, d] = w.token_VD[tokens_N[at - lead + t], d] + pair
        normalise(x_TD[t])
    for t in range(count):
        alone = first + t == 0 or tokens_N[at + t] == w.smear_boundary
        for d in range(width):
            out_TD[t, d] = x_TD[lead + t, d]
            if len(w.smear_D):
                before = 0.0 if alone else x_TD[lead + t - 1, d]
                out_TD[t, d] += w.smear_D[d] * (before - out_TD[t, d])
    if len(w.value_VE):
        look_up(w.value_VE, w.value_EC, tokens_N[at : at + count], w.value_scale, value_TC)


@njit(cache=True, error_model="numpy")
def look_up(table_BP: Any, a_PO: Any, row_T: Any, factor: float, out_TO: Any) -> None:
    """Rows of a table, through a matrix, times a factor."""
    count, width = len(out_TO), table_BP.shape[1]
    x_TP = np.empty((count, width))
    for t in range(count):
        for p in range(width):
            x_TP[t, p] = factor * table_BP[row_T[t], p]
    multiply(x_TP, a_PO, out_TO)
