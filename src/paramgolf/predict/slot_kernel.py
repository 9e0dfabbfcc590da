"""SLOT's logits, loss and gradient in float64, every sum in one fixed order.

Legend: N positions, D width, V vocabulary. Logits before the softcap are given for the states as they are; a delta
shifts all of them by the same `E delta`, so a step of a fit costs two products of a matrix and a vector. An empty head
[0, V] and softcaps of 0 stand for rows that only a bias is added to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from paramgolf.predict.fixed_math import exp_into, log_softmax_into
from paramgolf.predict.step_math import multiply

STEEPEST = 40.0  # tanh of half of it is 1 in float64


@njit(cache=True, error_model="numpy")
def head_logits(h_ND: Any, head_DV: Any) -> Any:
    """Logits before the softcap [N, V]."""
    logits_NV = np.empty((len(h_ND), head_DV.shape[1]))
    multiply(h_ND, head_DV, logits_NV)
    return logits_NV


@njit(cache=True, error_model="numpy")
def shift_of(delta_D: Any, head_DV: Any) -> Any:
    """E delta [V]."""
    shift_1V = np.zeros((1, head_DV.shape[1]))
    if len(delta_D):
        multiply(delta_D.reshape(1, -1), head_DV, shift_1V)
    return shift_1V[0]


@njit(cache=True, error_model="numpy")
def write_rows(logits_NV: Any, shift_V: Any, softcaps: tuple[float, float], bias_V: Any, out_NV: Any) -> None:
    """Log-probabilities [N, V] in nats of z = c tanh((logits + shift) / c) + bias."""
    tanh_V, z_V = np.empty(len(bias_V)), np.empty(len(bias_V))
    for n in range(len(logits_NV)):
        _capped(logits_NV[n], shift_V, softcaps, bias_V, tanh_V, z_V)
        log_softmax_into(z_V, out_NV[n])


@njit(cache=True, error_model="numpy")
def evaluate(
    logits_NV: Any,
    head_DV: Any,
    softcaps: tuple[float, float],
    targets_N: Any,
    delta_D: Any,
    bias_V: Any,
    biased: bool,
    grad_D: Any,
    grad_V: Any,
) -> float:
    """The mean cross-entropy of the targets in nats; its gradient by delta, and by the bias if that is fitted."""
    count, vocab = logits_NV.shape
    shift_V = shift_of(delta_D, head_DV)
    tanh_V, z_V, log_V = np.empty(vocab), np.empty(vocab), np.empty(vocab)
    push_V, sum_V = np.zeros(vocab), np.zeros(vocab)  # by the logits before and after the softcap
    loss = 0.0
    for n in range(count):
        _capped(logits_NV[n], shift_V, softcaps, bias_V, tanh_V, z_V)
        log_softmax_into(z_V, log_V)
        loss -= log_V[targets_N[n]]
        exp_into(log_V, log_V, vocab)
        log_V[targets_N[n]] -= 1.0
        for v in range(vocab):
            sum_V[v] += log_V[v]
            push_V[v] += log_V[v] * (1.0 - tanh_V[v] * tanh_V[v])
    for v in range(vocab):
        push_V[v] /= count
        if biased:
            grad_V[v] = sum_V[v] / count
    for d in range(len(delta_D)):
        grad_D[d] = _dot(head_DV[d], push_V)
    return float(loss / count)


@njit(cache=True, error_model="numpy")
def _capped(logits_V: Any, shift_V: Any, softcaps: tuple[float, float], bias_V: Any, tanh_V: Any, z_V: Any) -> None:
    """z [V], and the tanh in it (0, that is a slope of 1, without a softcap)."""
    vocab = len(z_V)
    above, below = softcaps
    if above == 0.0:
        for v in range(vocab):
            tanh_V[v] = 0.0
            z_V[v] = logits_V[v] + bias_V[v]
        return
    for v in range(vocab):
        z = logits_V[v] + shift_V[v]
        z_V[v] = min(max(2.0 * z / (above if z > 0.0 else below), -STEEPEST), STEEPEST)
    exp_into(z_V, tanh_V, vocab)
    for v in range(vocab):  # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        tanh_V[v] = 1.0 - 2.0 / (tanh_V[v] + 1.0)
        z_V[v] = (above if tanh_V[v] > 0.0 else below) * tanh_V[v] + bias_V[v]


@njit(cache=True, error_model="numpy")
def _dot(x_V: Any, y_V: Any) -> float:
    """The sum of products in eight parts, always the same ones."""
    part_8 = np.zeros(8)
    whole = len(x_V) - len(x_V) % 8
    for v in range(0, whole, 8):
        for lane in range(8):
            part_8[lane] += x_V[v + lane] * y_V[v + lane]
    total = 0.0
    for lane in range(8):
        total += part_8[lane]
    for v in range(whole, len(x_V)):
        total += x_V[v] * y_V[v]
    return total
