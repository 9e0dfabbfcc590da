"""Every parameter has one optimizer; the clock scales the rates; the average has no bias."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.optim.average import WeightAverage
from paramgolf.optim.groups import GPT_RULES, GroupRule, assign, build_optimizers, set_lr_scale
from paramgolf.optim.muon import Muon
from paramgolf.optim.schedule import warmdown_scale
from paramgolf.recipe import ModelRecipe, OptimRecipe

MODEL = ModelRecipe(layers=2, width=16, heads=2, kv_heads=1)


def test_each_parameter_is_moved_once() -> None:
    """The optimizers' parameters are exactly the model's, none twice; Muon has all matrices of the blocks."""
    model = GPT(MODEL, 30)
    recipe = OptimRecipe(matrix_lr=0.1, embedding_lr=0.2, scalar_lr=0.3)
    optimizers = build_optimizers(model, recipe)
    held = [id(p) for o in optimizers.values() for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    rates = {id(p): group["lr"] for o in optimizers.values() for group in o.param_groups for p in group["params"]}
    muon = optimizers["muon"]
    assert isinstance(muon, Muon)
    in_muon = {id(p) for p in muon.param_groups[0]["params"]}
    for name, parameter in model.named_parameters():
        matrix = name.startswith("blocks") and parameter.dim() == 2
        assert (id(parameter) in in_muon) == matrix, name
        assert rates[id(parameter)] == (0.1 if matrix else 0.2 if name == "embedding.weight" else 0.3), name


def test_unassigned_and_twice_assigned_names_are_refused() -> None:
    """A parameter of no group or of two is an error with its name and the groups."""
    with pytest.raises(RecipeError, match=r"no optimizer group takes head\.weight, x; groups: embedding"):
        assign(["embedding.weight", "head.weight", "x"])
    rules = (*GPT_RULES, GroupRule("extra", "*.up.weight"))
    with pytest.raises(
        RecipeError, match=r"several optimizer groups take blocks\.0\.mlp\.up\.weight \(extra, matrix\)"
    ):
        assign(["blocks.0.mlp.up.weight"], rules)


@given(st.lists(st.sampled_from([r.pattern.replace("*", "0.x") for r in GPT_RULES]), unique=True))
def test_assignment_is_a_partition(names: list[str]) -> None:
    """Whatever the names, each is in exactly one group."""
    members = assign(names)
    assert sorted(name for group in members.values() for name in group) == sorted(names)


def test_schedule_scales_the_base_rates() -> None:
    """Setting the scale twice scales the base rate, not the last one."""
    optimizers = build_optimizers(GPT(MODEL, 30), OptimRecipe(matrix_lr=0.1))
    set_lr_scale(optimizers, 0.5)
    set_lr_scale(optimizers, 0.25)
    assert optimizers["muon"].param_groups[0]["lr"] == 0.025


def test_warmdown_by_hand() -> None:
    """One until the last share, then straight to zero; spec pr549.md 3.8 with a constant step gives the same line."""
    assert [warmdown_scale(f, 0.4) for f in (0.0, 0.6, 0.8, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0.25, 0])
    assert [warmdown_scale(f, 0.0) for f in (0.0, 0.99, 1.0)] == [1, 1, 1]
    assert warmdown_scale(0.5, 1.0) == 0.5
    # At 83.5 ms a step, 3500 steps of warm-down are 292.25 of 600 seconds.
    assert warmdown_scale(500 * 0.0835 / 600 + 0.9, 292.25 / 600) == pytest.approx((600 - 581.75) / 292.25)


@given(st.floats(-1, 2), st.floats(-1, 2), st.floats(0, 1))
def test_warmdown_never_rises(one: float, other: float, warmdown: float) -> None:
    """The scale stays within 0..1 and does not rise with the fraction."""
    low, high = sorted((one, other))
    assert 0 <= warmdown_scale(high, warmdown) <= warmdown_scale(low, warmdown) <= 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_average_equals_the_weighted_mean(decay: float) -> None:
    """After n updates the average is the mean with weights decay^(n-i), which sum to one at any n."""
    values = np.random.default_rng(0).normal(size=(7, 3))
    average = WeightAverage({"w": torch.full((3,), 1e6)}, decay)
    for n in range(1, 8):
        average.update({"w": torch.tensor(values[n - 1])})
        shares = np.array([decay ** (n - i) for i in range(1, n + 1)]) if decay else np.eye(n)[-1]
        expected = (shares[:, None] * values[:n]).sum(axis=0) / shares.sum()
        np.testing.assert_allclose(average.weights()["w"].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_average_is_its_own_float32_copy() -> None:
    """Updating the average leaves the weights alone, and bfloat16 weights are averaged in float32."""
    weight = torch.ones(4, dtype=torch.bfloat16)
    average = WeightAverage({"w": weight}, 0.9)
    average.update({"w": weight})
    average.update({"w": torch.zeros(4, dtype=torch.bfloat16)})
    assert average.weights()["w"].dtype == torch.float32
    assert torch.equal(weight, torch.ones(4, dtype=torch.bfloat16))
    assert average.weights()["w"][0].item() == pytest.approx(0.9 / 1.9)


def test_average_goes_on_after_a_reload() -> None:
    """A loaded average continues bitwise as the saved one."""
    steps = [{"w": torch.randn(5, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    whole, first = WeightAverage(steps[0], 0.9), WeightAverage(steps[0], 0.9)
    for step in steps:
        whole.update(step)
    for step in steps[:3]:
        first.update(step)
    second = WeightAverage(steps[0], 0.9)
    second.load({name: value.clone() for name, value in first.weights().items()}, first.updates)
    for step in steps[3:]:
        second.update(step)
    assert torch.equal(whole.weights()["w"], second.weights()["w"])
