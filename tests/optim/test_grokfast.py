"""Grokfast adds the running mean of the gradients that all ranks agree on, each rank keeping its own matrices' part."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from paramgolf.optim.grokfast import Grokfast
from paramgolf.optim.groups import build_optimizers
from paramgolf.optim.optimizers import Optimizers
from paramgolf.ranks import Ranks
from paramgolf.recipe import OptimRecipe

RECIPE = OptimRecipe(
    clip_norm=1.0,
    muon_weight_decay=0.1,
    embedding_weight_decay=0.1,
    scalar_weight_decay=0.1,
    grokfast=2.0,
    grokfast_decay=0.7,
)
SHAPES = {"embedding.weight": (6, 3), "skip_weights": (5,), "banks.up": (7, 6, 4), "banks.down": (2, 4, 4)}


class Model:
    """Parameters under the names of a model's, float64."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.held = {
            name: torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=draw))
            for name, shape in SHAPES.items()
        }

    def named_parameters(self):  # type: ignore[no-untyped-def]  # as torch's
        return self.held.items()


def steps(model: Model, optimizers: Optimizers, ranks: Ranks, which: range) -> None:
    """Steps with gradients of this rank's own, whose mean over two ranks is that of the step."""
    for step in which:
        draw = torch.Generator().manual_seed(step)
        for _, parameter in model.named_parameters():
            mean = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
            apart = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
            parameter.grad = mean if ranks.world == 1 else mean + apart * (1 - 2 * ranks.rank)
        optimizers.reduce([])
        optimizers.step(0.9, 0.8)


def test_published_oracle() -> None:
    """Oracle O16: g = 1, 0, -1 with 0.08 and 0.98 becomes 1.08, .0784, -.924768; the means are 1, .98, .9404."""
    parameter, grokfast = torch.zeros(1, dtype=torch.float64), Grokfast(0.08, 0.98)
    seen, means = [], []
    for value in (1.0, 0.0, -1.0):
        gradient = torch.tensor([value], dtype=torch.float64)
        grokfast.amplify({parameter: gradient})
        seen.append(gradient.item())
        means.append(grokfast.means[parameter].item())
    assert seen == pytest.approx([1.08, 0.0784, -0.924768], abs=1e-7)
    assert means == pytest.approx([1.0, 0.98, 0.9404], abs=1e-7)


def test_means_are_float32() -> None:
    """A bfloat16 gradient has a float32 mean of its own memory, and stays bfloat16."""
    parameter, grokfast = torch.zeros(2, dtype=torch.bfloat16), Grokfast(0.5, 0.9)
    gradient = torch.ones(2, dtype=torch.bfloat16)
    grokfast.amplify({parameter: gradient})
    assert grokfast.means[parameter].dtype == torch.float32
    assert grokfast.means[parameter].tolist() == [1.0, 1.0]
    assert gradient.dtype == torch.bfloat16 and gradient.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("order", ["after", "before"])
def test_it_reaches_every_parameter_after_clipping(order: str) -> None:
    """Means hold the clipped gradients of banks and all else, and a step equals one whose gradients were amplified."""
    recipe = dataclasses.replace(RECIPE, clip=order)
    model, plain = Model(), Model()
    optimizers = build_optimizers(model, recipe)  # type: ignore[arg-type]  # has what is asked of it
    expected = build_optimizers(plain, dataclasses.replace(recipe, grokfast=0.0))  # type: ignore[arg-type]
    means: dict[str, torch.Tensor] = {}
    for step in range(3):
        for one, other in zip(model.held.values(), plain.held.values(), strict=True):
            one.grad = torch.randn(one.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        assert optimizers.reduce([]).grad_norm == expected.reduce([]).grad_norm
        for name, parameter in plain.held.items():
            assert parameter.grad is not None
            means[name] = 0.7 * means[name] + 0.3 * parameter.grad if step else parameter.grad.clone()
            parameter.grad += 2.0 * means[name]
        optimizers.step(0.9, 0.8)
        expected.step(0.9, 0.8)
    for name, parameter in model.held.items():
        np.testing.assert_allclose(parameter.detach(), plain.held[name].detach(), rtol=0, atol=1e-6, err_msg=name)
    whole = optimizers.grokfast_means()
    assert set(whole) == set(model.held.values())
    for name, parameter in model.held.items():
        np.testing.assert_allclose(whole[parameter], means[name], rtol=0, atol=1e-6, err_msg=name)


def test_without_it_there_is_no_state() -> None:
    """At a strength of zero nothing is kept."""
    model = Model()
    optimizers = build_optimizers(model, dataclasses.replace(RECIPE, grokfast=0.0))  # type: ignore[arg-type]
    steps(model, optimizers, Ranks(), range(1))
    assert optimizers.grokfast is None and optimizers.grokfast_means() == {}


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("back", [1, 2])
def test_two_ranks_share_the_means(on_ranks: Callable[..., list[Any]], back: int, order: str) -> None:
    """Two ranks step as one with the mean gradient, keep half the banks' means each, and hand over to any number."""
    # Clipping each rank's own gradient is another algorithm: without a limit both orders are the same.
    recipe = dataclasses.replace(RECIPE, clip=order, clip_norm=1e9)
    alone = Model()
    optimizers = build_optimizers(alone, recipe)  # type: ignore[arg-type]
    steps(alone, optimizers, Ranks(), range(5))

    def first(ranks: Ranks) -> tuple[Model, dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
        model = Model()
        own = build_optimizers(model, recipe, ranks)  # type: ignore[arg-type]
        steps(model, own, ranks, range(3))
        names = {parameter: name for name, parameter in model.held.items()}
        means = {names[p]: mean for p, mean in own.grokfast_means().items()}
        momentum = {names[p]: value for p, value in own.muon.momentum().items()}
        assert own.grokfast is not None
        return model, means, momentum, len(own.grokfast.means[model.held["banks.up"]])

    halves = on_ranks(2, first)
    assert [half[3] for half in halves] == [4, 3]
    model, means, momentum, _ = halves[0]
    assert all(torch.equal(means[name], halves[1][1][name]) for name in SHAPES)
    assert all(torch.equal(model.held[name], halves[1][0].held[name]) for name in SHAPES)

    def second(ranks: Ranks) -> Model:
        mine = Model()
        own = build_optimizers(mine, recipe, ranks)  # type: ignore[arg-type]
        steps(mine, own, ranks, range(3))  # AdamW's moments; the rest is replaced
        with torch.no_grad():
            for name, parameter in mine.held.items():
                parameter.copy_(model.held[name])
        own.muon.load_momentum({mine.held[name]: value for name, value in momentum.items()})
        own.load_grokfast_means({mine.held[name]: mean for name, mean in means.items()})
        steps(mine, own, ranks, range(3, 5))
        return mine

    for each in on_ranks(back, second) if back > 1 else [second(Ranks())]:
        for name, parameter in each.held.items():
            np.testing.assert_allclose(parameter.detach(), alone.held[name].detach(), rtol=0, atol=1e-5, err_msg=name)
