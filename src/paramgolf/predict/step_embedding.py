"""What the stepwise model makes of tokens before its first layer, and the values that it looks up by token.

Legend: T inputs of a block, N inputs of a call with those before it, D width, C channels of all values, B rows of a
table, P its width, O columns. Plain reference: `paramgolf.model.embeddings`.

numpy's operations on single elements round as IEEE 754 says, on every CPU; sums go through `step_math`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.predict.step_math import copy_normalised, multiply
from paramgolf.predict.step_weights import EmbeddingWeights, Float32, sigmoid_of

HERE_KEY, BEFORE_KEY = 36313, 27191  # spec pr549.md 2.4


def embed(w: EmbeddingWeights, tokens_N: Int64, at: int, stop: int, first: int) -> Float64:
    """The stream before the first layer [T, D] of the inputs `tokens_N[at:stop]`, which stand at places first.. .

    What comes before them in their frame comes before them in `tokens_N`, two tokens of it at most.
    """
    shares, gated = len(w.smear_D) > 0, len(w.smear_N1) > 0
    lead = min(first, 1) if shares or gated else 0
    x_TD = _embed_alone(w, tokens_N, at - lead, stop, first - lead)
    if gated:
        here_TD, before_TD = _here_and_before(w, x_TD, tokens_N[at:stop], lead)
        x_TD = here_TD + _share_of_the_one_before(w, here_TD) * before_TD
    copy_normalised(x_TD, 1.0, x_TD)
    if shares:
        here_TD, before_TD = _here_and_before(w, x_TD, tokens_N[at:stop], lead)
        x_TD = here_TD + w.smear_D * (before_TD - here_TD)
    return x_TD


def embed_values(w: EmbeddingWeights, tokens_T: Int64) -> Float64:
    """What tokens add to the values of the layers with a value embedding, [T, C]; no channels without one."""
    return w.value_scale * _product(w.value_VE[tokens_T], w.value_EC) if len(w.value_VE) else np.empty((0, 0))


def _here_and_before(w: EmbeddingWeights, x_TD: Float64, tokens_T: Int64, lead: int) -> tuple[Float64, Float64]:
    """The rows of `tokens_T`, which has `lead` rows less than `x_TD`, and for each the one before it, or nought."""
    before_TD = np.zeros((len(tokens_T), x_TD.shape[1]))
    before_TD[1 - lead :] = x_TD[:-1]
    before_TD[tokens_T == w.smear_boundary] = 0.0
    return x_TD[lead:], before_TD


def _share_of_the_one_before(w: EmbeddingWeights, here_TD: Float64) -> Float64:
    """How much of the place before each row adds to itself, [T, 1] (spec pr2140.md 2.3)."""
    score_T1 = np.empty((len(here_TD), 1))
    multiply(np.ascontiguousarray(here_TD[:, : len(w.smear_N1)]), w.smear_N1, score_T1)
    return w.smear_scale * sigmoid_of(score_T1)


def _embed_alone(w: EmbeddingWeights, tokens_N: Int64, at: int, stop: int, first: int) -> Float64:
    """Tokens and pairs, before the first norm and without the share of the place before."""
    x_TD: Float64 = w.token_VD[tokens_N[at:stop]].astype(np.float64)
    if len(w.pair_BP):
        last = len(w.pair_BP) - 1
        bucket_T = np.full(stop - at, last)
        alone = 1 if first == 0 else 0  # the frame's first input has no predecessor
        here, before = tokens_N[at + alone : stop], tokens_N[at + alone - 1 : stop - 1]
        bucket_T[alone:] = ((HERE_KEY * here) ^ (BEFORE_KEY * before)) % last
        x_TD += w.pair_scale * _product(w.pair_BP[bucket_T], w.pair_PD)
    return x_TD


def _product(rows_TP: Float32, a_PO: Float32) -> Float64:
    """Rows of a table through a matrix."""
    out_TO = np.empty((len(rows_TP), a_PO.shape[1]))
    multiply(rows_TP.astype(np.float64), a_PO, out_TO)
    return out_TO
