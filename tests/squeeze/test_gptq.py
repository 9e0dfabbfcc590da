"""GPTQ against the spec's trace, a plain transcription and round-to-nearest."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.errors import RecipeError
from paramgolf.squeeze.gptq import BLOCK, factorise, gptq, gptq_candidates

W = np.array([[1.20, -0.65, 0.36], [0.52, 0.94, -0.31]])
X = [np.array([[1.0, 2, 0], [0, 2, 1]]), np.array([[1.0, 1, 1], [1, -1, 1]])]


def trace(error_RC, hessian_CC):
    return float(np.trace(error_RC @ hessian_CC @ error_RC.T))


def problem(seed, rows, columns, samples):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(0, 1, (samples, columns)) @ rng.normal(0, 1, (columns, columns)) / np.sqrt(columns)
    inputs *= np.exp(rng.normal(0, 1, columns))
    weight = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
    steps = np.abs(weight).max(axis=1).astype(np.float64) / 7
    return weight, inputs.T @ inputs / 4, steps


def plain(weight_RC, hessian_CC, steps_R, largest, damping):
    """Spec pr1430.md 3.3 written down literally: inverse, Cholesky of the inverse, one column after the other."""
    work = weight_RC.astype(np.float64).copy()
    hessian = hessian_CC.copy()
    hessian[np.diag_indices_from(hessian)] += damping * np.diagonal(hessian).mean()
    order = sorted(range(len(hessian)), key=lambda c: -hessian_CC[c, c])
    work, hessian = work[:, order], hessian[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    codes = np.zeros(work.shape)
    for j in range(work.shape[1]):
        for row in range(work.shape[0]):
            codes[row, j] = np.clip(np.round(work[row, j] / steps_R[row]), -largest, largest)
            error = (work[row, j] - codes[row, j] * steps_R[row]) / upper[j, j]
            work[row, j:] -= error * upper[j, j:]
    back = np.zeros_like(codes)
    back[:, order] = codes
    return back


def test_the_trace_of_the_spec():
    """Spec pr1430.md 11: order, rows of U, codes, weight MSE and H-weighted error of the 2 x 3 example."""
    hessian = sum(x.T @ x for x in X) / 2
    assert hessian.tolist() == [[1.5, 1, 1], [1, 5, 1], [1, 1, 1.5]]
    once = hessian + 0.005 * hessian.diagonal().mean() * np.eye(3)
    assert once.diagonal() == pytest.approx([1.513333, 5.013333, 1.513333], abs=1e-6)
    factor = factorise(once, 0.005)
    assert factor.order_C.tolist() == [1, 0, 2]
    upper = factor.lower_CC.T
    expected = [[0.485918, -0.192311, -0.192311], [0, 1.071042, -0.701525], [0, 0, 0.809317]]
    assert upper == pytest.approx(np.array(expected), abs=1e-6)
    damped = once + 0.005 * once.diagonal().mean() * np.eye(3)
    assert damped.diagonal() == pytest.approx([1.526733, 5.026733, 1.526733], abs=1e-6)
    steps = np.array([0.171265, 0.142822]).astype(np.float16).astype(np.float64)
    assert steps == pytest.approx([0.171265, 0.142822], abs=1e-6)
    rounded = gptq(W, factor, steps, 7)
    assert rounded.values_RC.tolist() == [[7, -4, 2], [3, 7, -2]]
    nearest = np.clip(np.rint(W / steps[:, None]), -7, 7)
    assert nearest.tolist() == [[7, -4, 2], [4, 7, -2]]
    error, its = W - rounded.values_RC * steps[:, None], W - nearest * steps[:, None]
    assert np.square(error).mean() == pytest.approx(0.00234632, abs=1e-8)
    assert np.square(its).mean() == pytest.approx(0.00138836, abs=1e-8)
    assert 2 * trace(error, hessian) == pytest.approx(0.0535496, abs=1e-7)
    assert 2 * trace(its, hessian) == pytest.approx(0.0843582, abs=1e-7)
    assert rounded.loss_R.sum() == pytest.approx(trace(error, damped), rel=1e-12)


def test_the_columns_of_the_trace():
    """Spec pr1430.md 11: the moved weights and the errors of each column, in the order 1, 0, 2."""
    hessian = sum(x.T @ x for x in X) / 2 + 0.005 * 8 / 3 * np.eye(3)
    upper = factorise(hessian, 0.005).lower_CC.T
    steps = np.array([0.171265, 0.142822]).astype(np.float16).astype(np.float64)
    codes = gptq(W, factorise(hessian, 0.005), steps, 7).values_RC
    left = W[:, [1, 0, 2]].copy()
    seen = [([-0.65, 0.94], [0.072149, -0.122975]), ([1.213875, 0.496351], [0.014026, 0.063381])]
    for j, (weights, errors) in enumerate(seen):
        assert left[:, j] == pytest.approx(weights, abs=1e-6)
        error = (left[:, j] - codes[:, [1, 0, 2][j]] * steps) / upper[j, j]
        assert error == pytest.approx(errors, abs=2e-6)
        left -= np.outer(error, upper[j])
    assert left[:, 2] == pytest.approx([0.383715, -0.289186], abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 7), (8, 130), (3, 300)])
def test_equals_a_plain_transcription(rows, columns):
    """Blocks and the reversed Cholesky give the codes of the spec's literal procedure."""
    weight, hessian, steps = problem(rows, rows, columns, 3 * columns)
    found = gptq(weight, factorise(hessian, 0.01), steps, 7)
    assert (found.values_RC == plain(weight, hessian, steps, 7, 0.01)).all()


