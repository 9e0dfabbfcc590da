"""Rotary's table with the same bits on every machine: from decimal arithmetic, not from a library's cosine.

Legend: W window, J turned pairs of channels of a head.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from paramgolf.predict.protocol import Float64

DIGITS = 30  # of the decimal arithmetic
BASE_DIGITS = 12  # of the base, which a library's power may have made


def rotary_table(pairs: int, base: float, window: int) -> Float64:
    """cos and sin [W, J, 2] of `position * base^(-j / J)`, to 1e-9 for windows of some thousands.

    One position's turn is rounded from 30 digits; the others follow from it by multiplications, which IEEE 754 fixes.
    """
    step_cos_J, step_sin_J = np.array([_first_turn(pairs, base, j) for j in range(pairs)]).T.copy()
    turn_WJ2 = np.empty((window, pairs, 2))
    cos_J, sin_J = np.ones(pairs), np.zeros(pairs)
    for turn_J2 in turn_WJ2:
        turn_J2[:, 0], turn_J2[:, 1] = cos_J, sin_J
        cos_J, sin_J = cos_J * step_cos_J - sin_J * step_sin_J, sin_J * step_cos_J + cos_J * step_sin_J
    return turn_WJ2


def _first_turn(pairs: int, base: float, pair: int) -> tuple[float, float]:
    """cos and sin of `base^(-pair / pairs)`, an angle of at most 1, by their power series."""
    with localcontext() as context:
        context.prec = DIGITS
        angle = Decimal(f"{base:.{BASE_DIGITS}g}") ** (Decimal(-pair) / pairs)
        sums, term = [Decimal(0), Decimal(0)], Decimal(1)
        for n in range(DIGITS):
            sums[n % 2] += term if n % 4 < 2 else -term
            term = term * angle / (n + 1)
        return float(sums[0]), float(sums[1])
