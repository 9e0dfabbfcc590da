"""A line search to the strong Wolfe conditions: bracket a minimum, then zoom in by cubic interpolation.

Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6, with the safeguards usual for L-BFGS. Float64,
nothing from a mathematical library but square roots, which IEEE 754 fixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from paramgolf.predict.protocol import Float64

ENOUGH_DECREASE, ENOUGH_CURVATURE = 1e-4, 0.9
MOST_CALLS = 25


class Point(NamedTuple):
    """A place `t` on the line: its loss, its gradient, and the slope along the line."""

    t: float
    loss: float
    gradient_P: Float64
    slope: float


def search(along: Callable[[float], Point], start: Point, trial: float, least: float) -> tuple[Point, int]:
    """A point that meets both conditions, or the best one met; and how many calls of `along` that took.

    `start` is the point at 0 and slopes down, `trial` the first place to look at; brackets shorter than `least` are
    not cut further.
    """
    before, at, calls = start, along(trial), 1
    while calls <= MOST_CALLS:
        if _too_high(at, start) or (calls > 2 and at.loss >= before.loss):
            return _zoom(along, start, before, at, calls, least)
        if _flat(at, start):
            return at, calls
        if at.slope >= 0:
            return _zoom(along, start, before, at, calls, least)
        t = _minimum(before, at, at.t + 0.01 * (at.t - before.t), 10.0 * at.t)
        before, at, calls = at, along(t), calls + 1
    return (at if at.loss < start.loss else start), calls


def _zoom(
    along: Callable[[float], Point], start: Point, one: Point, other: Point, calls: int, least: float
) -> tuple[Point, int]:
    low, high = (one, other) if one.loss <= other.loss else (other, one)
    stuck = False
    while calls <= MOST_CALLS and abs(high.t - low.t) >= least:
        left, right = min(low.t, high.t), max(low.t, high.t)
        t = _minimum(low, high, left, right)
        margin = 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stuck or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            near = False
        stuck = near
        at, calls = along(t), calls + 1
        if _too_high(at, start) or at.loss >= low.loss:
            low, high = (low, at) if low.loss <= at.loss else (at, low)
            continue
        if _flat(at, start):
            return at, calls
        if at.slope * (high.t - low.t) >= 0:
            high = low
        low = at
    return low, calls


def _too_high(at: Point, start: Point) -> bool:
    return not at.loss <= start.loss + ENOUGH_DECREASE * at.t * start.slope  # true for NaN


def _flat(at: Point, start: Point) -> bool:
    return abs(at.slope) <= -ENOUGH_CURVATURE * start.slope


def _minimum(one: Point, other: Point, lowest: float, highest: float) -> float:
    """Where the cubic through both points with their slopes is lowest, within the bounds; their middle if nowhere."""
    left, right = (one, other) if one.t <= other.t else (other, one)
    middle = (lowest + highest) / 2.0
    if right.t == left.t:
        return middle
    d1 = left.slope + right.slope - 3.0 * (left.loss - right.loss) / (left.t - right.t)
    square = d1 * d1 - left.slope * right.slope
    if not square >= 0:
        return middle
    d2 = math.sqrt(square)
    below = right.slope - left.slope + 2.0 * d2
    if below == 0 or not math.isfinite(below):
        return middle
    t = right.t - (right.t - left.t) * ((right.slope + d2 - d1) / below)
    return min(max(t, lowest), highest)
