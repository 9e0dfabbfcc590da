"""The published quantisers against the spec's oracles and against torch's quantile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramgolf.errors import RecipeError
from paramgolf.squeeze.coder import decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.percentile import PERCENTILES, percentile_steps, row_quantiles
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import dequantize

INT6 = Scheme(6, clip="percentile-floor")
INT8 = Scheme(8, clip="percentile-floor")


def mean_squared_error(weight, quantized):
    return np.square(dequantize(quantized).astype(np.float64) - weight).mean()


def test_int6_row_above_the_floor():
    """Spec pr549.md 8.8, first row: integers, the float16 step, and the error of the chosen percentile 0.9999."""
    weight = np.array([[3.1, -1, 0.05, 0]], np.float32)
    quantized = quantize(weight, INT6)
    assert quantized.values.tolist() == [[31, -10, 1, 0]]
    assert quantized.scales.tolist() == [0.0999755859375]
    assert mean_squared_error(weight, quantized) == pytest.approx(6.245479e-4, rel=1e-6)
    # The percentiles' own steps: 0.9999 ties with the later ones, and 0.999 is worse.
    steps = (row_quantiles(np.abs(weight), PERCENTILES)[:, 0] / np.float32(31)).astype(np.float16)
    assert steps.astype(float).tolist() == [0.09979248046875, 0.09991455078125, *[0.0999755859375] * 3]
    back = quantized.values * np.float32(steps[0])
    assert np.square(weight - back).mean() == pytest.approx(6.312453e-4, rel=1e-5)


def test_int6_row_below_the_floor():
    """Spec pr549.md 8.8, second row: the step is fp16(1/31), whatever the percentile."""
    weight = np.array([[0.5, -0.25, 0.1, 0.01]], np.float32)
    quantized = quantize(weight, INT6)
    assert quantized.scales.tolist() == [0.032257080078125] == [float(np.float16(1 / 31))]
    assert quantized.values.tolist() == [[16, -8, 3, 0]]
    assert mean_squared_error(weight, quantized) == pytest.approx(1.087431e-4, rel=1e-6)


def test_one_percentile_is_chosen_for_a_whole_tensor():
    """Spec pr549.md 8.8, the 2x5 tensor: 0.9999 wins for both rows, and the second row is on the floor."""
    weight = np.array([[62, -10, 1, 0.9, -0.4], [0.2, 0.1, 0, -0.1, -0.2]], np.float32)
    quantized = quantize(weight, INT6)
    assert quantized.values.tolist() == [[31, -5, 1, 0, 0], [6, 3, 0, -3, -6]]
    assert quantized.scales.tolist() == [1.9990234375, 0.032257080078125]
    assert mean_squared_error(weight, quantized) == pytest.approx(0.1969092339, rel=1e-6)


def test_halves_are_rounded_to_even():
    """Spec pr549.md 8.8, half-even: with a step of 1 the halves go to even integers; percentile 0.999 wins instead."""
    weight = np.array([[31, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    quantized = quantize(weight, INT6)
    assert quantized.values.tolist() == [[31, 1, 2, 3, -1, -2]]
    assert quantized.scales[0] == pytest.approx(0.99560547, abs=1e-8)
    assert mean_squared_error(weight, quantized) == pytest.approx(0.2048958, abs=1e-7)
    at_one = np.clip(np.rint(weight), -31, 31)
    assert at_one.tolist() == [[31, 0, 2, 2, 0, -2]]
    assert np.square(weight - at_one).mean() == pytest.approx(0.2083333, abs=1e-7)


def test_int8_rows():
    """Spec pr549.md 8.8, int8: weights are clipped and divided by the float32 step, the step is stored as float16."""
    weight = np.array([[2.54, -1, 0.3, 0.004], [0.5, 0.25, -0.01, 0.003]], np.float32)
    quantized = quantize(weight, INT8)
    assert quantized.values.tolist() == [[127, -50, 15, 0], [63, 32, -1, 0]]
    assert quantized.scales.tolist() == [0.0200042724609375, 0.00787353515625]


def test_without_the_floor_small_rows_keep_their_own_step():
    """The same rows without the floor: each step is near max / q, and the error falls."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.05, (32, 512)).astype(np.float32)
    for bits, largest in ((6, 31), (8, 127)):
        floored = quantize(weight, Scheme(bits, clip="percentile-floor"))
        free = quantize(weight, Scheme(bits, clip="percentile"))
        assert (floored.scales == np.float32(np.float16(1 / largest))).all()
        top = np.abs(weight).max(axis=1) / largest
        assert (free.scales <= top * 1.001).all()
        assert (free.scales > 0.8 * top).all()
        assert mean_squared_error(weight, free) < 0.1 * mean_squared_error(weight, floored)


