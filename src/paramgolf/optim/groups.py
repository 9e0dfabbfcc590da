"""Which optimizer moves which parameter: each in exactly one group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from paramgolf.errors import RecipeError
from paramgolf.optim.muon import Muon
from paramgolf.recipe import OptimRecipe


@dataclass(frozen=True)
class GroupRule:
    """Parameters whose name matches `pattern` (shell style) belong to group `group`."""

    group: str
    pattern: str


GPT_RULES = (
    GroupRule("embedding", "embedding.weight"),
    GroupRule("matrix", "blocks.*.weight"),
    GroupRule("scalar", "blocks.*.query_gain"),
)


def assign(names: list[str], rules: tuple[GroupRule, ...] = GPT_RULES) -> dict[str, list[str]]:
    """Names of each group, in the order of `names`.

    Raises `RecipeError` with the names if a parameter matches no rule or several groups.
    """
    found = {name: {rule.group for rule in rules if fnmatchcase(name, rule.pattern)} for name in names}
    homeless = [name for name, groups in found.items() if not groups]
    if homeless:
        raise RecipeError(f"no optimizer group takes {', '.join(homeless)}; groups: {_listed(rules)}")
    torn = [f"{name} ({', '.join(sorted(groups))})" for name, groups in found.items() if len(groups) > 1]
    if torn:
        raise RecipeError(f"several optimizer groups take {'; '.join(torn)}")
    members: dict[str, list[str]] = {rule.group: [] for rule in rules}
    for name, groups in found.items():
        members[next(iter(groups))].append(name)
    return members


def _listed(rules: tuple[GroupRule, ...]) -> str:
    return ", ".join(f"{rule.group} ({rule.pattern})" for rule in rules)


def build_optimizers(model: nn.Module, recipe: OptimRecipe) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices, Adam for the embedding and the scalars; every parameter in exactly one group.

    Each group remembers its `base_lr`, which the schedule scales. Raises `RecipeError` as `assign` does.
    """
    parameters = dict(model.named_parameters())
    members = assign(list(parameters))
    adam_groups = [
        {"params": [parameters[name] for name in members[group]], "lr": lr}
        for group, lr in (("embedding", recipe.embedding_lr), ("scalar", recipe.scalar_lr))
    ]
    muon = Muon(
        [parameters[name] for name in members["matrix"]],
        recipe.matrix_lr,
        recipe.muon_momentum,
        recipe.muon_weight_decay,
        recipe.newton_schulz_steps,
    )
    adam = torch.optim.Adam(
        adam_groups, betas=(recipe.adam_beta1, recipe.adam_beta2), eps=recipe.adam_eps, foreach=True
    )
    optimizers: dict[str, torch.optim.Optimizer] = {"muon": muon, "adam": adam}
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def set_lr_scale(optimizers: Mapping[str, torch.optim.Optimizer], scale: float) -> None:
    """Set every group's learning rate to `scale` times its own base rate."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
