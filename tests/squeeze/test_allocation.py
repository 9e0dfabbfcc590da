"""Steps allocated to all tensors together cost the least expected loss that their bytes allow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.squeeze.allocation import COARSEST, FINEST, OCTAVES_P, allocate, row_shape, tensor_curve
from paramgolf.squeeze.gptq import factorise
from paramgolf.squeeze.gptq_steps import nearest_at_steps
from paramgolf.squeeze.quantize import Scheme, quantize
from paramgolf.squeeze.quantized import dequantize
from paramgolf.squeeze.sensitivity import LEAST_SHARE, Sensitivity, rounding_power


def model(seed=0, count=4, rows=96, columns=64):
    """Tensors of several spreads, their steps, and powers over three orders of magnitude."""
    rng = np.random.default_rng(seed)
    weights = {f"t{i}": rng.normal(0, np.exp(rng.normal()), (rows, columns)).astype(np.float32) for i in range(count)}
    steps = {name: 0.37 * weight.std(axis=1).astype(float) for name, weight in weights.items()}
    powers = {name: float(np.exp(rng.normal(0, 3))) for name in weights}
    return weights, steps, powers, dict.fromkeys(weights, 127)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.3, 8.0))
def test_equal_slopes(seed, coarseness):
    """At fine steps every tensor's expected loss falls by the same for one more byte: D / n is one number."""
    weights, steps, powers, largest = model(seed)
    allocation = allocate(weights, steps, powers, dict.fromkeys(largest, 10**6))
    slopes = []
    for name, factor in allocation.factors(coarseness).items():
        curve, octaves = allocation.curves[name], np.log2(factor)
        if not OCTAVES_P[0] + 0.5 < octaves < 1:  # the law of fine steps holds, the grid has not ended
            continue
        step_R = steps[name] * factor
        exact = powers[name] * weights[name].shape[1] * np.square(step_R).sum() / 12
        assert curve.loss(octaves) == pytest.approx(exact, rel=0.05)
        slopes.append(2 * np.log(2) * exact / (weights[name].size / 8))
    if slopes:
        assert max(slopes) < 1.35 * min(slopes)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_more_bytes_never_coarser(seed):
    """Every tensor's factor grows with the coarseness, predicted bytes are those of one coarseness for all."""
    allocation = allocate(*model(seed))
    found = [allocation.factors(c) for c in np.geomspace(FINEST, COARSEST, 12)]
    for fine, coarse in itertools.pairwise(found):
        assert all(fine[name] <= coarse[name] for name in fine)
    for coarseness in (0.7, 1.0, 1.5):
        taken = sum(allocation.curves[n].bytes(np.log2(f)) for n, f in allocation.factors(coarseness).items())
        assert taken <= allocation.predicted_bytes(coarseness) * (1 + 1e-9)
        assert taken >= 0.97 * allocation.predicted_bytes(coarseness)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([0.6, 1.0, 2.0, 4.0]))
def test_a_brute_search_finds_nothing_better(seed, coarseness):
    """Of all combinations of factors on the grid that take no more bytes, none is expected to lose 2 % less."""
    weights, steps, powers, largest = model(seed, count=3)
    allocation = allocate(weights, steps, powers, largest)
    ours = allocation.factors(coarseness)
    curves = list(allocation.curves.values())
    taken = sum(curve.bytes(np.log2(ours[name])) for name, curve in allocation.curves.items())
    bytes_PPP = sum(np.meshgrid(*(curve.bytes_P for curve in curves), indexing="ij"))
    loss_PPP = sum(np.meshgrid(*(curve.loss_P for curve in curves), indexing="ij"))
    best = loss_PPP[bytes_PPP <= taken].min()
    assert allocation.predicted_loss(ours) <= 1.02 * best


def test_one_factor_for_all_loses_more():
    """Where powers differ a hundredfold, equal bytes with one factor for all are expected to lose at least twice."""
    weights, steps, _, largest = model(3, count=2)
    same = dict.fromkeys(weights, weights["t0"])
    allocation = allocate(same, dict.fromkeys(weights, steps["t0"]), {"t0": 100.0, "t1": 1.0}, largest)
    together = allocation.predicted_loss(dict.fromkeys(weights, 1.0))
    assert allocation.predicted_loss(allocation.factors(1.0)) < together / 2


def test_equal_tensors_get_equal_steps():
    """Nothing but weights, steps and powers counts: copies under other names get the same factor."""
    weights, steps, powers, largest = model(1, count=1)
    names = ("a", "b", "c")
    allocation = allocate(
        *(dict.fromkeys(names, part["t0"]) for part in (weights, steps, powers, largest)),
    )
    factors = allocation.factors(1.7)
    assert factors["a"] == factors["b"] == factors["c"] == pytest.approx(1.7, rel=0.03)
    assert allocate(weights, steps, powers, largest).factors(1.7) == allocate(weights, steps, powers, largest).factors(
        1.7
    )


