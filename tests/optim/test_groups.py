"""Every parameter has one optimizer and the published group; bfloat16 tables keep bfloat16 moments."""

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import TABLES, parameter_shapes
from paramgolf.model.gpt import GPT
from paramgolf.optim.groups import GPT_RULES, GroupRule, assign, build_optimizers
from paramgolf.recipe import ModelRecipe, OptimRecipe
from paramgolf.recipes import get_recipe

PLAIN = ModelRecipe(layers=2, width=16, heads=2, kv_heads=1)
RECORD = get_recipe("pr549").model


@pytest.mark.parametrize("parts", ["PLAIN", "TRAINED"])
def test_each_parameter_is_moved_once(small_models: ModuleType, parts: str) -> None:
    """The optimizers' parameters are exactly the model's, none twice, at their group's rate; Muon has the banks."""
    model = GPT(PLAIN if parts == "PLAIN" else getattr(small_models, parts), 30)
    optimizers = build_optimizers(model, OptimRecipe(matrix_lr=0.1, embedding_lr=0.2, scalar_lr=0.3))
    groups = [*optimizers.muon.param_groups, *optimizers.adam.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.1 if name.startswith("banks.") else 0.2 if name in TABLES else 0.3
        assert rates[id(parameter)] == expected, name


def test_sizes_of_the_record_groups() -> None:
    """Spec pr549.md 2.1: Muon has 25,952,256 numbers, AdamW 851,968 in tables and 123,996 in everything else."""
    shapes = parameter_shapes(RECORD, 1024)
    sizes = {group: sum(math.prod(shapes[name]) for name in names) for group, names in assign(list(shapes)).items()}
    assert sizes == {"matrix": 25_952_256, "embedding": 851_968, "scalar": 123_996, "cap": 0}


def test_unassigned_and_twice_assigned_names_are_refused() -> None:
    """A parameter of no group or of two is an error with its name and the groups."""
    with pytest.raises(RecipeError, match=r"no optimizer group takes head\.weight, x; groups: embedding"):
        assign(["embedding.weight", "head.weight", "x"])
    rules = (*GPT_RULES, GroupRule("extra", "*.up"))
    with pytest.raises(RecipeError, match=r"several optimizer groups take banks\.up \(extra, matrix\)"):
        assign(["banks.up"], rules)


@given(st.lists(st.sampled_from([r.pattern.replace("*", "0.x") for r in GPT_RULES]), unique=True))
def test_assignment_is_a_partition(names: list[str]) -> None:
    """Whatever the names, each is in exactly one group."""
    members = assign(names)
    assert sorted(name for group in members.values() for name in group) == sorted(names)


def test_decay_reaches_both_groups(small_models: ModuleType) -> None:
    """Spec pr549.md 3.6: AdamW's decoupled decay is on everything, gains and scales included."""
    optimizers = build_optimizers(
        GPT(small_models.TRAINED, 30), OptimRecipe(embedding_weight_decay=0.04, scalar_weight_decay=0.04)
    )
    assert isinstance(optimizers.adam, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizers.adam.param_groups] == [0.04, 0.04]


class Holder(torch.nn.Module):
    """A table and a bank, as a model names them."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.embedding = torch.nn.Module()
        self.embedding.weight = torch.nn.Parameter(table)
        self.skip_weights = torch.nn.Parameter(torch.ones(4))
        self.banks = torch.nn.Module()
        self.banks.up = torch.nn.Parameter(torch.zeros(1, 2, 2))


def test_adamw_oracle() -> None:
    """Spec pr549.md 8.5: two steps of decoupled AdamW in float32."""
    recipe = OptimRecipe(
        embedding_lr=0.025, scalar_lr=0.025, embedding_weight_decay=0.04, scalar_weight_decay=0.04, clip_norm=1e9
    )
    holder = Holder(torch.ones(4))
    optimizers = build_optimizers(holder, recipe)
    steps = [
        ((1.0, -2.0, 0.5, 0.0), (0.974, 1.024, 0.974, 0.999)),
        ((1.0, 2.0, 0.0, 0.0), (0.94802606, 1.02166021, 0.95605981, 0.99800104)),
    ]
    for gradient, expected in steps:
        for parameter in (holder.embedding.weight, holder.skip_weights):
            parameter.grad = torch.tensor(gradient)
        optimizers.reduce([])
        optimizers.step(1.0, 0.9)
        for parameter in (holder.embedding.weight, holder.skip_weights):
            assert parameter.tolist() == pytest.approx(expected, abs=2e-7)


def test_adamw_oracle_of_bfloat16_tables() -> None:
    """Spec pr549.md 8.5: a bfloat16 table keeps bfloat16 moments, and a decay below half a step is lost."""
    recipe = OptimRecipe(embedding_lr=0.035, embedding_weight_decay=0.04, scalar_weight_decay=0.04, clip_norm=1e9)
    holder = Holder(torch.ones(4, dtype=torch.bfloat16))
    optimizers = build_optimizers(holder, recipe)
    holder.embedding.weight.grad = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.bfloat16)
    optimizers.reduce([])
    optimizers.step(1.0, 0.9)
    assert holder.embedding.weight.tolist() == [0.96484375, 1.03125, 0.96484375, 1.0]
    state = optimizers.adam.state[holder.embedding.weight]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16


def test_schedule_scales_the_base_rates() -> None:
    """Two steps at different scales each scale the base rates, not the last ones; Muon's momentum is the one given."""
    holder = Holder(torch.ones(4))
    optimizers = build_optimizers(holder, OptimRecipe(matrix_lr=0.1, embedding_lr=0.2, scalar_lr=0.3))
    for scale in (0.5, 0.25):
        optimizers.step(scale, 0.7)
    assert optimizers.muon.param_groups[0]["lr"] == 0.025
    assert [group["lr"] for group in optimizers.adam.param_groups] == [0.05, 0.075]
    assert optimizers.muon.param_groups[0]["momentum"] == 0.7


def clip_one(gradients: list[tuple[float, ...]], order: str) -> tuple[float, list[list[float]]]:
    """Norm and clipped gradients of one rank with limit 0.3; the last one is a bank's."""
    holder = Holder(torch.ones(len(gradients[0])))
    optimizers = build_optimizers(holder, OptimRecipe(clip_norm=0.3, clip=order))
    parameters = [holder.embedding.weight, holder.skip_weights, holder.banks.up]
    for parameter, gradient in zip(parameters, gradients, strict=False):
        parameter.grad = torch.tensor(gradient).view(parameter.shape)
    reduced = optimizers.reduce([torch.tensor(7.0)])
    assert reduced.means == [7.0]
    return reduced.grad_norm, [p.grad.flatten().tolist() for p in parameters if p.grad is not None]


@pytest.mark.parametrize("order", ["after", "before"])
def test_clipping_counts_banks_and_all_groups(order: str) -> None:
    """Spec pr549.md 3.7: one norm over all parameters, banks included, scales them all; a small one is left alone."""
    norm, clipped = clip_one([(3.0, 4.0), (0.0, 0.0, 0.0, 0.0), (12.0, 0.0, 0.0, 0.0)], order)
    assert norm == pytest.approx(13.0)
    assert clipped[0] == pytest.approx([0.9 / 13, 1.2 / 13], rel=1e-6)
    assert clipped[2] == pytest.approx([3.6 / 13, 0, 0, 0], rel=1e-6)
    norm, clipped = clip_one([(0.06, 0.08)], order)
    assert norm == pytest.approx(0.1)
    assert clipped == [pytest.approx([0.06, 0.08], rel=1e-6)]


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_norm_of_a_broken_gradient_is_no_number(order: str, bad: float) -> None:
    """One number that is none, in any group, shows in the norm, which is what keeps it from the weights."""
    assert not math.isfinite(clip_one([(bad, 4.0)], order)[0])
    assert not math.isfinite(clip_one([(1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, bad, 0.0, 0.0)], order)[0])
