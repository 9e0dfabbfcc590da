"""Is a difference more than noise: means of seeds with Student's intervals, Welch's test, pairs of documents.

SciPy is imported where a tail of a distribution is asked for, so that reading records stays light. A test says nothing
about the validity of its inputs: #1185 printed t = -328 for logs that its code cannot have written.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONTEST_MARGIN = 0.005  # nats per token that a record had to gain (rules.md 1.3)


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
    """P(T > t) for Student's t with `df` degrees of freedom."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


def student_quantile(probability: float, df: float) -> float:
    """The t below which `probability` (0.5 to 1, both left out) of Student's distribution lies."""
    from scipy.special import stdtrit

    if not 0.5 < probability < 1:
        raise ValueError(f"a quantile of {probability} is not between 0.5 and 1")
    return float(stdtrit(df, probability))


def sign_tail(better: int, worse: int) -> float:
    """Two-sided p of the sign test: a fair coin this far from half or farther."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))
