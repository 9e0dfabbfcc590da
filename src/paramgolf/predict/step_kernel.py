"""The GPT of `ModelRecipe` for a few tokens at a time with a key/value cache: float64, one fixed order of summation.

Legend: T tokens of a call, L layers, D width, H query heads, G key/value heads, K channels of a head, W window,
J = D + 2 G K (query, key, value side by side), M channels of the MLP, V vocabulary.

Every product y = x A is a sum over the rows of A from the first to the last, whatever T is. So the result of a token
has the same bits alone, in a block, with any number of threads, and on any CPU. The inner loops run over the columns of
A, which vectorises without reordering a sum. Plain reference: `paramgolf.model.gpt.GPT`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into, log_softmax_into

EPS = 1e-6
ROWS = 8  # rows of a weight that are used for all tokens of a call in turn
LOGIT_STEPS = 256.0  # logits are rounded to multiples of 1/256


class StepWeights(NamedTuple):
    """Weights as (in, out) float32, tables and gains float64; see the legend."""

    embedding_VD: Any
    head_DV: Any
    qkv_LDJ: Any
    output_LDD: Any
    up_LDM: Any
    down_LMD: Any
    gain_LH: Any
    cos_WK: Any  # one half of the channels
    sin_WK: Any
    softcap: float


class StepCache(NamedTuple):
    """Keys (channels before positions, so that scores vectorise) and values of one frame, float64."""

    keys_LGKW: Any
    values_LGWK: Any


@njit(cache=True)
def forward(w: StepWeights, cache: StepCache, tokens_T: Any, first: int, out_TD: Any) -> None:
    """Run inputs at places first.. of a frame whose earlier ones are cached; `out_TD` = states after the last norm."""
    count, width = out_TD.shape
    layers, heads = w.gain_LH.shape
    groups, size = cache.keys_LGKW.shape[1], cache.keys_LGKW.shape[2]
    qkv_TJ = np.empty((count, w.qkv_LDJ.shape[2]))
    x_TD = np.empty((count, width))
    y_TD = np.empty((count, width))
    hidden_TM = np.empty((count, w.up_LDM.shape[2]))
    for t in range(count):
        for d in range(width):
            out_TD[t, d] = w.embedding_VD[tokens_T[t], d]
        normalise(out_TD[t])
    for layer in range(layers):
        copy_normalised(out_TD, x_TD)
        multiply(x_TD, w.qkv_LDJ[layer], qkv_TJ)
        keys_GKW, values_GWK = cache.keys_LGKW[layer], cache.values_LGWK[layer]
        for t in range(count):
            place = first + t
            for head in range(heads + groups):
                part = qkv_TJ[t, head * size : (head + 1) * size]
                normalise(part)
                rotate(part, w.cos_WK[place], w.sin_WK[place])
            for g in range(groups):
                for k in range(size):
                    keys_GKW[g, k, place] = qkv_TJ[t, (heads + g) * size + k]
                    values_GWK[g, place, k] = qkv_TJ[t, (heads + groups + g) * size + k]
            for head in range(heads):
                q_K = qkv_TJ[t, head * size : (head + 1) * size]
                for k in range(size):
                    q_K[k] *= w.gain_LH[layer, head] / math.sqrt(size)
                g = head // (heads // groups)
                attend(q_K, keys_GKW[g], values_GWK[g], place + 1, x_TD[t, head * size : (head + 1) * size])
        multiply(x_TD, w.output_LDD[layer], y_TD)
        add(out_TD, y_TD)
        copy_normalised(out_TD, x_TD)
        multiply(x_TD, w.up_LDM[layer], hidden_TM)
        for t in range(count):
            multiply_squared_relu(hidden_TM[t], w.down_LMD[layer], y_TD[t])
        add(out_TD, y_TD)
    for t in range(count):
        normalise(out_TD[t])


@njit(cache=True)
def head_rows(w: StepWeights, h_TD: Any, out_TV: Any) -> None:
    """Log-probabilities [T, V] in nats of states [T, D]."""
    multiply(h_TD, w.head_DV, out_TV)
    vocab = out_TV.shape[1]
    powers = np.empty(vocab)
    for t in range(len(out_TV)):
        row = out_TV[t]
        for v in range(vocab):
            row[v] = 2.0 * row[v] / w.softcap
        exp_into(row, powers, vocab)
        for v in range(vocab):  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
            capped = w.softcap * (1.0 - 2.0 / (powers[v] + 1.0))
            powers[v] = math.floor(capped * LOGIT_STEPS + 0.5) / LOGIT_STEPS
        log_softmax_into(powers, row)


@njit(cache=True)
def multiply(x_TI: Any, a_IO: Any, y_TO: Any) -> None:
    """y = x a, each sum from row 0 of `a` to the last; a few rows of `a` at a time serve all tokens from the cache."""
    y_TO[:] = 0.0
    for i in range(0, len(a_IO), ROWS):
        stop = min(i + ROWS, len(a_IO))
        part_IO = a_IO[i:stop]
        for t in range(len(x_TI)):
            add_rows(x_TI[t, i:stop], part_IO, stop - i, y_TO[t])


@njit(cache=True)
def multiply_squared_relu(x_I: Any, a_IO: Any, y_O: Any) -> None:
    """y = relu(x)^2 a; rows of `a` that a zero multiplies are skipped, most of them in a trained model."""
    rows, columns = a_IO.shape
    live = np.empty(rows, dtype=np.int64)
    count = 0
    for i in range(rows):
        if x_I[i] > 0.0:
            live[count] = i
            count += 1
    y_O[:] = 0.0
    whole = count - count % 4
    for n in range(0, whole, 4):
        i0, i1, i2, i3 = live[n], live[n + 1], live[n + 2], live[n + 3]
        x0, x1, x2, x3 = x_I[i0] * x_I[i0], x_I[i1] * x_I[i1], x_I[i2] * x_I[i2], x_I[i3] * x_I[i3]
        a0, a1, a2, a3 = a_IO[i0], a_IO[i1], a_IO[i2], a_IO[i3]
        for o in range(columns):
            s = y_O[o] + x0 * a0[o]
            s = s + x1 * a1[o]
            s = s + x2 * a2[o]
            y_O[o] = s + x3 * a3[o]
    for n in range(whole, count):
        i = live[n]
        square = x_I[i] * x_I[i]
        for o in range(columns):
            y_O[o] += square * a_IO[i, o]


@njit(cache=True)
def attend(q_K: Any, keys_KW: Any, values_WK: Any, seen: int, out_K: Any) -> None:
    """Softmax attention of one (scaled) query to the first `seen` places of the frame."""
    size = len(q_K)
    scores = np.zeros(seen)
    add_rows(q_K, keys_KW, size, scores)
    top = scores[0]
    for j in range(1, seen):
        top = max(top, scores[j])
    for j in range(seen):
        scores[j] -= top
    exp_into(scores, scores, seen)
    total = 0.0
    for j in range(seen):
        total += scores[j]
    out_K[:] = 0.0
    add_rows(scores, values_WK, seen, out_K)
    for k in range(size):
        out_K[k] /= total


@njit(cache=True)
def add_rows(x_I: Any, a_IO: Any, rows: int, y_O: Any) -> None:
    """y += x[0] a[0] + x[1] a[1] + ... over the first `rows` rows and the first len(y) columns, in that order."""
    whole = rows - rows % 8
    columns = len(y_O)
    for i in range(0, whole, 8):
        x0, x1, x2, x3 = x_I[i], x_I[i + 1], x_I[i + 2], x_I[i + 3]
        x4, x5, x6, x7 = x_I[i + 4], x_I[i + 5], x_I[i + 6], x_I[i + 7]
        for o in range(columns):
            s = y_O[o] + x0 * a_IO[i, o]
            s = s + x1 * a_IO[i + 1, o]
            s = s + x2 * a_IO[i + 2, o]
            s = s + x3 * a_IO[i + 3, o]
            s = s + x4 * a_IO[i + 4, o]
            s = s + x5 * a_IO[i + 5, o]
            s = s + x6 * a_IO[i + 6, o]
            y_O[o] = s + x7 * a_IO[i + 7, o]
    for i in range(whole, rows):
        for o in range(columns):
            y_O[o] += x_I[i] * a_IO[i, o]


@njit(cache=True)
def normalise(x: Any) -> None:
    """x / sqrt(mean(x^2) + 1e-6), in place."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * x[i]
    root = math.sqrt(total / len(x) + EPS)
    for i in range(len(x)):
        x[i] /= root


@njit(cache=True)
def copy_normalised(x_TD: Any, out_TD: Any) -> None:
    """The rows of `x_TD`, each normalised."""
    for t in range(len(x_TD)):
        for d in range(x_TD.shape[1]):
            out_TD[t, d] = x_TD[t, d]
        normalise(out_TD[t])


@njit(cache=True)
def rotate(x_K: Any, cos_K: Any, sin_K: Any) -> None:
    """Turn the channel pairs (j, j + K/2) in place."""
    half = len(cos_K)
    for j in range(half):
        a, b = x_K[j], x_K[j + half]
        x_K[j] = a * cos_K[j] + b * sin_K[j]
        x_K[j + half] = b * cos_K[j] - a * sin_K[j]


@njit(cache=True)
def add(x_TD: Any, y_TD: Any) -> None:
    """x += y."""
    for t in range(len(x_TD)):
        for d in range(x_TD.shape[1]):
            x_TD[t, d] += y_TD[t, d]
