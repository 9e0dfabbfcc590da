"""SLOT's arithmetic: the oracles of spec pr1430.md 8.4 and 11, torch's optimizers, exact gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.predict.protocol import Float64
from paramgolf.predict.slot_fit import fit, fit_adamw, fit_lbfgs, learning_rates
from paramgolf.predict.slot_readout import FixedReadout, Readout
from paramgolf.predict.slot_torch import TorchReadout
from paramgolf.recipe import ScoreRecipe

ON = ("hidden", "logits", "both")
# Spec section 11, "SLOT lr".
RATES = [0.432, 0.429993, 0.424009, 0.414159, 0.400627, 0.383666, 0.36359, 0.340775, 0.315644, 0.288667, 0.260345]
RATES += [0.231206, 0.201794, 0.172655, 0.144333, 0.117356, 0.092225, 0.06941, 0.049334, 0.032373, 0.018841]
RATES += [0.008991, 0.003007, 0.001]
# Spec section 11, "SLOT fit": delta, bias and nll of the three rows after each of three steps.
STEPS = [
    ((0.099996, 0.099994), (-0.099994, 0.099998, -0.099998), (0.452417, 0.714057, 2.037337)),
    ((0.155201, 0.155094), (-0.155093, 0.155189, -0.155204), (0.481137, 0.640703, 2.140206)),
    ((0.165296, 0.165134), (-0.165132, 0.165263, -0.165288), (0.486686, 0.627945, 2.159468)),
]
HEAD_VD = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]], dtype=np.float32)
TOY_ND = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def both_readouts(on: str, head_VD: np.ndarray, above: float, below: float | None = None) -> list[Readout]:
    head_DV, softcaps = np.ascontiguousarray(head_VD.T), (above, above if below is None else below)
    return [FixedReadout(on, len(head_VD), head_DV, softcaps), TorchReadout(on, torch.from_numpy(head_VD), softcaps)]


def task(on: str, seed: int = 0, count: int = 40) -> tuple[np.ndarray, Float64, np.ndarray]:
    """A head [V, D], features and targets whose frequencies differ from what the head expects."""
    rng = np.random.default_rng(seed)
    head_VD = rng.normal(size=(20, 6)).astype(np.float32)
    features = rng.normal(size=(count, 6)) * 2
    if on == "logits":
        logits = rng.normal(size=(count, 20))
        features = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return head_VD, features, rng.integers(0, 7, count)


def test_the_published_rates() -> None:
    """24 rates from 0.432 to 0.001, their sum 5.196 (spec section 11)."""
    rates = learning_rates(0.432, 0.001, 24)
    np.testing.assert_allclose(rates, RATES, atol=6e-7)
    assert sum(rates) == pytest.approx(5.196, abs=5e-4)
    assert learning_rates(0.3, 0.1, 1) == [0.3]


@pytest.mark.parametrize("which", [0, 1])
def test_the_fit_of_the_specification(which: int) -> None:
    """Delta, bias and the cost of all rows after 1, 2 and 3 steps are those of spec section 11."""
    readout = both_readouts("both", HEAD_VD, 30.0)[which]
    targets = np.array([0, 1, 2])
    objective = readout.objective(TOY_ND[1:2], targets[1:2])
    base = -readout.rows(TOY_ND, np.zeros(5))[np.arange(3), targets]
    np.testing.assert_allclose(base, [0.407763, 0.862052, 1.861682], atol=6e-7)
    for count, (delta, bias, nll) in enumerate(STEPS, start=1):
        found = fit_adamw(objective, np.zeros(5), learning_rates(0.1, 0.01, 3)[:count])
        np.testing.assert_allclose(found, [*delta, *bias], atol=6e-7)
        np.testing.assert_allclose(-readout.rows(TOY_ND, found)[np.arange(3), targets], nll, atol=6e-7)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize(("above", "below"), [(3.0, 3.0), (4.0, 1.5)])
def test_gradients_are_those_of_torch(on: str, above: float, below: float) -> None:
    """Loss and gradient of both readouts equal autograd's on z = c tanh(E (h + delta) / c) + b, with two caps too."""
    head, features, targets = task(on)
    for readout in both_readouts(on, head, above, below):
        at = np.random.default_rng(1).normal(size=readout.parameters)
        given = torch.from_numpy(at).requires_grad_()
        z = torch.from_numpy(features)
        rest = given
        if on != "logits":
            delta, rest = given[:6], given[6:]
            z = (z + delta) @ torch.from_numpy(head).double().T
            z = torch.where(z > 0, above * torch.tanh(z / above), below * torch.tanh(z / below))
        if on != "hidden":
            z = z + rest
        loss = functional.cross_entropy(z, torch.from_numpy(targets))
        loss.backward()
        value, gradient = readout.objective(features, targets)(at)
        assert value == pytest.approx(loss.item(), abs=1e-12)
        np.testing.assert_allclose(gradient, given.grad.numpy(), atol=1e-12)
        np.testing.assert_allclose(readout.rows(features, at), torch.log_softmax(z, 1).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("on", ON)
def test_adamw_is_that_of_torch(on: str) -> None:
    """24 steps with the published constants end where torch's AdamW ends (spec 4.2)."""
    head, features, targets = task(on)
    objective = both_readouts(on, head, 30.0)[0].objective(features, targets)
    size = both_readouts(on, head, 30.0)[0].parameters
    given = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([given], lr=1.0, betas=(0.6, 0.5), eps=1e-5, weight_decay=1e-8)
    for rate in learning_rates(0.432, 0.001, 24):
        optimizer.param_groups[0]["lr"] = rate
        given.grad = torch.from_numpy(objective(given.detach().numpy())[1])
        optimizer.step()
    recipe = ScoreRecipe(slot_steps=24, slot_lr=0.432, slot_least_lr=0.001)
    np.testing.assert_allclose(fit(objective, np.zeros(size), recipe), given.detach().numpy(), atol=1e-9)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("steps", [2, 3, 25])
def test_lbfgs_is_that_of_torch(on: str, steps: int) -> None:
    """From a warm start, after few steps and after many, it stands where torch's L-BFGS stands (spec section 5)."""
    head, features, targets = task(on, seed=3)
    readout = both_readouts(on, head, 30.0)[0]
    objective = readout.objective(features, targets)
    start = np.random.default_rng(2).normal(size=readout.parameters) * 0.3
    given = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.LBFGS([given], lr=1, max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        loss, gradient = objective(given.detach().numpy())
        given.grad = torch.from_numpy(gradient)
        return torch.tensor(loss, dtype=torch.float64)

    optimizer.step(closure)
    found = fit_lbfgs(objective, start, steps)
    expected = given.detach().numpy()
    assert objective(found)[0] == pytest.approx(objective(expected)[0], abs=2e-6)
    np.testing.assert_allclose(found, expected, atol=1e-6 if steps < 25 else 1e-2)
    assert objective(found)[0] < objective(start)[0]


def test_lbfgs_is_clamped() -> None:
    """Tokens that never come would be pushed away without end; the clamp is 5 (spec section 5)."""
    flat = np.full((30, 8), -np.log(8.0))
    readout = FixedReadout("logits", 8)
    recipe = ScoreRecipe(slot_on="logits", slot_optimizer="lbfgs", slot_steps=25)
    found = fit(readout.objective(flat, np.zeros(30, dtype=np.int64)), np.zeros(8), recipe)
    assert np.abs(found).max() <= 5.0
    assert found[0] - found[1] > 5.0


def test_no_token_is_out_of_reach_of_a_wild_delta() -> None:
    """A delta of a million gives rows that still sum to one and a gradient that is a number."""
    head, features, targets = task("hidden")
    for readout in both_readouts("hidden", head, 3.0):
        wild = np.full(6, 1e6)
        np.testing.assert_allclose(np.exp(readout.rows(features, wild)).sum(axis=1), 1.0, atol=1e-12)
        assert np.isfinite(readout.objective(features, targets)(wild)[1]).all()


def test_states_without_a_head_are_refused() -> None:
    """A delta needs the matrix that it is shown through."""
    with pytest.raises(ValueError, match="'both' need the head"):
        FixedReadout("both", 8)


def test_the_strict_toy_of_the_specification() -> None:
    """Bias fitted per window on context alone: mean 3.1116 nats on uniform tokens, advantage -135.6 (spec 8.4)."""
    emb = np.random.default_rng(7).normal(size=(16, 8)) * 0.9
    rng = np.random.default_rng(11)
    rng.integers(0, 16, 65)
    tokens = rng.integers(0, 16, 401)
    readout = FixedReadout("logits", 16)
    nll = []
    for start in range(0, 400 - 15, 4):
        x, y = tokens[start : start + 16], tokens[start + 1 : start + 17]
        e = emb[x]
        h = e + 0.5 * np.vstack([np.zeros(8), e[:-1]]) + 0.25 * np.cumsum(e, axis=0) / np.arange(1, 17)[:, None]
        h /= np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-6)
        z = 30 * np.tanh(h @ (0.15 * emb).T / 30)
        first, bias = (0, np.zeros(16)) if start == 0 else (12, None)
        if bias is None:
            bias = fit_adamw(readout.objective(z[8:12], y[8:12]), np.zeros(16), learning_rates(0.05, 0.01, 25))
        nll += (-readout.rows(z, bias)[np.arange(first, 16), y[first:]]).tolist()
    assert len(nll) == 400
    assert np.mean(nll) == pytest.approx(3.1116, abs=5e-5)
    assert 400 * np.log(16) - np.sum(nll) == pytest.approx(-135.6, abs=0.05)


def test_fitting_what_is_scored_helps_that_alone() -> None:
    """On uniform noise a fit at #1430's rates halves the cost of its own tokens and worsens fresh ones (spec 4.3)."""
    rng = np.random.default_rng(5)
    flat = np.full((64, 256), -np.log(256.0))
    readout, recipe = FixedReadout("logits", 256), ScoreRecipe(slot_steps=24, slot_lr=0.432)
    recipe = dataclasses.replace(recipe, slot_on="logits")
    own, fresh = rng.integers(0, 256, 64), rng.integers(0, 256, 64)
    bias = fit(readout.objective(flat, own), np.zeros(256), recipe)
    rows = readout.rows(flat, bias)
    assert -rows[np.arange(64), own].mean() < 0.75 * np.log(256)
    assert -rows[np.arange(64), fresh].mean() > np.log(256) + 0.5