def test_a_tensor_of_noughts_is_no_trouble():
    """It takes no bytes, its steps stay noughts, and the others share the budget without it."""
    weights, steps, powers, largest = model(2, count=2)
    weights["t1"][:] = 0
    steps["t1"][:] = 0
    allocation = allocate(weights, steps, powers, largest)
    assert allocation.steps(1.5)["t1"].tolist() == steps["t1"].tolist()
    assert allocation.factors(1.5)["t0"] == pytest.approx(1.5, rel=0.03)


def test_bytes_are_those_of_the_entropy():
    """At fine steps a curve's bytes are the integers' order-0 entropy, and a clip of 1 bounds them by log2 3."""
    weight = np.random.default_rng(4).normal(0, 1, (64, 64)).astype(np.float32)
    curve = tensor_curve(weight, np.full(64, 0.3), 1.0, 127)
    share = np.unique(np.rint(weight / 0.3), return_counts=True)[1] / weight.size
    assert curve.bytes(0.0) == pytest.approx(-(share * np.log2(share)).sum() * weight.size / 8, rel=1e-6)
    clipped = tensor_curve(weight, np.full(64, 0.3), 1.0, 1)
    assert clipped.bytes_P.max() <= weight.size * np.log2(3) / 8
    assert clipped.loss(0.0) > curve.loss(0.0)


def test_rows_that_matter_more_get_finer_steps():
    """Shaped steps go as power^-1/4 from equal steps, keep their mean square, and leave rows of no step alone."""
    steps_R = np.array([0.1, 0.1, 0.0, 0.1])
    shape_R = row_shape(steps_R, np.array([1.0, 16.0, 3.0, 1.0]))
    shaped_R = steps_R * shape_R
    assert shaped_R[1] == pytest.approx(shaped_R[0] / 2)
    assert shaped_R[2] == 0
    assert np.square(shaped_R).sum() == pytest.approx(np.square(steps_R).sum())
    assert row_shape(steps_R, 5.0).tolist() == [1.0] * 4


def test_what_gptq_leaves_of_an_error():
    """With the factor, a unit of error costs the mean pivot: GPTQ's own loss over its steps squared, twelvefold."""
    rng = np.random.default_rng(5)
    inputs_NC = rng.normal(0, 1, (500, 24)) @ rng.normal(0, 1, (24, 24))
    hessian = inputs_NC.T @ inputs_NC
    factor = factorise(hessian, 0.0)
    from paramgolf.squeeze.gptq import gptq

    weight = rng.normal(0, 1, (2000, 24))
    lost = gptq(weight, factor, np.full(2000, 0.05), 127).loss_R.sum()
    assert lost == pytest.approx(rounding_power(factor) * weight.size * 0.05**2 / 12, rel=0.05)
    assert rounding_power(hessian) == pytest.approx(np.diagonal(hessian).mean())
    assert rounding_power(factor) < rounding_power(hessian)


def test_power_joins_both_uses_of_a_tied_table():
    """Half of outputs times moments a token, plus half of the look-ups; no row below its share of the mean."""
    hessian = np.diag([4.0, 8.0])
    sensitivity = Sensitivity(np.array([1.0, 2.0, 0.0]), np.array([0.5, 0.0, 0.0]))
    power_R = sensitivity.power(hessian, 2)
    assert power_R[:2].tolist() == [(3 + 0.5) / 2, 3.0]
    assert power_R[2] == pytest.approx(LEAST_SHARE * (1.75 + 3.0) / 3)
    assert sensitivity.power(None, 2)[0] == 0.25


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([FINEST, 0.2, 0.5]))
def test_no_step_is_so_fine_that_weights_are_cut_short(seed, coarseness):
    """The largest weight of every row lies within 127 of its steps, and finer steps cost no more."""
    weights, steps, powers, largest = model(seed)
    weights["t0"][3, 5] *= 60
    allocation = allocate(weights, steps, powers, largest)
    for name, step_R in allocation.steps(coarseness).items():
        assert (np.abs(weights[name]).max(axis=1) <= 127.0001 * step_R).all()
        loss_P = allocation.curves[name].loss_P[OCTAVES_P <= 0]
        assert (loss_P[:-1] <= 1.01 * loss_P[1:]).all()


def test_a_budget_with_room_is_filled_to_eight_bits():
    """At the finest setting tensors clipped far out are off no more than 1.1 times nearest rounding's 8 best bits."""
    rng = np.random.default_rng(7)
    weights = {name: rng.normal(0, 1, (64, 256)).astype(np.float32) for name in ("matrix", "table")}
    steps = {"matrix": np.full(64, 13 / 31), "table": np.full(64, 14 / 63)}
    allocation = allocate(weights, steps, {"matrix": 3.0, "table": 1.0}, dict.fromkeys(weights, 127))
    for name, steps_R in allocation.steps(FINEST).items():
        free, best = nearest_at_steps(weights[name], steps_R), quantize(weights[name], Scheme(8))
        errors = [np.square(dequantize(made) - weights[name]).sum() for made in (free, best)]
        assert errors[0] <= 1.1 * errors[1]
        assert np.sqrt(errors[0] / np.square(weights[name]).sum()) < 0.01
