"""The GPT of `ModelRecipe` for some tokens at a time with a key/value cache: float64, one fixed order of summation.

Legend: T inputs of a block, N inputs of a call with those before it, L layers, D width, H query heads, G key/value
heads, K channels of a head, C = G K, J keys, values and scores of gates side by side, M channels of the MLP, U
those with their gates, W window, V vocabulary, Q rows of queries. Plain reference: `paramgolf.model.gpt.GPT`.

The layers are one compiled function that calls small ones, few levels deep: numba optimises all that a function calls
anew in every caller, and a new machine waits for that.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into, log_softmax_into
from paramgolf.predict.step_embedding import embed, embed_values
from paramgolf.predict.step_math import (
    add_scaled,
    attend,
    copy,
    copy_normalised,
    exclude,
    multiply,
    multiply_live,
    normalise,
    rotate,
    sigmoid,
    square,
)
from paramgolf.predict.step_weights import LayerWeights, StepWeights

BLOCK = 32  # inputs that go through all layers together: what they need stays in the cache of a core
LOGIT_STEPS = 256.0  # logits are rounded to multiples of 1/256


class StepCache(NamedTuple):
    """Keys (channels before positions, so that scores vectorise) and values of one frame, rounded to float32."""

    keys_LGKW: Any
    values_LGWK: Any


def forward(w: StepWeights, cache: StepCache, tokens_N: Any, first: int, out_TD: Any) -> None:
    """Run the inputs that stand at places first.. of a frame whose earlier ones are cached.

    `tokens_N` begins with the `min(first, 2)` inputs before them. `out_TD` takes the states after the last norm, of
    the last inputs only where it has fewer rows.
    """
    lead = min(first, 2)
    count = len(tokens_N) - lead
    unread = count - len(out_TD)
    begin = 0
    while begin < count:
        wanted = begin >= unread
        stop = min(begin + BLOCK, count if wanted else unread)
        start_TD = embed(w.embedding, tokens_N, lead + begin, lead + stop, first + begin)
        value_TC = embed_values(w.embedding, tokens_N[lead + begin : lead + stop])
        h_TD = out_TD[begin - unread : stop - unread] if wanted else np.empty_like(start_TD)
        run_layers(w.layers, cache, first + begin, wanted, start_TD, value_TC, h_TD)
        begin = stop


@njit(cache=True, error_model="numpy")
def run_layers(
    w: LayerWeights, cache: StepCache, first: int, wanted: bool, start_TD: Any, value_TC: Any, h_TD: Any
) -> None:
    """States after all layers of inputs at places first.. of their frame, from the stream before any.

    Unless they are `wanted`, the last layer makes keys and values only, and `h_TD` is left with no meaning.
    """
    count, width = h_TD.shape
    layers, skips = len(w.query_LDD), len(w.skip_SD)
    channels = cache.values_LGWK.shape[1] * cache.values_LGWK.shape[3]
    x_TD, y_TD = np.empty((count, width)), np.empty((count, width))
    both_TJ = np.empty((count, w.key_value_LDJ.shape[2]))
    first_TC = np.empty((count, channels))
    up_TU, hidden_TM = np.empty((count, w.up_LDU.shape[2])), np.empty((count, w.down_LMD.shape[1]))
    place_T, open_T = np.empty(count, dtype=np.int64), np.empty(count)
    kept_STD = np.empty((skips, count, width))
    copy(start_TD, h_TD)
    for layer in range(layers):
        if skips <= layer < 2 * skips:
            add_scaled(h_TD, kept_STD[2 * skips - 1 - layer], w.skip_SD[layer - skips])
        if len(w.mix_L2D):
            mix(h_TD, start_TD, w.mix_L2D[layer])
        keys_GKW, values_GWK = cache.keys_LGKW[layer], cache.values_LGWK[layer]
        copy_normalised(h_TD, w.depth_L[layer], x_TD)
        multiply(x_TD, w.key_value_LDJ[layer], both_TJ)
        add_values(both_TJ, value_TC, w.value_gain_L[layer], first_TC, w.value_mix_L2[layer], layer == 0)
        keep_keys_values(both_TJ, w.turn_WJ2, first, keys_GKW, values_GWK)
        if layer == layers - 1 and not wanted:
            return
        multiply(x_TD, w.query_LDD[layer], y_TD)
        read_heads(y_TD, w.gain_LH[layer], w.turn_WJ2, first, keys_GKW, values_GWK, w.excludes_L[layer])
        gate_heads(y_TD, both_TJ, w.gate_bias_LH[layer])
        multiply(y_TD, w.output_LDD[layer], x_TD)
        add_scaled(h_TD, x_TD, w.attention_scale_LD[layer])
        copy_normalised(h_TD, w.depth_L[layer], x_TD)
        served = count
        if w.routed_L[layer]:
            served = keep_served(x_TD, w.router_LD[layer], w.router_bias_L[layer], place_T, open_T)
        multiply(x_TD[:served], w.up_LDU[layer], up_TU[:served])
        square(up_TU[:served], w.slope, hidden_TM)
        if w.slope == 0.0:
            for t in range(served):
                multiply_live(hidden_TM[t], w.down_LMD[layer], y_TD[t])
        else:
            multiply(hidden_TM[:served], w.down_LMD[layer], y_TD[:served])
        if w.routed_L[layer]:
            put_served(y_TD, served, place_T, open_T)
        add_scaled(h_TD, y_TD, w.mlp_scale_LD[layer])
        if layer < skips:
            copy(h_TD, kept_STD[layer])
    copy_normalised(h_TD, 1.0, h_TD)


@njit(cache=True, error_model="numpy")
def mix(h_TD: Any, start_TD: Any, mix_2D: Any) -> None:
    """The stream and the first embedding, each with a gain for every channel, into the stream."""
    for t in range(len(h_TD)):
        for d in range(h_TD.shape[1]):
            h_TD[t, d] = mix_2D[0, d] * h_TD[t, d] + mix_2D[1, d] * start_TD[t, d]


@njit(cache=True, error_model="numpy")
def add_values(both_TJ: Any, value_TC: Any, gain: float, first_TC: Any, mix_2: Any, is_first: bool) -> None:
    """Value embeddings for the values, then the first layer's share, which that layer leaves in `first_TC`."""
    channels = first_TC.shape[1]
    for t in range(len(both_TJ)):
        own_C = both_TJ[t, channels : 2 * channels]
        if gain != 0.0:
            for c in range(channels):
                own_C[c] += gain * value_TC[t, c]
        if len(mix_2):
            for c in range(channels):
                if is_first:
                    first_TC[t, c] = own_C[c]
                own_C[c] = mix_2[0] * first_TC[t, c] + mix_2[1] * own_C[c]


