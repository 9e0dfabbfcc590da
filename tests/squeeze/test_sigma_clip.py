"""Clips at standard deviations: the spec's steps, rows without spread, and steps that float16 holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from paramgolf.errors import RecipeError
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import dequantize
from paramgolf.squeeze.sigma_clip import LEAST_STEP

W = np.array([[0.10, -0.20, 0.30, 0.05], [-0.40, 0.25, 0.02, 0.33]], np.float32)


def test_plain_rounding_of_the_spec():
    """Spec pr2140.md 9.3: steps .1370849609375 and .2183837890625, integers of plain rounding, at k=2 and R=3."""
    found = quantize(W, Scheme(3, clip="sigma", sigmas=2.0))
    assert found.scales.tolist() == [0.1370849609375, 0.2183837890625]
    assert found.values.tolist() == [[1, -1, 2, 0], [-2, 1, 0, 2]]


def test_gate_rows_of_the_spec():
    """Spec pr2140.md 9.4: [.5, -1, .25] is [64, -127, 32] times .00787353515625; a row of noughts stays one (4.5)."""
    found = quantize(np.array([[0.5, -1, 0.25], [0, 0, 0]], np.float32), Scheme(8, clip="largest"))
    assert found.values.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert found.scales[0] == 0.00787353515625
    assert dequantize(found)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [0.0, 0.37, -2.5, 1e-6, 1e-9, 300.0])
def test_constant_rows_divide_nothing_by_nought(value):
    """Published, a row without spread is 0/0 (spec pr2140.md 8, 25): here it comes back to its step's precision."""
    weight = np.stack([np.full(6, value), np.linspace(-1, 1, 6)]).astype(np.float32)
    found = quantize(weight, Scheme(6, clip="sigma", sigmas=11.5))
    assert found.scales.min() >= LEAST_STEP > 0
    assert dequantize(found)[0] == pytest.approx(np.full(6, value), rel=2**-10, abs=LEAST_STEP * 0.5)
    single = quantize(np.full((3, 1), value, np.float32), Scheme(6, clip="sigma", sigmas=11.5))
    assert dequantize(single) == pytest.approx(np.full((3, 1), value), rel=2**-10, abs=LEAST_STEP * 0.5)


@given(
    arrays(np.float32, array_shapes(min_dims=1, max_dims=2, max_side=8), elements=st.floats(-100, 100, width=32)),
    st.integers(2, 8),
    st.floats(0.5, 20),
    st.floats(0.125, 64),
)
def test_any_weight_gets_float16_steps_above_nought(weight, bits, sigmas, coarseness):
    """Steps are float16 numbers above 0, integers within the width, entries within the clip half a step off at most."""
    scheme = Scheme(bits, coarseness, "sigma", sigmas)
    found = quantize(weight, scheme)
    assert (found.scales.astype(np.float16).astype(np.float32) == found.scales).all()
    assert found.scales.min() > 0
    assert np.abs(found.values).max() <= scheme.largest()
    rows = weight.reshape(found.values.shape).astype(np.float64)
    step = found.scales.astype(np.float64)[:, None]
    off = np.abs(found.values * step - rows)
    inside = np.abs(rows) <= scheme.largest() * step
    assert (off <= step * (0.5 + 1e-6))[inside].all()


@pytest.mark.parametrize("scheme", [Scheme(6, clip="sigma", sigmas=3.0), Scheme(6, clip="largest")])
def test_weights_beyond_float16_are_refused(scheme):
    """A step above 65,504 raises rather than becoming another one."""
    with pytest.raises(RecipeError, match="beyond float16"):
        quantize(np.array([[1e9, -1e9]], np.float32), scheme)
