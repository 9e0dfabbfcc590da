"""exp and log from nothing but float64 additions, multiplications, divisions: the same bits on every CPU.

Libraries pick another exp for another CPU type, and a decoder that is off by one bit in one probability decodes to
nonsense. IEEE 754 fixes + - * / and sqrt, and numba without fastmath neither reorders nor fuses them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from paramgolf.predict.protocol import Float64

INV_LN2 = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01  # 32 bits of ln 2, so that an integer times it is exact
LN2_LOW = 1.90821492927058770002e-10
ROUNDER = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to a whole number, found in the low bits
LOWEST = -700.0  # exp of less is taken as 0; exp(-700) is 1e-304, still a normal number


@njit(cache=True)
def exp_into(x: Float64, out: Float64, count: int) -> None:
    """out[:count] = exp(x[:count]) for x <= 700, to about one unit in the last place; 0 below -700. May be in place."""
    shifted = np.empty(count)
    bits = shifted.view(np.int64)
    for i in range(count):
        v = x[i] if x[i] > LOWEST else LOWEST
        shifted[i] = v * INV_LN2 + ROUNDER
        k = shifted[i] - ROUNDER
        r = (v - k * LN2_HIGH) - k * LN2_LOW
        p = 1.0 + r * (1.0 / 13.0)
        p = 1.0 + r * (1.0 / 12.0) * p
        p = 1.0 + r * (1.0 / 11.0) * p
        p = 1.0 + r * (1.0 / 10.0) * p
        p = 1.0 + r * (1.0 / 9.0) * p
        p = 1.0 + r * (1.0 / 8.0) * p
        p = 1.0 + r * (1.0 / 7.0) * p
        p = 1.0 + r * (1.0 / 6.0) * p
        p = 1.0 + r * (1.0 / 5.0) * p
        p = 1.0 + r * (1.0 / 4.0) * p
        p = 1.0 + r * (1.0 / 3.0) * p
        p = 1.0 + r * (1.0 / 2.0) * p
        out[i] = 1.0 + r * p if x[i] >= LOWEST else 0.0
    for i in range(count):  # the low bits of `shifted` are k: make them the exponent of 2^k
        bits[i] = (bits[i] + 1023) << 52
    for i in range(count):
        out[i] *= shifted[i]


@njit(cache=True)
def log_fixed(x: float) -> float:
    """Natural logarithm of a positive normal number, to a few units in the last place."""
    m, k = math.frexp(x)
    if m < 0.7071067811865476:
        m, k = m * 2.0, k - 1
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    p = 0.0
    for n in range(23, 0, -2):
        p = p * s + 1.0 / n
    return k * LN2_HIGH + (2.0 * f * p + k * LN2_LOW)


@njit(cache=True)
def log_softmax_into(logits: Float64, out: Float64) -> None:
    """out = logits - log(sum(exp(logits))), the sum taken from left to right."""
    top = logits[0]
    for i in range(1, len(logits)):
        top = max(top, logits[i])
    for i in range(len(logits)):
        out[i] = logits[i] - top
    shifted = out.copy()
    exp_into(out, out, len(out))
    total = 0.0
    for i in range(len(out)):
        total += out[i]
    shift = log_fixed(total)
    for i in range(len(out)):
        out[i] = shifted[i] - shift