@njit(cache=True, error_model="numpy")
def gate_heads(y_TD: Any, both_TJ: Any, bias_H: Any) -> None:
    """What each head read, in place, times the sigmoid of its score, which stands last in a row of `both_TJ`."""
    heads = len(bias_H)
    if heads == 0:
        return
    size = y_TD.shape[1] // heads
    for t in range(len(y_TD)):
        gate_H = both_TJ[t, both_TJ.shape[1] - heads :]
        for n in range(heads):
            gate_H[n] += bias_H[n]
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


@njit(cache=True, error_model="numpy")
def keep_keys_values(both_TJ: Any, turn_WJ2: Any, first: int, keys_GKW: Any, values_GWK: Any) -> None:
    """Norms and positions for the keys of places first..; keys and values into the cache."""
    groups, size = keys_GKW.shape[0], keys_GKW.shape[1]
    channels = groups * size
    for t in range(len(both_TJ)):
        place = first + t
        for g in range(groups):
            key_K = both_TJ[t, g * size : (g + 1) * size]
            normalise(key_K)
            rotate(key_K, turn_WJ2[place])
            for k in range(size):
                keys_GKW[g, k, place] = key_K[k]
                values_GWK[g, place, k] = both_TJ[t, channels + g * size + k]


@njit(cache=True, error_model="numpy")
def read_heads(
    y_TD: Any, gain_H: Any, turn_WJ2: Any, first: int, keys_GKW: Any, values_GWK: Any, excludes: bool
) -> None:
    """From the queries of places first.., in their stead, what the heads read."""
    groups, size = keys_GKW.shape[0], keys_GKW.shape[1]
    heads = len(gain_H) // groups  # that share a key
    rows = len(y_TD) * heads
    query_QK, read_QK = np.empty((rows, size)), np.empty((rows, size))
    for g in range(groups):
        for n in range(rows):
            t, head = n // heads, g * heads + n % heads
            for k in range(size):
                query_QK[n, k] = y_TD[t, head * size + k]
            normalise(query_QK[n])
            rotate(query_QK[n], turn_WJ2[first + t])
            for k in range(size):
                query_QK[n, k] *= gain_H[head]
        attend(query_QK, heads, first, keys_GKW[g], values_GWK[g], read_QK)
        for n in range(rows):
            t, head = n // heads, g * heads + n % heads
            if excludes:
                exclude(read_QK[n], values_GWK[g, first + t])
            for k in range(size):
                y_TD[t, head * size + k] = read_QK[n, k]


@njit(cache=True, error_model="numpy")
def head_rows(h_TD: Any, head_DV: Any, softcap: float, out_TV: Any) -> None:
    """Log-probabilities [T, V] in nats of states [T, D]."""
    multiply(h_TD, head_DV, out_TV)
    vocab = out_TV.shape[1]
    powers = np.empty(vocab)
    for t in range(len(out_TV)):
        row = out_TV[t]
        for v in range(vocab):
            row[v] = 2.0 * row[v] / softcap
        exp_into(row, powers, vocab)
        for v in range(vocab):  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
            capped = softcap * (1.0 - 2.0 / (powers[v] + 1.0))
            powers[v] = math.floor(capped * LOGIT_STEPS + 0.5) / LOGIT_STEPS
        log_softmax_into(powers, row)
