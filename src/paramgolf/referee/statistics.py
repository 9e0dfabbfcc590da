"""Is a difference more than noise: means of seeds with Student's intervals, Welch's test, pairs of documents.

Plain Python but for the paired test, so that reading records stays light. A test says nothing about the validity of its
inputs: #1185 printed t = -328 for logs that its code cannot have written.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONTEST_MARGIN = 0.005  # nats per token that a record had to gain (rules.md 1.3)
_TINY = 1e-300
_TERMS = 10_000  # of the continued fraction; it converges in tens


@dataclass(frozen=True)
class Sample:
    """Several measurements of one thing: `deviation` is the sample's (n - 1), None for a single one."""

    count: int
    mean: float
    deviation: float | None

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)


def sample_of(values: Sequence[float]) -> Sample:
    """Mean and deviation; raises `ValueError` for no values at all."""
    if not values:
        raise ValueError("no values to take a mean of")
    return Sample(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def interval(sample: Sample, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean; None where one measurement leaves the noise unknown."""
    if sample.error is None:
        return None
    half = student_quantile((1 + level) / 2, sample.count - 1) * sample.error
    return sample.mean - half, sample.mean + half


@dataclass(frozen=True)
class Welch:
    """Welch's t-test of `new` against `old`, lower being better.

    `difference` is mean(new) - mean(old), negative where `new` is better, and `margin` what it has to gain at least:
    t = (difference + margin) / standard_error. `p_two_sided` is for "as good as the margin says"; `p_lower` for `new`
    being better by no more than the margin. Without any spread t and both p are NaN: constants prove nothing.
    """

    difference: float
    standard_error: float
    margin: float
    t: float
    df: float
    p_two_sided: float
    p_lower: float


def welch(new: Sequence[float], old: Sequence[float], margin: float = 0.0) -> Welch:
    """The test with Welch and Satterthwaite's degrees of freedom; `ValueError` for fewer than two values a side."""
    one, other = sample_of(new), sample_of(old)
    if one.error is None or other.error is None:
        raise ValueError(f"{one.count} and {other.count} values: Welch's test needs two on each side")
    squares = one.error**2, other.error**2
    error, difference = math.sqrt(sum(squares)), one.mean - other.mean
    if error == 0:
        return Welch(difference, 0.0, margin, math.nan, math.nan, math.nan, math.nan)
    # Shares, so that squares of small numbers do not underflow.
    shares = [square / sum(squares) for square in squares]
    df = 1.0 / (shares[0] ** 2 / (one.count - 1) + shares[1] ** 2 / (other.count - 1))
    t = (difference + margin) / error
    return Welch(difference, error, margin, t, df, 2 * student_tail(abs(t), df), student_tail(-t, df))


def student_tail(t: float, df: float) -> float:
    """P(T > t) for Student's t with `df` degrees of freedom, to about 12 digits however small it is."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))
    return tail if t >= 0 else 1.0 - tail


def student_quantile(probability: float, df: float) -> float:
    """The t below which `probability` (0.5 to 1, both left out) of Student's distribution lies."""
    if not 0.5 < probability < 1:
        raise ValueError(f"a quantile of {probability} is not between 0.5 and 1")
    low, high = 0.0, 1.0
    while student_tail(high, df) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, df) > 1 - probability else (low, middle)
    return (low + high) / 2


def sign_tail(better: int, worse: int) -> float:
    """Two-sided p of the sign test: a fair coin this far from half or farther."""
    tosses, fewer = better + worse, min(better, worse)
    if tosses > 1000:  # exact sums of such binomials are long, and a normal is right to three digits
        z = max(0.0, abs(better - worse) - 1.0) / math.sqrt(tosses)
        return math.erfc(z / math.sqrt(2))
    ways = sum(math.comb(tosses, k) for k in range(fewer + 1))
    return min(1.0, 2 * ways / (1 << tosses))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b), with `rest` = 1 - x (Lentz's continued fraction)."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, rest, x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
