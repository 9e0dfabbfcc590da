"""exp and log that are the same bits everywhere."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.predict.fixed_math import exp_into, log_fixed, log_softmax_into


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(-700, 700), min_size=1, max_size=70))
def test_exp_is_within_two_units_in_the_last_place(values: list[float]) -> None:
    """exp agrees with the library to two units in the last place over its whole range."""
    x = np.array(values)
    out = np.empty_like(x)
    exp_into(x, out, len(x))
    expected = np.array([math.exp(value) for value in values])
    assert (np.abs(out - expected) <= 2 * np.spacing(expected)).all()


def test_exp_of_what_is_too_small_is_zero() -> None:
    """Below -700, and at minus infinity, the result is 0, and only `count` entries are written."""
    x = np.array([-700.1, -math.inf, 0.0, 0.0])
    out = np.full(4, 7.0)
    exp_into(x, out, 3)
    assert out.tolist() == [0.0, 0.0, 1.0, 7.0]


@settings(deadline=None)  # the first call compiles
@given(st.floats(1e-300, 1e300))
def test_log_is_the_logarithm(x: float) -> None:
    """log agrees with the library to a few units in the last place (near 1: of the argument)."""
    assert abs(log_fixed(x) - math.log(x)) <= 4 * max(abs(math.log(x)), 1e-1) * 2.0**-52


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=100))
def test_log_softmax_sums_to_one(logits: list[float]) -> None:
    """The row sums to one and differences of logits survive."""
    x = np.array(logits)
    out = np.empty_like(x)
    log_softmax_into(x, out)
    assert abs(np.exp(out).sum() - 1) < 1e-13
    np.testing.assert_allclose(out - out[0], x - x[0], atol=1e-13)
