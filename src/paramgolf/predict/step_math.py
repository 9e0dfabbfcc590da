"""Sums of the stepwise model in one fixed order: matrix products, norms, softmax attention; float64.

Legend: T rows of a call, I and O rows and columns of a matrix, N query heads that share a key/value head, K channels of
a head, W window, S places of the frame that are filled, D width.

Every product y = x A is a sum over the rows of A from the first to the last, whatever T is. So the result of a row has
the same bits alone, in a block, with any number of threads, and on any CPU. The inner loops run over the columns of A,
which vectorises without reordering a sum. A term that is zero may be left out or put in: it does not change a bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into

EPS = 1.1920929e-07  # as in `kernels.norm`, which would import torch
VALUE_EPS = 1e-12
HIGHEST = 700.0  # that `exp_into` takes
ROWS = 8  # rows of a matrix that are used for all rows of a call in turn


@njit(cache=True, error_model="numpy")
def multiply(x_TI: Any, a_IO: Any, y_TO: Any) -> None:
    """y = x a, over the rows of `a` that `x` has and the columns that `y` has; two rows of `x` share what is read."""
    count, rows = x_TI.shape
    for t in range(count):
        for o in range(y_TO.shape[1]):
            y_TO[t, o] = 0.0
    even = count - count % 2
    step = ROWS if count > 2 else rows
    for i in range(0, rows, step):
        stop = min(i + step, rows)
        part_IO = a_IO[i:stop]
        for t in range(0, even, 2):
            add_rows_to_two(x_TI[t, i:stop], x_TI[t + 1, i:stop], part_IO, y_TO[t], y_TO[t + 1])
        if count > even:
            add_rows(x_TI[even, i:stop], part_IO, y_TO[even])


@njit(cache=True, error_model="numpy")
def multiply_live(x_I: Any, a_IO: Any, y_O: Any) -> None:
    """y = x a for one row; rows of `a` that a zero multiplies are skipped, most of them behind a trained ReLU."""
    rows, columns = a_IO.shape
    live = np.empty(rows, dtype=np.int64)
    count = 0
    for i in range(rows):
        if x_I[i] != 0.0:
            live[count] = i
            count += 1
    for o in range(columns):
        y_O[o] = 0.0
    whole = count - count % 4
    for n in range(0, whole, 4):
        i0, i1, i2, i3 = live[n], live[n + 1], live[n + 2], live[n + 3]
        x0, x1, x2, x3 = x_I[i0], x_I[i1], x_I[i2], x_I[i3]
        for o in range(columns):
            s = y_O[o] + x0 * a_IO[i0, o]
            s = s + x1 * a_IO[i1, o]
            s = s + x2 * a_IO[i2, o]
            y_O[o] = s + x3 * a_IO[i3, o]
    for n in range(whole, count):
        i = live[n]
        for o in range(columns):
            y_O[o] += x_I[i] * a_IO[i, o]


@njit(cache=True, error_model="numpy")
def add_rows(x_I: Any, a_IO: Any, y_O: Any) -> None:
    """y += x[0] a[0] + x[1] a[1] + ..., in that order, over the first len(y) columns."""
    rows, columns = len(x_I), len(y_O)
    whole = rows - rows % 8
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


@njit(cache=True, error_model="numpy")
def add_rows_to_two(x_I: Any, z_I: Any, a_IO: Any, y_O: Any, u_O: Any) -> None:
    """`add_rows` of x to y and of z to u, in one reading of `a`."""
    rows, columns = len(x_I), len(y_O)
    whole = rows - rows % 8
    for i in range(0, whole, 8):
        x0, x1, x2, x3 = x_I[i], x_I[i + 1], x_I[i + 2], x_I[i + 3]
        x4, x5, x6, x7 = x_I[i + 4], x_I[i + 5], x_I[i + 6], x_I[i + 7]
        z0, z1, z2, z3 = z_I[i], z_I[i + 1], z_I[i + 2], z_I[i + 3]
        z4, z5, z6, z7 = z_I[i + 4], z_I[i + 5], z_I[i + 6], z_I[i + 7]
        for o in range(columns):
            a0, a1, a2, a3 = a_IO[i, o], a_IO[i + 1, o], a_IO[i + 2, o], a_IO[i + 3, o]
            a4, a5, a6, a7 = a_IO[i + 4, o], a_IO[i + 5, o], a_IO[i + 6, o], a_IO[i + 7, o]
            s = y_O[o] + x0 * a0
            r = u_O[o] + z0 * a0
            s = s + x1 * a1
            r = r + z1 * a1
            s = s + x2 * a2
            r = r + z2 * a2
            s = s + x3 * a3
            r = r + z3 * a3
            s = s + x4 * a4
            r = r + z4 * a4
            s = s + x5 * a5
            r = r + z5 * a5
            s = s + x6 * a6
            r = r + z6 * a6
            y_O[o] = s + x7 * a7
            u_O[o] = r + z7 * a7
    for i in range(whole, rows):
        for o in range(columns):
            y_O[o] += x_I[i] * a_IO[i, o]
            u_O[o] += z_I[i] * a_IO[i, o]


@njit(cache=True, error_model="numpy")
def attend(q_QK: Any, heads: int, first: int, keys_KW: Any, values_WK: Any, read_QK: Any) -> None:
    """Softmax attention of scaled queries; row n belongs to place `first + n // heads` and reads up to that place."""
    rows, filled = len(q_QK), first + len(q_QK) // heads
    scores_QS = np.empty((rows, filled))
    totals_Q = np.empty(rows)
    multiply(q_QK, keys_KW, scores_QS)
    for n in range(rows):
        seen = first + n // heads + 1
        row_S = scores_QS[n]
        top = row_S[0]
        for j in range(1, seen):
            top = max(top, row_S[j])
        for j in range(seen):
            row_S[j] -= top
        exp_into(row_S, row_S, seen)
        total = 0.0
        for j in range(seen):
            total += row_S[j]
        totals_Q[n] = total
        for j in range(seen, filled):
            row_S[j] = 0.0
    multiply(scores_QS, values_WK, read_QK)
    for n in range(rows):
        for k in range(read_QK.shape[1]):
            read_QK[n, k] /= totals_Q[n]


@njit(cache=True, error_model="numpy")
def exclude(y_K: Any, v_K: Any) -> None:
    """Take from `y_K`, in place, its part along `v_K` (XSA, spec pr549.md 2.6)."""
    square, along = 0.0, 0.0
    for k in range(len(v_K)):
        square += v_K[k] * v_K[k]
        along += y_K[k] * v_K[k]
    length = max(math.sqrt(square), VALUE_EPS)
    share = along / length / length
    for k in range(len(v_K)):
        y_K[k] -= share * v_K[k]


@njit(cache=True, error_model="numpy")
def square(x_TU: Any, slope: float, out_TM: Any) -> None:
    """x^2, or (slope x)^2 below zero; times the sigmoid of the gates that stand behind x in its row, if any do."""
    channels = out_TM.shape[1]
    for t in range(len(x_TU)):
        for m in range(channels):
            z = x_TU[t, m]
            leaky = z if z > 0.0 else slope * z
            out_TM[t, m] = leaky * leaky
        if x_TU.shape[1] > channels:
            gate_M = x_TU[t, channels:]
            sigmoid(gate_M)
            for m in range(channels):
                out_TM[t, m] *= gate_M[m]


@njit(cache=True, error_model="numpy")
def sigmoid(x: Any) -> None:
    """1 / (1 + exp(-x)), in place."""
    for i in range(len(x)):
        x[i] = min(-x[i], HIGHEST)
    exp_into(x, x, len(x))
    for i in range(len(x)):
        x[i] = 1.0 / (1.0 + x[i])


@njit(cache=True, error_model="numpy")
def normalise(x: Any) -> None:
    """x / sqrt(mean(x^2) + 1.1920929e-07), in place."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * x[i]
    root = math.sqrt(total / len(x) + EPS)
    for i in range(len(x)):
        x[i] /= root


