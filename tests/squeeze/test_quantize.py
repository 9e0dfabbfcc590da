"""The quantiser against its bounds and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from paramgolf.errors import RecipeError
from paramgolf.squeeze.clip_search import SMALLEST, clip_search
from paramgolf.squeeze.quantize import HALF_BITS, RAW_BITS, Scheme, quantize, to_raw
from paramgolf.squeeze.quantized import dequantize, join_steps, snap_up, split_steps

FINITE = st.floats(-(2.0**90), 2.0**90, width=32)
TENSORS = arrays(np.float32, array_shapes(min_dims=0, max_dims=4, max_side=6), elements=FINITE)


@given(TENSORS, st.integers(2, 8), st.floats(1.0, 9.0))
def test_entries_within_the_clip_are_off_by_at_most_half_a_step(weight, bits, coarseness):
    """Each entry within ±q·step comes back within half a step, and all others as the nearest end."""
    scheme = Scheme(bits, coarseness)
    quantized = quantize(weight, scheme)
    back = dequantize(quantized)
    assert back.shape == weight.shape == quantized.shape
    rows = weight.reshape(quantized.values.shape).astype(np.float64)
    back_rows = back.reshape(rows.shape).astype(np.float64)
    step = np.broadcast_to(quantized.scales[:, None].astype(np.float64), rows.shape)
    reach = scheme.largest() * step
    inside = np.abs(rows) <= reach
    assert (np.abs(rows - back_rows)[inside] <= np.maximum(0.5 * (1 + 1e-6) * step, SMALLEST)[inside]).all()
    assert (np.abs(back_rows) <= reach).all()
    outside = ~inside & (np.abs(rows) >= SMALLEST)
    assert (back_rows[outside] == (np.sign(rows) * reach)[outside]).all()


@given(arrays(np.float32, (3, 8), elements=st.floats(-1, 1, width=32)), st.integers(2, 8))
def test_the_search_is_never_worse_than_no_clipping(weight, bits):
    """The chosen step has at most the squared error of the step that clips nothing."""
    largest = Scheme(bits).largest()

    def error(step):
        divisor = np.where(step > 0, step, 1)[:, None]
        back = np.clip(np.rint(weight / divisor), -largest, largest) * divisor
        return np.square(weight - np.where(step[:, None] > 0, back, 0)).sum(axis=1)

    chosen = error(clip_search(weight, largest))
    plain = error(np.abs(weight).max(axis=1).astype(np.float64) / largest)
    assert (chosen <= plain * (1 + 1e-5) + 1e-12).all()


def test_heavy_tails_are_clipped_at_few_bits():
    """One outlier among a thousand Gaussians is clipped at 4 bits, which more than halves the squared error."""
    row = np.random.default_rng(0).normal(0, 1, (1, 1000)).astype(np.float32)
    row[0, 0] = 12.0
    step = clip_search(row, 7)[0]
    assert step * 7 < 6
    plain = np.rint(row / (12 / 7)) * (12 / 7)
    assert np.square(dequantize(quantize(row, Scheme(4))) - row).sum() < 0.5 * np.square(plain - row).sum()


def test_unimportant_columns_are_clipped_first():
    """With a Hessian that says a column with a huge weight carries no signal, that weight no longer widens the step."""
    row = np.random.default_rng(1).normal(0, 1, (1, 64)).astype(np.float32)
    row[0, 5] = 3.9
    hessian = np.eye(64)
    hessian[5, 5] = 0.0
    assert clip_search(row, 7, hessian)[0] < clip_search(row, 7)[0]


@pytest.mark.parametrize("weight", [np.zeros((4, 7)), np.zeros(5), np.full((2, 3), 1e-40)])
def test_nothing_stays_nothing(weight):
    """Rows of noughts (and of what is below 2^-100) come back as noughts."""
    assert not dequantize(quantize(weight.astype(np.float32), Scheme(6))).any()


@pytest.mark.parametrize("value", [1.0, -0.37, 2.0**-60, -(2.0**99)])
def test_constant_rows_come_back_within_a_step(value):
    """A row of one value is within half a step of it, at every width."""
    for bits in range(2, 9):
        quantized = quantize(np.full((3, 9), value, np.float32), Scheme(bits))
        assert np.allclose(dequantize(quantized), value, rtol=0, atol=float(quantized.scales[0]) * 0.5000001)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_what_has_no_integer_is_refused(bad):
    """NaN, infinities and absurd magnitudes raise, with their number."""
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = bad
    with pytest.raises(RecipeError, match="1 of 12"):
        quantize(weight, Scheme(6))


def test_empty_tensors_and_wrong_hessians_are_refused():
    """No entries, a Hessian of another size or a negative one raise."""
    with pytest.raises(RecipeError, match="nothing"):
        quantize(np.zeros((0, 3), np.float32), Scheme(6))
    with pytest.raises(RecipeError, match="3 columns"):
        quantize(np.ones((2, 3), np.float32), Scheme(6), np.eye(4))
    with pytest.raises(RecipeError, match="negative"):
        quantize(np.ones((2, 3), np.float32), Scheme(6), -np.eye(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scheme(1),
        lambda: Scheme(9),
        lambda: Scheme(17),
        lambda: Scheme(6, 0.0),
        lambda: Scheme(6, -1.0),
        lambda: Scheme(6, np.nan),
        lambda: Scheme(6, clip="sigma"),
        lambda: Scheme(6, clip="search", sigmas=3.0),
        lambda: Scheme(6, clip="sigma", sigmas=np.inf),
        lambda: Scheme(6, wide_bits=9),
    ],
)
def test_absurd_schemes_are_refused(make):
    """Bits outside 2..8, a coarseness of nought or below, and sigmas without their clip raise."""
    with pytest.raises(RecipeError):
        make()


@given(st.floats(2.0**-100, 2.0**100))
def test_snapping_goes_up_by_less_than_a_sixteenth_and_is_invertible(step):
    """A snapped step is at least the step, at most 1/16 above, survives its number, and snaps to itself."""
    (snapped,) = snap_up(np.array([step]))
    assert step <= snapped <= step * (1 + 1 / 16 + 1e-6)
    numbers, low = split_steps(np.array([snapped]))
    assert low[0] == 0
    assert join_steps(numbers, low)[0] == snapped
    assert snap_up(np.array([snapped], dtype=np.float64))[0] == snapped


def test_coarser_means_larger_steps_and_more_error():
    """Doubling the coarseness doubles every step, and the squared error grows about fourfold."""
    weight = np.random.default_rng(2).normal(0, 1, (64, 64)).astype(np.float32)
    fine, coarse = quantize(weight, Scheme(6)), quantize(weight, Scheme(6, 2.0))
    assert (coarse.scales == 2 * fine.scales).all()
    ratio = np.square(dequantize(coarse) - weight).sum() / np.square(dequantize(fine) - weight).sum()
    assert 3.5 < ratio < 4.5


@given(st.floats(0, 65504, width=16))
def test_float16_steps_survive_their_numbers(step):
    """Every float16 number, subnormal ones too, is told by its coarse number and its place above it."""
    steps = np.array([step], dtype=np.float16).astype(np.float32)
    assert (join_steps(*split_steps(steps)) == steps).all()


def test_steps_of_full_precision_are_refused():
    """A step between two float16 numbers raises: the coder would not give it back."""
    with pytest.raises(RecipeError, match="mantissa"):
        split_steps(np.array([1 / 3], np.float32))


def test_what_is_small_keeps_float16_or_float32():
    """Raw tensors keep their shape, scalars too: float32 as they are, float16 to the nearest."""
    scalar = np.float32(0.1)
    assert to_raw(scalar, RAW_BITS).shape == () == to_raw(scalar, HALF_BITS).shape
    assert to_raw(scalar, RAW_BITS) == scalar
    half = to_raw(np.array([1 + 2**-11, 65519.0], np.float32), HALF_BITS)
    assert half.dtype == np.float16
    assert half.tolist() == [1.0, 65504.0]
    with pytest.raises(RecipeError, match=r"small_bits 32"):
        to_raw(np.array([65520.0], np.float32), HALF_BITS)
    with pytest.raises(RecipeError, match="NaN"):
        to_raw(np.array([np.nan], np.float32), HALF_BITS)


def test_floating_point_is_not_quantised():
    """A raw scheme has no steps: quantising with it raises."""
    with pytest.raises(RecipeError, match="floating point"):
        quantize(np.ones(3, np.float32), Scheme(HALF_BITS))


def test_a_scalar_is_one_row_of_one_entry():
    """A tensor of shape () is quantised and comes back with that shape."""
    quantized = quantize(np.float32(-0.7), Scheme(8))
    assert quantized.values.shape == (1, 1)
    assert dequantize(quantized).shape == ()
    assert dequantize(quantized) == pytest.approx(-0.7, rel=1e-2)
