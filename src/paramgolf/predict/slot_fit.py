"""The optimizers of SLOT's offsets: AdamW and L-BFGS on some hundreds of numbers, the same bits on every machine.

Legend: P parameters. Everything is float64. No sum is left to a library, which may add in another order on another
CPU, and no cosine either: a decoder must end at the very offsets of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from paramgolf.predict.protocol import Float64
from paramgolf.predict.slot_search import Point, search
from paramgolf.recipe import ScoreRecipe

Objective = Callable[[Float64], tuple[float, Float64]]  # parameters -> mean loss in nats, gradient [P]

FIRST_BETA, SECOND_BETA, EPS, WEIGHT_DECAY = 0.6, 0.5, 1e-5, 1e-8  # of AdamW (spec pr1430.md 4.2)
HISTORY = 20  # pairs that L-BFGS keeps (spec pr1430.md 5)
LEAST_GRADIENT, LEAST_CHANGE, LEAST_CURVATURE = 1e-7, 1e-9, 1e-10
CLAMP = 5.0  # of what L-BFGS finds, either way


def fit(objective: Objective, start_P: Float64, recipe: ScoreRecipe) -> Float64:
    """The parameters after `slot_steps` steps of `slot_optimizer` from `start_P`, which stays as it is."""
    if recipe.slot_optimizer == "lbfgs":
        return np.clip(fit_lbfgs(objective, start_P, recipe.slot_steps), -CLAMP, CLAMP)
    return fit_adamw(objective, start_P, learning_rates(recipe.slot_lr, recipe.slot_least_lr, recipe.slot_steps))


def learning_rates(highest: float, least: float, steps: int) -> list[float]:
    """`least + (highest - least) (1 + cos(pi k / (steps - 1))) / 2` for k = 0.. (spec pr1430.md 4.2)."""
    last = max(steps - 1, 1)
    return [least + (highest - least) * 0.5 * (1.0 + _cosine(math.pi * step / last)) for step in range(steps)]


def _cosine(x: float) -> float:
    """Of 0 <= x <= pi, by its power series."""
    total, term = 1.0, 1.0
    for n in range(1, 16):
        term *= -x * x / ((2 * n - 1) * (2 * n))
        total += term
    return total


def fit_adamw(objective: Objective, start_P: Float64, rates: list[float]) -> Float64:
    """One step for each learning rate, with the constants of #1430."""
    found_P, first_P, second_P = start_P.copy(), np.zeros_like(start_P), np.zeros_like(start_P)
    first_power, second_power = 1.0, 1.0
    for rate in rates:
        gradient_P = objective(found_P)[1]
        first_power, second_power = first_power * FIRST_BETA, second_power * SECOND_BETA
        first_P = FIRST_BETA * first_P + (1.0 - FIRST_BETA) * gradient_P
        second_P = SECOND_BETA * second_P + (1.0 - SECOND_BETA) * (gradient_P * gradient_P)
        step_P = (first_P / (1.0 - first_power)) / (np.sqrt(second_P / (1.0 - second_power)) + EPS)
        found_P = found_P * (1.0 - rate * WEIGHT_DECAY) - rate * step_P
    return found_P


class _Pair(NamedTuple):
    """How far a step of L-BFGS went, how the gradient changed, and 1 / (their product)."""

    step_P: Float64
    change_P: Float64
    inverse: float


def fit_lbfgs(objective: Objective, start_P: Float64, steps: int) -> Float64:
    """At most `steps` steps of L-BFGS with a strong-Wolfe search; no further one after 5/4 as many calls.

    Learning rate 1, first trial step min(1, 1 / ||g||_1) (spec pr1430.md 5). Stops where nothing changes any more.
    """
    found_P, pairs, most = start_P.copy(), list[_Pair](), steps * 5 // 4
    loss, gradient_P = objective(found_P)
    calls, scale = 1, 1.0
    for step in range(steps):
        if largest(gradient_P) <= LEAST_GRADIENT:
            break
        direction_P = _direction(gradient_P, pairs, scale)
        slope = dot(gradient_P, direction_P)
        if not slope < -LEAST_CHANGE:
            break
        trial = min(1.0, 1.0 / total(np.abs(gradient_P))) if step == 0 else 1.0

        def along(t: float, base_P: Float64 = found_P, line_P: Float64 = direction_P) -> Point:
            value, slopes_P = objective(base_P + t * line_P)
            return Point(t, value, slopes_P, dot(slopes_P, line_P))

        at, used = search(along, Point(0.0, loss, gradient_P, slope), trial, LEAST_CHANGE / largest(direction_P))
        calls += used
        step_P, change_P = at.t * direction_P, at.gradient_P - gradient_P
        curvature = dot(change_P, step_P)
        if curvature > LEAST_CURVATURE:
            pairs = [*pairs[1 - HISTORY :], _Pair(step_P, change_P, 1.0 / curvature)]
            scale = curvature / dot(change_P, change_P)
        moved, gained = largest(step_P), abs(at.loss - loss)
        found_P, loss, gradient_P = found_P + step_P, at.loss, at.gradient_P
        if moved <= LEAST_CHANGE or gained < LEAST_CHANGE or calls >= most:
            break
    return found_P


def _direction(gradient_P: Float64, pairs: list[_Pair], scale: float) -> Float64:
    """Minus the gradient times the inverse curvature that the pairs tell (the two-loop recursion)."""
    found_P, shares = -gradient_P, list[float]()
    for pair in reversed(pairs):
        shares.append(pair.inverse * dot(pair.step_P, found_P))
        found_P = found_P - shares[-1] * pair.change_P
    found_P = scale * found_P
    for pair in pairs:
        found_P = found_P + (shares.pop() - pair.inverse * dot(pair.change_P, found_P)) * pair.step_P
    return found_P


def largest(x_P: Float64) -> float:
    """The largest magnitude; 0 of nothing."""
    return float(np.abs(x_P).max(initial=0.0))


def total(x_P: Float64) -> float:
    """The sum, from left to right."""
    return float(dot(x_P, np.ones_like(x_P)))


@njit(cache=True)
def dot(x_P: Float64, y_P: Float64) -> float:
    """The sum of products, from left to right."""
    found = 0.0
    for i in range(len(x_P)):
        found += x_P[i] * y_P[i]
    return found