@njit(cache=True, error_model="numpy")
def copy_normalised(x_TD: Any, factor: float, out_TD: Any) -> None:
    """The rows of `x_TD`, each normalised, times `factor`."""
    for t in range(len(x_TD)):
        for d in range(x_TD.shape[1]):
            out_TD[t, d] = x_TD[t, d]
        normalise(out_TD[t])
        for d in range(x_TD.shape[1]):
            out_TD[t, d] *= factor


@njit(cache=True, error_model="numpy")
def copy(x_TD: Any, out_TD: Any) -> None:
    """out = x."""
    for t in range(len(x_TD)):
        for d in range(x_TD.shape[1]):
            out_TD[t, d] = x_TD[t, d]


@njit(cache=True, error_model="numpy")
def rotate(x_K: Any, turn_J2: Any) -> None:
    """Turn the channel pairs (j, j + J) in place; channels from 2 J on stay."""
    half = len(turn_J2)
    for j in range(half):
        a, b = x_K[j], x_K[j + half]
        x_K[j] = a * turn_J2[j, 0] + b * turn_J2[j, 1]
        x_K[j + half] = b * turn_J2[j, 0] - a * turn_J2[j, 1]


@njit(cache=True, error_model="numpy")
def add_scaled(x_TD: Any, y_TD: Any, scale_D: Any) -> None:
    """x += y, or y times a gain for each channel unless `scale_D` is empty."""
    count, width = x_TD.shape
    for t in range(count):
        if len(scale_D):
            for d in range(width):
                x_TD[t, d] += scale_D[d] * y_TD[t, d]
        else:
            for d in range(width):
                x_TD[t, d] += y_TD[t, d]
