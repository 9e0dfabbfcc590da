"""Groups of columns that keep more bits: which, how GPTQ rounds them, and that all parts come back."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.allocation import FINEST, allocate
from paramgolf.squeeze.gptq import WideGrid, factorise, gptq, gptq_candidates
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at, gptq_at_steps
from paramgolf.squeeze.matrix_rounder import MatrixRounder
from paramgolf.squeeze.quantize import Scheme
from paramgolf.squeeze.quantized import all_integers, dequantize
from paramgolf.squeeze.sensitivity import rounding_power
from paramgolf.squeeze.wide_groups import Groups, choose_groups, group_scores, input_rms

W = np.array([[0.10, -0.20, 0.30, 0.05], [-0.40, 0.25, 0.02, 0.33]], np.float32)
H = np.array([[4, 3.6, 1, 0.5], [3.6, 4, 1.2, 0.4], [1, 1.2, 2, 0.9], [0.5, 0.4, 0.9, 1]])
DEAD = np.array([[2, 0.5, 0.1, 0], [0.5, 1, 0.2, 0], [0.1, 0.2, 4, 0], [0, 0, 0, 0]])
ALIVE = DEAD + np.diag([0, 0, 0, 0.5])
WIDE = Scheme(4, clip="sigma", sigmas=3.0)


def trace(error_RC, hessian_CC):
    return float(np.trace(error_RC @ hessian_CC @ error_RC.T))


@pytest.mark.parametrize("block", [2, 128])
def test_gptq_of_the_spec(block):
    """Spec pr2140.md 9.3: steps, U, integers and traces at k=2, R=3, whatever the block."""
    scheme = Scheme(3, clip="sigma", sigmas=2.0)
    factor = factorise(H, 0.01)
    assert factor.order_C.tolist() == [0, 1, 2, 3]
    upper = [
        [1.1497, -1.0556, 0.2023, -0.3257],
        [0, 0.5514, -0.3781, 0.1165],
        [0, 0, 0.8983, -0.7869],
        [0, 0, 0, 0.9865],
    ]
    found_upper = factor.lower_CC.T
    assert found_upper == pytest.approx(np.array(upper), abs=6e-5)
    found = gptq_at(W, find_gptq_steps(W, factor, scheme), factor, scheme)
    assert found.scales.tolist() == [0.1370849609375, 0.2183837890625]
    assert found.values.tolist() == [[1, -2, 2, 1], [-2, 1, 0, 2]]
    codes, _ = gptq_candidates(W, factor, found.scales[None], 3, block)
    assert (codes[0] == found.values).all()
    plain = np.array([[1, -1, 2, 0], [-2, 1, 0, 2]])
    assert trace(W - dequantize(found), H) == pytest.approx(0.0358086, abs=1e-7)
    assert trace(W - plain * found.scales[:, None], H) == pytest.approx(0.0565989, abs=1e-7)


def test_a_dead_column_of_the_spec():
    """Spec pr2140.md 9.3: weights of an input that was always 0 become 0; with H_33 = .5 the column is 1 and 2."""
    factor = factorise(DEAD, 0.01)
    found = gptq_at(W, find_gptq_steps(W, factor, WIDE), factor, WIDE)
    assert found.scales.tolist() == [0.088134765625, 0.140380859375]
    assert found.values.tolist() == [[1, -2, 3, 0], [-3, 2, 0, 0]]
    factor = factorise(ALIVE, 0.01)
    alive = gptq_at(W, find_gptq_steps(W, factor, WIDE), factor, WIDE)
    assert alive.values[:, 3].tolist() == [1, 2]


def test_protected_columns_of_the_spec():
    """Spec pr2140.md 9.3: columns 0 and 1 at 8 bits; both their integers and their errors are of the wide grid."""
    factor = factorise(ALIVE, 0.01)
    found = gptq_at(W, find_gptq_steps(W, factor, WIDE), factor, WIDE, Groups((0,), 2))
    assert all_integers(found).tolist() == [[21, -40, 3, 1], [-52, 33, 0, 2]]
    assert found.wide.part.scales == pytest.approx([0.004856, 0.007736], abs=6e-7)
    assert found.values.tolist() == [[3, 1], [0, 2]]
    assert found.columns() == 4


def test_scores_of_the_spec():
    """Spec pr2140.md 9.4: groups of two score 2.5 and 1.5; what is left over belongs to none."""
    weight = np.array([[1, -2, 0.5, 3], [3, 0, 0.5, -1]], np.float32)
    rms = np.array([1, 0.5, 2, 0.25])
    assert group_scores(weight, rms, 2).tolist() == [2.5, 1.5]
    assert len(group_scores(weight, rms, 3)) == 1
    assert len(group_scores(weight, rms, 5)) == 0


def test_the_best_groups_of_all_tensors():
    """Groups are ranked over all tensors, the first of equal ones; starts ascend; one of each tensor stays narrow."""
    scores = {"a": np.array([1.0, 5.0, 2.0]), "b": np.array([5.0, 7.0]), "c": np.zeros(0), "d": np.array([99.0])}
    assert choose_groups(scores, 1, 8) == {"b": Groups((8,), 8)}
    assert choose_groups(scores, 2, 8) == {"a": Groups((8,), 8), "b": Groups((8,), 8)}
    assert choose_groups(scores, 3, 8) == {"a": Groups((8, 16), 8), "b": Groups((8,), 8)}
    assert choose_groups(scores, 99, 8) == {"a": Groups((8, 16), 8), "b": Groups((8,), 8)}
    assert choose_groups(scores, 0, 8) == {}
    equal = {"a": np.ones(3), "b": np.ones(2)}
    assert choose_groups(equal, 1, 8) == {"a": Groups((0,), 8)}


def problem(seed=0, rows=24, columns=80):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(0, 1, (400, columns)) @ rng.normal(0, 1, (columns, columns)) / np.sqrt(columns)
    weight = (rng.standard_t(4, (rows, columns)) * 0.1).astype(np.float32)
    return weight, (inputs.T @ inputs / 4).astype(np.float32)


def plain(weight_RC, hessian_CC, steps_RC, largest_C, damping):
    """Spec pr2140.md 4.2 and 4.3 written down literally, a grid for each column."""
    hessian = hessian_CC.astype(np.float64).copy()
    hessian[np.diag_indices_from(hessian)] += damping * np.diagonal(hessian).mean()
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    work, codes = weight_RC.astype(np.float64)[:, order], np.zeros(weight_RC.shape)
    for j, column in enumerate(order):
        step_R = steps_RC[:, column]
        codes[:, column] = np.clip(np.round(work[:, j] / step_R), -largest_C[column], largest_C[column])
        error_R = (work[:, j] - codes[:, column] * step_R) / upper[j, j]
        work[:, j:] -= np.outer(error_R, upper[j, j:])
    return codes


@pytest.mark.parametrize("clip", ["sigma", "search", "percentile"])
def test_wide_columns_equal_the_plain_form(clip):
    """Integers of wide and narrow columns are those of a literal GPTQ with a grid for each column, for every clip."""
    weight, hessian = problem()
    scheme = Scheme(4, 1.3, clip, 9.0 if clip == "sigma" else 0.0)
    factor = factorise(hessian, 0.02)
    found = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme, Groups((16, 48), 16))
    columns = np.r_[16:32, 48:64]
    steps = np.repeat(found.scales[:, None], 80, axis=1).astype(np.float64)
    steps[:, columns] = found.wide.part.scales[:, None]
    largest = np.full(80, 7)
    largest[columns] = 127
    assert (all_integers(found) == plain(weight, hessian, steps, largest, 0.02)).all()
    back = dequantize(found)
    assert back == pytest.approx(all_integers(found) * steps, rel=1e-6)
    rough = gptq_at(weight, find_gptq_steps(weight, factor, scheme), factor, scheme)
    assert trace(weight - back, hessian) < trace(weight - dequantize(rough), hessian)


def test_candidates_share_the_wide_grid():
    """Several steps at once give what each gives alone beside the same wide columns."""
    weight, hessian = problem(1)
    factor, wide = factorise(hessian), WideGrid(np.arange(8), np.full(24, 0.004), 127)
    steps = np.stack([np.full(24, 0.05), np.full(24, 0.09)])
    codes, losses = gptq_candidates(weight, factor, steps, 7, wide=wide)
    for one, values, loss in zip(steps, codes, losses, strict=True):
        alone = gptq(weight, factor, one, 7, wide)
        assert (values == alone.values_RC).all()
        assert loss == pytest.approx(alone.loss_R)


def test_inputs_of_looped_blocks_count_once():
    """A Hessian that was summed over three visits has the root mean square of one."""
    _, hessian = problem(2)
    assert input_rms(3 * hessian, 3) == pytest.approx(input_rms(hessian, 1))


def test_the_rounder_takes_the_best_groups_of_what_is_mended():
    """Of two matrices the louder one keeps 8 bits in a group; one whose Hessian is hopeless keeps none."""
    (a, hessian), (b, other) = problem(3), problem(4)
    recipe = SqueezeRecipe(quantiser="gptq", clip="sigma", matrix_bits=4, wide_groups=1, wide_columns=16)
    weights, scheme = {"a": a, "b": 3 * b}, Scheme(4, clip="sigma", sigmas=9.0)
    rounder = MatrixRounder(weights, {"a": hessian, "b": other}, recipe)
    assert list(rounder.groups) == ["b"]
    found = rounder.quantise(dict.fromkeys(weights, scheme))
    assert found["a"].wide is None
    assert found["b"].wide.starts == rounder.groups["b"].starts
    # Run often enough, the louder matrix's inputs are quiet each time.
    assert list(MatrixRounder(weights, {"a": hessian, "b": other}, recipe, {"b": 1000}).groups) == ["a"]
    bad = np.full((80, 80), 3.0, np.float32)
    np.fill_diagonal(bad, 1.0)
    hopeless = MatrixRounder(weights, {"a": hessian, "b": bad}, recipe)
    assert hopeless.unmended == ("b",)
    assert list(hopeless.groups) == ["a"]
    assert hopeless.quantise(dict.fromkeys(weights, scheme))["b"].wide is None


@pytest.mark.parametrize("coarseness", [FINEST, 1 / 8, 1.0])
def test_allocated_wide_columns_are_not_cut_short(coarseness):
    """At any steps that an allocation makes, down to the finest, a wide group costs no more than none."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (64, 128)).astype(np.float32)
    inputs = rng.normal(0, 1, (400, 128)) * np.where(np.arange(128) < 64, 4.0, 1.0)
    hessian, scheme = (inputs.T @ inputs).astype(np.float32), Scheme(7, clip="sigma", sigmas=14.0)
    factor = factorise(hessian)
    steps_R = find_gptq_steps(weight, factor, scheme)
    given = allocate({"w": weight}, {"w": steps_R}, {"w": rounding_power(factor)}, {"w": 127}).steps(coarseness)["w"]
    none, wide = (gptq_at_steps(weight, given, factor, scheme, groups) for groups in (None, Groups((0,), 64)))
    assert trace(dequantize(wide) - weight, hessian) <= 1.02 * trace(dequantize(none) - weight, hessian)
    error = np.abs(dequantize(wide) - weight)[:, :64].max(axis=1)
    assert (error < 1.5 * none.scales + 0.02).all()
    if coarseness == 1.0:
        assert trace(dequantize(wide) - weight, hessian) < 0.5 * trace(dequantize(none) - weight, hessian)
