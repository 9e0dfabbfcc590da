"""Sharded over any number of ranks, the optimizers do what one process does with the mean gradient."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.optim.groups import build_optimizers
from paramgolf.optim.optimizers import Optimizers
from paramgolf.ranks import Ranks
from paramgolf.recipe import OptimRecipe

OnRanks = Callable[..., list[Any]]
RECIPE = OptimRecipe(
    matrix_lr=0.1,
    embedding_lr=0.05,
    scalar_lr=0.05,
    muon_weight_decay=0.1,
    embedding_weight_decay=0.1,
    scalar_weight_decay=0.1,
    clip_norm=1.0,
)


class Tiny(torch.nn.Module):
    """Banks of the given sizes, with a table and a vector beside them; float64."""

    def __init__(self, banks: list[tuple[int, ...]]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.embedding = torch.nn.Module()
        self.embedding.weight = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=draw))
        self.skip_weights = torch.nn.Parameter(torch.randn(5, dtype=torch.float64, generator=draw))
        self.banks = torch.nn.ParameterList(torch.randn(b, dtype=torch.float64, generator=draw) for b in banks)


def gradients(model: Tiny, step: int, rank: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1000 * step + rank)
    return [torch.randn(p.shape, dtype=torch.float64, generator=draw) for p in model.parameters()]


def moved(
    banks: list[tuple[int, ...]], recipe: OptimRecipe, ranks: Ranks, steps: range, start: Optimizers | None = None
) -> tuple[Tiny, Optimizers, list[float]]:
    """A fresh model after some steps of this rank's own gradients, and the norms on the way."""
    model = Tiny(banks)
    optimizers, norms = build_optimizers(model, recipe, ranks), []
    for step in steps:
        for parameter, gradient in zip(model.parameters(), gradients(model, step, ranks.rank), strict=True):
            parameter.grad = gradient
        reduced = optimizers.reduce([torch.tensor(float(ranks.rank))])
        assert reduced.means == [(ranks.world - 1) / 2]
        norms.append(reduced.grad_norm)
        optimizers.step(0.9, 0.8)
    return model, optimizers, norms


def alone(banks: list[tuple[int, ...]], recipe: OptimRecipe, world: int) -> tuple[Tiny, Optimizers, list[float]]:
    """One process with the mean of the ranks' gradients, each clipped first if the recipe says so; plain arithmetic."""
    model = Tiny(banks)
    optimizers, norms = build_optimizers(model, dataclasses.replace(recipe, clip_norm=1e9)), []
    for step in range(3):
        drawn = [gradients(model, step, rank) for rank in range(world)]
        if recipe.clip == "before":
            each = [norm_of(own) for own in drawn]
            drawn = [clipped(own, recipe.clip_norm) for own in drawn]
            norm = sum(each) / world
        mean = [torch.stack(same).mean(dim=0) for same in zip(*drawn, strict=True)]
        if recipe.clip == "after":
            norm = norm_of(mean)
            mean = clipped(mean, recipe.clip_norm)
        for parameter, gradient in zip(model.parameters(), mean, strict=True):
            parameter.grad = gradient
        norms.append(norm)
        optimizers.step(0.9, 0.8)
    return model, optimizers, norms


def norm_of(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float((t**2).sum()) for t in tensors))