@pytest.mark.parametrize("block", [1, 5, 64, 300, 512])
def test_blocks_change_the_speed_alone(block):
    """Any block gives the codes of column by column; 300 columns are no multiple of 128."""
    weight, hessian, steps = problem(2, 16, 300, 900)
    factor = factorise(hessian)
    by_column, _ = gptq_candidates(weight, factor, steps[None, :], 7, 1)
    found, _ = gptq_candidates(weight, factor, steps[None, :], 7, block)
    usual, _ = gptq_candidates(weight, factor, steps[None, :], 7, BLOCK)
    assert (found == by_column).all()
    assert (usual == by_column).all()


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("seed", range(4))
def test_errors_under_the_hessian_are_below_those_of_rounding(seed, order):
    """On random problems the H-weighted error is well below round-to-nearest with the same steps."""
    weight, hessian, steps = problem(seed, 32, 96, 400)
    found = gptq(weight, factorise(hessian, 0.01, order), steps, 7)
    nearest = np.clip(np.rint(weight / steps[:, None]), -7, 7)
    mine = trace(weight - found.values_RC * steps[:, None], hessian)
    assert mine < 0.8 * trace(weight - nearest * steps[:, None], hessian)


def test_the_loss_is_the_error_under_the_damped_hessian():
    """`loss_R` equals d H dᵀ of each row with the damping that the factor says."""
    weight, hessian, steps = problem(5, 6, 40, 200)
    factor = factorise(hessian, 0.02)
    found = gptq(weight, factor, steps, 7)
    damped = hessian + factor.damping * hessian.diagonal().mean() * np.eye(40)
    error = weight.astype(np.float64) - found.values_RC * steps[:, None]
    assert found.loss_R == pytest.approx(np.einsum("rc,cd,rd->r", error, damped, error), rel=1e-9)


def test_candidates_are_each_rounded_alone():
    """Several steps at once give what each gives by itself."""
    weight, hessian, steps = problem(6, 9, 70, 200)
    factor = factorise(hessian)
    several = np.stack([steps, 0.5 * steps, 2 * steps])
    codes, losses = gptq_candidates(weight, factor, several, 7)
    for one, values, loss in zip(several, codes, losses, strict=True):
        alone = gptq(weight, factor, one, 7)
        assert (values == alone.values_RC).all()
        assert loss == pytest.approx(alone.loss_R)


def test_equal_second_moments_keep_their_order():
    """Activation order is stable: without differences it is the natural one."""
    assert factorise(np.eye(9)).order_C.tolist() == list(range(9))
    assert factorise(np.diag([1.0, 3, 1, 3, 2])).order_C.tolist() == [1, 3, 4, 0, 2]
    assert factorise(np.diag([1.0, 3, 1, 3, 2]), order="natural").order_C.tolist() == [0, 1, 2, 3, 4]


