"""The steps of GPTQ: chosen by the true error, or as published, and on the stored grid before the first column."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.errors import RecipeError
from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.clip_search import clip_search
from paramgolf.squeeze.coder import decode_tensor, encode_tensor, fit_codebooks
from paramgolf.squeeze.gptq import factorise, gptq
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at
from paramgolf.squeeze.matrix_rounder import MatrixRounder
from paramgolf.squeeze.percentile import PERCENTILES, floored_share, percentile_candidates, row_quantiles
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import dequantize, snap_up


def problem(seed=0, rows=24, columns=80, spread=0.1):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(0, 1, (400, columns)) @ rng.normal(0, 1, (columns, columns)) / np.sqrt(columns)
    weight = (rng.standard_t(4, (rows, columns)) * spread).astype(np.float32)
    return weight, (inputs.T @ inputs / 4).astype(np.float32)


def cost(weight, quantized, hessian):
    error = dequantize(quantized).astype(np.float64) - weight
    return float(np.einsum("rc,cd,rd->", error, hessian.astype(np.float64), error))


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_search_costs_less_than_one_clip_and_than_rounding(bits):
    """A row's best step is no worse than the clip search's own under GPTQ, which is far better than rounding."""
    weight, hessian = problem(bits)
    factor, scheme = factorise(hessian), Scheme(bits)
    mine = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme)
    usual = gptq_at(weight, clip_search(weight, scheme.largest()), factor, scheme)
    assert cost(weight, mine, hessian) < cost(weight, usual, hessian)
    assert cost(weight, usual, hessian) < 0.8 * cost(weight, quantize(weight, scheme), hessian)
    assert np.abs(mine.values).max() <= scheme.largest()


@pytest.mark.parametrize("floor", [True, False])
def test_published_choice_is_one_percentile_of_least_weight_error(floor):
    """Spec pr1430.md 3.3, steps 5 and 6, one percentile after the other: the same steps and codes."""
    weight, hessian = problem(1, spread=0.6)
    factor = factorise(hessian, 0.01)
    best = None
    for quantile in PERCENTILES:
        clip = row_quantiles(np.abs(weight), (quantile,))[0]
        step = np.maximum(clip / np.float32(31), np.float32(1 / 31 if floor else 0)).astype(np.float16)
        values = gptq(weight, factor, step.astype(np.float32), 31).values_RC
        error = np.square(weight - values * step.astype(np.float32)[:, None]).mean(dtype=np.float64)
        if best is None or error < best[0]:
            best = error, step, values
    scheme = Scheme(6, clip="percentile-floor" if floor else "percentile")
    found = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme)
    assert (found.scales == best[1].astype(np.float32)).all()
    assert (found.values == best[2]).all()


def test_the_floor_of_the_spec():
    """Spec pr1430.md 11: steps .171265 and, at the floor of 1/7, .142822; half of the rows are on it."""
    weight = np.array([[1.20, -0.65, 0.36], [0.52, 0.94, -0.31]], np.float32)
    steps = percentile_candidates(weight, 4, floor=True)[0]
    assert steps == pytest.approx([0.171265, 0.142822], abs=1e-6)
    hessian = np.array([[1.513333, 1, 1], [1, 5.013333, 1], [1, 1, 1.513333]])
    scheme = Scheme(4, clip="percentile-floor")
    factor = factorise(hessian, 0.005)
    found = gptq_at(weight, steps.astype(np.float64), factor, scheme)
    assert found.values.tolist() == [[7, -4, 2], [3, 7, -2]]
    assert floored_share([found]) == 0.5
    coarser = Scheme(4, 1.7, "percentile-floor")
    assert floored_share([gptq_at(weight, steps.astype(np.float64), factor, coarser)], 1.7) == 0.5


@pytest.mark.parametrize("clip", ["search", "percentile", "percentile-floor"])
def test_codes_come_from_the_steps_that_are_stored(clip):
    """At any coarseness the codes are GPTQ's with the stored steps, which the coder gives back exactly."""
    weight, hessian = problem(2)
    factor = factorise(hessian)
    for coarseness in (1.0, 1.37, 3.0):
        scheme = Scheme(5, coarseness, clip)
        found = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme)
        assert (found.values == gptq(weight, factor, found.scales, 15).values_RC).all()
        books = fit_codebooks([found])
        back = decode_tensor(encode_tensor(found, books), found.shape, 5, books)
        assert (back.scales == found.scales).all() and (back.values == found.values).all()
        if clip == "search":
            assert (snap_up(found.scales.astype(np.float64)) == found.scales).all()


def test_matrices_that_share_a_hessian_and_threads_change_nothing():
    """Several matrices side by side give what each gives alone, at every coarseness and again."""
    (a, hessian), (b, _), (c, other) = problem(3), problem(4), problem(5, columns=33)
    weights, hessians = {"a": a, "b": b, "c": c}, {"a": hessian, "b": hessian, "c": other, "unused": other}
    rounder = MatrixRounder(weights, hessians, SqueezeRecipe(quantiser="gptq", damping=0.02))
    for scheme in (Scheme(6), Scheme(6, 1.5), Scheme(4), Scheme(6)):
        found = rounder.quantise(dict.fromkeys(weights, scheme))
        for name, weight in weights.items():
            factor = factorise(hessians[name], 0.02)
            alone = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme)
            assert (found[name].values == alone.values).all()
            assert (found[name].scales == alone.scales).all()
    assert rounder.unmended == ()


def test_a_hessian_that_cannot_be_mended_means_rounding_and_is_told():
    """The matrix is rounded to nearest and named; the others keep GPTQ."""
    (a, hessian), (b, _) = problem(6, columns=4), problem(7, columns=4)
    bad = np.full((4, 4), 3.0, np.float32)
    np.fill_diagonal(bad, 1.0)
    rounder = MatrixRounder({"a": a, "b": b}, {"a": bad, "b": hessian}, SqueezeRecipe(quantiser="gptq"))
    assert rounder.unmended == ("a",)
    found = rounder.quantise(dict.fromkeys("ab", Scheme(5, 1.2)))
    assert (found["a"].values == quantize(a, Scheme(5, 1.2)).values).all()
    assert (found["b"].values != quantize(b, Scheme(5, 1.2)).values).any()


def test_hessians_of_another_model_are_refused():
    """A matrix without one, or with one of another width or with NaN, raises with its name."""
    weight, hessian = problem(8)
    recipe = SqueezeRecipe(quantiser="gptq")
    with pytest.raises(RecipeError, match="no Hessian for a"):
        MatrixRounder({"a": weight}, {"b": hessian}, recipe)
    with pytest.raises(RecipeError, match=r"of a of shape \(3, 3\) for 80 columns"):
        MatrixRounder({"a": weight}, {"a": np.eye(3, dtype=np.float32)}, recipe)
    spoilt = hessian.copy()
    spoilt[3, 4] = np.nan
    with pytest.raises(RecipeError, match="of a are not finite"):
        MatrixRounder({"a": weight}, {"a": spoilt}, recipe)