def clipped(tensors: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    return [t * min(1.0, limit / (norm_of(tensors) + 1e-6)) for t in tensors]


def assert_equal(on_ranks: OnRanks, banks: list[tuple[int, ...]], recipe: OptimRecipe, world: int) -> None:
    expected, optimizers, norms = alone(banks, recipe, world)
    momentum = list(optimizers.muon.momentum().values())
    for model, own, seen in on_ranks(world, lambda ranks: moved(banks, recipe, ranks, range(3))):
        assert seen == pytest.approx(norms, rel=1e-12)
        for parameter, wanted in zip(model.parameters(), expected.parameters(), strict=True):
            np.testing.assert_allclose(parameter.detach(), wanted.detach(), rtol=0, atol=1e-9)
        held = sum(len(state["momentum"]) for state in own.muon.state.values())
        assert held <= sum(-(-(b[0] if len(b) == 3 else 1) // world) for b in banks)
        assert len(momentum) == len(banks)


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_uneven_banks_on_several_ranks(on_ranks: OnRanks, world: int, order: str) -> None:
    """Banks of 11 and 22 matrices, a matrix alone, and a bank smaller than the world, in both orders of clipping."""
    banks = [(22, 4, 4), (11, 6, 4), (11, 4, 6), (2, 3, 3), (3, 5)]
    assert_equal(on_ranks, banks, dataclasses.replace(RECIPE, clip=order), world)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(2, 5),
)
def test_any_banks_on_any_ranks(on_ranks: OnRanks, banks: list[tuple[int, ...]], world: int) -> None:
    """Whatever the sizes, the sharded steps are those of one process."""
    assert_equal(on_ranks, banks, RECIPE, world)


@pytest.mark.parametrize("order,expected", [("before", (0.12, 0.16)), ("after", (0.18, 0.24))])
def test_order_of_clipping(on_ranks: OnRanks, order: str, expected: tuple[float, float]) -> None:
    """Spec pr549.md 8.6: ranks (3, 4) and (.06, .08), limit .3: (.12, .16) if clipped first, else (.18, .24)."""

    def clip(ranks: Ranks) -> list[float]:
        model = Tiny([(1, 1, 2)])
        optimizers = build_optimizers(model, OptimRecipe(clip_norm=0.3, clip=order), ranks)
        model.banks[0].grad = torch.tensor([[[3.0, 4.0], [0.06, 0.08]][ranks.rank]], dtype=torch.float64)[None]
        model.skip_weights.grad = torch.zeros(5, dtype=torch.float64)
        optimizers.reduce([])
        return [row for part in optimizers.muon.gradients() for row in part.flatten().tolist()]

    first, second = on_ranks(2, clip)
    assert first == pytest.approx(expected, abs=1e-6)  # rank 0 owns the only matrix
    assert second == []


@pytest.mark.parametrize("order", ["after", "before"])
def test_a_broken_gradient_shows_on_all_ranks(on_ranks: OnRanks, order: str) -> None:
    """One NaN on one rank makes the norm no number on every rank, also on those that own nothing of its bank."""

    def norm(ranks: Ranks) -> float:
        model = Tiny([(1, 2, 2)])
        optimizers = build_optimizers(model, dataclasses.replace(RECIPE, clip=order), ranks)
        for parameter, gradient in zip(model.parameters(), gradients(model, 0, ranks.rank), strict=True):
            parameter.grad = gradient
        if ranks.rank == 2:
            model.banks[0].grad[0, 1, 1] = math.nan
        return optimizers.reduce([]).grad_norm

    assert all(map(math.isnan, on_ranks(3, norm)))


@pytest.mark.parametrize("new_world", [1, 2, 5])
def test_momentum_moves_to_another_number_of_ranks(on_ranks: OnRanks, new_world: int) -> None:
    """The momentum that three ranks hand over is one process's, and each of any number of ranks takes its part."""
    banks = [(7, 3, 2), (2, 2, 4)]
    expected = list(alone(banks, RECIPE, 3)[1].muon.momentum().values())

    def hand_over(ranks: Ranks) -> list[torch.Tensor]:
        return list(moved(banks, RECIPE, ranks, range(3))[1].muon.momentum().values())

    def take(ranks: Ranks) -> list[torch.Tensor]:
        model = Tiny(banks)
        muon = build_optimizers(model, RECIPE, ranks).muon
        muon.load_momentum(dict(zip(model.banks, whole, strict=True)))
        return list(muon.momentum().values())

    for whole in on_ranks(3, hand_over):
        for one, wanted in zip(whole, expected, strict=True):
            np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-9)
    for again in on_ranks(new_world, take):
        assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