def test_without_correlations_it_is_round_to_nearest():
    """A diagonal Hessian moves nothing."""
    weight, _, steps = problem(7, 8, 50, 100)
    moments = np.random.default_rng(0).uniform(0.1, 5, 50)
    found = gptq(weight, factorise(np.diag(moments)), steps, 7)
    assert (found.values_RC == np.clip(np.rint(weight.astype(np.float64) / steps[:, None]), -7, 7)).all()


def test_a_channel_that_was_always_nought_is_rounded_to_nearest():
    """Dead columns keep their nearest integers, and the others are as if they were not there."""
    weight, hessian, steps = problem(8, 8, 30, 100)
    dead = [0, 11, 29]
    hessian[dead] = 0
    hessian[:, dead] = 0
    alive = np.setdiff1d(np.arange(30), dead)
    found = gptq(weight, factorise(hessian, 0.0), steps, 7).values_RC
    apart = gptq(weight[:, alive], factorise(hessian[np.ix_(alive, alive)], 0.0), steps, 7).values_RC
    assert (found[:, dead] == np.clip(np.rint(weight[:, dead] / steps[:, None]), -7, 7)).all()
    assert (found[:, alive] == apart).all()


def test_a_hessian_of_nothing_but_noughts():
    """A layer that never got an input is rounded to nearest."""
    weight, _, steps = problem(9, 4, 12, 20)
    found = gptq(weight, factorise(np.zeros((12, 12)), 0.01), steps, 7)
    assert (found.values_RC == np.clip(np.rint(weight / steps[:, None]), -7, 7)).all()


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_rank_deficient_hessian_gets_more_damping_or_works_as_it_is(damping):
    """Three samples for forty columns: the ladder ends with a factor, and the error stays below rounding's."""
    weight, hessian, steps = problem(10, 16, 40, 3)
    assert np.linalg.matrix_rank(hessian) == 3
    factor = factorise(hessian, damping)
    assert factor.damping == (0.05 if damping == 0 else damping)
    mine = trace(weight - gptq(weight, factor, steps, 7).values_RC * steps[:, None], hessian)
    nearest = np.clip(np.rint(weight / steps[:, None]), -7, 7)
    assert mine < trace(weight - nearest * steps[:, None], hessian)


def test_the_ladder_climbs_and_ends():
    """An indefinite Hessian takes the first damping that is enough, and one that none is enough for gives None."""
    off = np.full((4, 4), 1.3)
    np.fill_diagonal(off, 1.0)  # least eigenvalue 1 - 1.3
    assert factorise(off, 0.01).damping == 0.51
    assert factorise(off, 0.28).damping == pytest.approx(0.33)
    off = np.full((4, 4), 3.0)
    np.fill_diagonal(off, 1.0)
    assert factorise(off, 0.01) is None


def test_rows_of_step_nought_are_noughts():
    """A step of 0 gives integers 0 and disturbs no other row."""
    weight, hessian, steps = problem(11, 5, 20, 60)
    some = steps.copy()
    some[2] = 0
    factor = factorise(hessian)
    found, usual = gptq(weight, factor, some, 7).values_RC, gptq(weight, factor, steps, 7).values_RC
    assert not found[2].any()
    assert (np.delete(found, 2, 0) == np.delete(usual, 2, 0)).all()


def test_what_is_no_hessian_is_refused():
    """NaN, a wrong shape, a negative diagonal, a lopsided matrix and a negative damping raise with the values."""
    good = np.eye(4)
    for spoil, says in (
        (lambda h: h.__setitem__((1, 2), np.nan), "1 entries .* not finite"),
        (lambda h: h.__setitem__((3, 3), -2.0), "-2 on its diagonal"),
        (lambda h: h.__setitem__((0, 3), 0.5), "not symmetric"),
    ):
        bad = good.copy()
        spoil(bad)
        with pytest.raises(RecipeError, match=says):
            factorise(bad)
    with pytest.raises(RecipeError, match=r"\(4, 3\)"):
        factorise(np.ones((4, 3)))
    with pytest.raises(RecipeError, match="damping of -1"):
        factorise(good, -1.0)
    with pytest.raises(RecipeError, match=r"4 columns .* \(2, 3\)"):
        gptq(W, factorise(good), np.ones(2), 7)
