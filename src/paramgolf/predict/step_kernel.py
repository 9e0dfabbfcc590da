"""The GPT of `ModelRecipe` for some tokens at a time with a key/value cache: float64, one fixed order of summation.

Legend: T inputs of a block, N inputs of a call with those before it, L layers, R visits of layers, S U-Net skips, D
width, H query heads, G key/value heads, K channels of a head, C = G K, J keys, values and scores of gates side by side,
M channels of the MLP, U those with their gates, W window, V vocabulary, Q rows of queries. Plain reference:
`paramgolf.model.gpt.GPT`.

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
from paramgolf.predict.step_gates import gate_heads, keep_served, put_served
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
    square,
)
from paramgolf.predict.step_stream import add_to_lanes, average, join, mix
from paramgolf.predict.step_weights import LayerWeights, RouteWeights, StepWeights

BLOCK = 32  # inputs that go through all layers together: what they need stays in the cache of a core
LOGIT_STEPS = 256.0  # logits are rounded to multiples of 1/256


class StepCache(NamedTuple):
    """Keys (channels before positions, so that scores vectorise) and values of one frame, rounded to float32.

    Each visit has its own: a layer that runs again reads what it made of the stream as it then was.
    """

    keys_RGKW: Any
    values_RGWK: Any


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
        run_layers(w.layers, w.route, cache, first + begin, wanted, start_TD, value_TC, h_TD)
        begin = stop


@njit(cache=True, error_model="numpy")
def run_layers(
    w: LayerWeights,
    r: RouteWeights,
    cache: StepCache,
    first: int,
    wanted: bool,
    start_TD: Any,
    value_TC: Any,
    h_TD: Any,
) -> None:
    """States after all visits of inputs at places first.. of their frame, from the stream before any.

    Unless they are `wanted`, the last visit makes keys and values only, and `h_TD` is left with no meaning. Where
    attention and MLP run in parallel, `h_TD` is the lane that attention reads, `side_TD` that of the MLP.
    """
    count, width = h_TD.shape
    visits = len(r.layer_R)
    channels = cache.values_RGWK.shape[1] * cache.values_RGWK.shape[3]
    x_TD, y_TD = np.empty((count, width)), np.empty((count, width))
    side_TD = np.empty((count if len(r.kept_L2) else 0, width))
    both_TJ = np.empty((count, w.key_value_LDJ.shape[2]))
    first_TC = np.empty((count, channels))
    up_TU, hidden_TM = np.empty((count, w.up_LDU.shape[2])), np.empty((count, w.down_LMD.shape[1]))
    place_T, open_T = np.empty(count, dtype=np.int64), np.empty(count)
    kept_STD = np.empty((len(r.skip_SD), count, width))
    kept, split, ones_2 = 0, False, np.ones(2)
    copy(start_TD, h_TD)
    for visit in range(visits):
        layer, parallel = r.layer_R[visit], r.parallel_R[visit]
        if parallel and not split:
            split = True
            copy(h_TD, side_TD)
        if r.joins_R[visit] >= 0:
            kept -= 1
            join(h_TD, kept_STD[kept], r.skip_SD[r.joins_R[visit]], r.skip_gate_SD[r.joins_R[visit]])
        read_TD = h_TD
        if len(w.mix_L2D):
            read_TD = x_TD if parallel else h_TD  # a lane itself stays as it is
            mix(h_TD, start_TD, w.mix_L2D[layer], read_TD)
        keys_GKW, values_GWK = cache.keys_RGKW[visit], cache.values_RGWK[visit]
        copy_normalised(read_TD, w.depth_L[layer], x_TD)
        multiply(x_TD, w.key_value_LDJ[layer], both_TJ)
        add_values(both_TJ, value_TC, w.value_gain_L[layer], first_TC, w.value_mix_L2[layer], visit == 0)
        keep_keys_values(both_TJ, w.turn_WJ2, first, keys_GKW, values_GWK)
        if visit == visits - 1 and not wanted:
            return
        multiply(x_TD, w.query_LDD[layer], y_TD)
        read_heads(y_TD, w.gain_LH[layer], w.turn_WJ2, first, keys_GKW, values_GWK, w.excludes_L[layer])
        gate_heads(y_TD, both_TJ, w.gate_scale, w.gate_bias_LH[layer])
        multiply(y_TD, w.output_LDD[layer], x_TD)
        if parallel:
            copy_normalised(side_TD, w.depth_L[layer], y_TD)  # first: the MLP does not see what attention read
            add_to_lanes(h_TD, side_TD, x_TD, w.attention_scale_LD[layer], r.kept_L2[layer], r.added_L22[layer, 0])
            copy(y_TD, x_TD)
        else:
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
        if parallel:
            add_to_lanes(h_TD, side_TD, y_TD, w.mlp_scale_LD[layer], ones_2, r.added_L22[layer, 1])
        else:
            add_scaled(h_TD, y_TD, w.mlp_scale_LD[layer])
        if r.keeps_R[visit]:
            copy(h_TD, kept_STD[kept])
            kept += 1
    if split:
        average(h_TD, side_TD)
    copy_normalised(h_TD, 1.0, h_TD)


@njit(cache=True, error_model="numpy")
def add_values(both_TJ: Any, value_TC: Any, gain: float, first_TC: Any, mix_2: Any, is_first: bool) -> None:
    """Value embeddings for the values, then the first visit's share, which that visit leaves in `first_TC`."""
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
def head_rows(h_TD: Any, head_DV: Any, softcaps: tuple[float, float], out_TV: Any) -> None:
    """Log-probabilities [T, V] in nats of states [T, D]; logits above 0 have a cap of their own."""
    above, below = softcaps
    multiply(h_TD, head_DV, out_TV)
    vocab = out_TV.shape[1]
    powers = np.empty(vocab)
    for t in range(len(out_TV)):
        row = out_TV[t]
        for v in range(vocab):
            row[v] = 2.0 * row[v] / (above if row[v] > 0.0 else below)
        exp_into(row, powers, vocab)
        for v in range(vocab):  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
            capped = (above if row[v] > 0.0 else below) * (1.0 - 2.0 / (powers[v] + 1.0))
            powers[v] = math.floor(capped * LOGIT_STEPS + 0.5) / LOGIT_STEPS
        log_softmax_into(powers, row)