@pytest.mark.parametrize(("std", "share", "error"), [(0.05, 1.0, 0.186), (0.1, 1.0, 0.093), (0.3, 0.71, 0.032)])
def test_the_effect_of_the_floor_on_gaussian_rows(std, share, error):
    """Spec pr549.md 4.3: shares of rows on the floor and the relative error, for rows of width 512."""
    weight = np.random.default_rng(1).normal(0, std, (4096, 512)).astype(np.float32)
    quantized = quantize(weight, INT6)
    floored = (quantized.scales == np.float32(np.float16(1 / 31))).mean()
    assert floored == pytest.approx(share, abs=0.03)
    assert np.sqrt(mean_squared_error(weight, quantized) / np.square(weight).mean()) == pytest.approx(error, abs=0.001)


@pytest.mark.parametrize("columns", [1, 2, 4, 5, 128, 512, 1536])
def test_quantiles_are_those_of_torch_to_the_bit(columns):
    """`row_quantiles` equals torch.quantile in float32, for every percentile that is used."""
    magnitude = np.abs(np.random.default_rng(columns).normal(0, 1, (300, columns))).astype(np.float32)
    quantiles = (*PERCENTILES, 0.9999984, 0.0, 0.3)
    found = row_quantiles(magnitude, quantiles)
    for row, quantile in zip(found, quantiles, strict=True):
        assert (row == torch.quantile(torch.from_numpy(magnitude), quantile, dim=1).numpy()).all()


@pytest.mark.parametrize("floor", [True, False])
def test_int6_equals_a_plain_transcription_in_torch(floor):
    """Spec pr549.md 4.3 written down in torch gives the same integers and steps for matrices of many spreads."""
    rng = np.random.default_rng(2)
    for columns, tails in ((512, 8.0), (1536, 2.0), (17, 1.0)):
        weight = (rng.standard_t(tails, (64, columns)) * np.exp(rng.normal(-1, 2, (64, 1)))).astype(np.float32)
        w = torch.from_numpy(weight)
        best = None
        for p in PERCENTILES:
            clip = torch.quantile(w.abs(), p, dim=1) if p < 1 else w.abs().amax(dim=1)
            step = (clip / 31.0).clamp_min(1.0 / 31.0 if floor else 0.0).half()
            q = torch.clamp(torch.round(w / step.float()[:, None]), -31, 31)
            error = (w - q * step.float()[:, None]).square().double().mean().item()
            if best is None or error < best[0]:
                best = error, q, step
        found = quantize(weight, Scheme(6, clip="percentile-floor" if floor else "percentile"))
        assert (found.scales == best[2].float().numpy()).all()
        assert (found.values == best[1].numpy()).all()


def test_published_steps_survive_the_coder():
    """Integers and float16 steps of the published quantisers come back exactly from our code."""
    rng = np.random.default_rng(3)
    spread = np.exp(rng.normal(-1, 1, (48, 1)))
    weights = [(rng.normal(0, 1, (48, 64)) * spread).astype(np.float32) for _ in range(4)]
    schemes = [INT6, INT8, Scheme(6, clip="percentile"), Scheme(8, 1.7, clip="percentile")]
    tensors = [quantize(weight, scheme) for weight, scheme in zip(weights, schemes, strict=True)]
    books = fit_codebooks(tensors)
    for tensor in tensors:
        back = decode_tensor(encode_tensor(tensor, books), tensor.shape, tensor.bits, books)
        assert (back.values == tensor.values).all()
        assert (back.scales == tensor.scales).all()


def test_coarser_percentile_steps_are_larger():
    """A coarseness multiplies every stored step, to the nearest float16, on the floor too."""
    weight = np.random.default_rng(4).normal(0, 0.3, (16, 64)).astype(np.float32)
    for clip in ("percentile", "percentile-floor"):
        for bits in (6, 8):
            fine, coarse = quantize(weight, Scheme(bits, 1.0, clip)), quantize(weight, Scheme(bits, 1.5, clip))
            assert coarse.scales == pytest.approx(1.5 * fine.scales, rel=2**-10)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4)])
def test_noughts_and_any_rank(shape):
    """Tensors of every rank keep their shape, and noughts stay noughts, with and without the floor."""
    for clip in ("percentile", "percentile-floor"):
        for bits in (4, 6, 8):
            scheme = Scheme(bits, clip=clip)
            assert not dequantize(quantize(np.zeros(shape, np.float32), scheme)).any()
            back = dequantize(quantize(np.full(shape, 3.0, np.float32), scheme))
            assert back.shape == shape
            assert back == pytest.approx(np.full(shape, 3.0), rel=1e-3)


def test_rows_below_float16_become_noughts():
    """A row whose step is no float16 number above 0 has the step 0 and integers 0."""
    quantized = quantize(np.full((1, 4), 1e-9, np.float32), Scheme(8, clip="percentile"))
    assert not quantized.values.any()
    assert not quantized.scales.any()


def test_weights_beyond_float16_are_refused():
    """A step above 65,504 raises with the choice that stores it."""
    with pytest.raises(RecipeError, match=r"squeeze\.clip search"):
        percentile_steps(np.full((1, 4), 1e8, np.float32), 6, floor=True)


def test_hessians_go_with_the_search_only():
    """The published quantisers take no calibration."""
    with pytest.raises(RecipeError, match="no Hessian"):
        quantize(np.ones((2, 3), np.float32), INT6, np.eye(3))
