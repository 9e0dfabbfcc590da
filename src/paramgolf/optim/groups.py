"""Which optimizer moves which parameter: each in exactly one group."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from paramgolf.errors import RecipeError
from paramgolf.model.arithmetic import TABLES
from paramgolf.optim.muon import Muon
from paramgolf.optim.optimizers import Optimizers
from paramgolf.ranks import Ranks
from paramgolf.recipe import OptimRecipe


@dataclass(frozen=True)
class GroupRule:
    """Parameters whose name matches `pattern` (shell style) belong to group `group`."""

    group: str
    pattern: str


# The published groups (spec pr549.md 3.6, pr2140.md 3.3): small projections go with the scalars, not with the matrices.
# Softcaps had no optimizer as published (pr2140.md 2.3). They move at the rate of the scalars, but do not decay: the
# pull towards 0 would be over half of AdamW's longest step at a cap of 30.
GPT_RULES = (
    *(GroupRule("embedding", table) for table in TABLES),
    GroupRule("matrix", "banks.*"),
    GroupRule("scalar", "blocks.*"),
    GroupRule("scalar", "*.projection.weight"),
    GroupRule("scalar", "*.scale"),
    GroupRule("scalar", "smear.gate"),
    GroupRule("scalar", "skip_weights"),
    GroupRule("scalar", "skip_gates"),
    GroupRule("scalar", "lanes.*"),
    GroupRule("cap", "softcaps"),
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


def build_optimizers(
    model: nn.Module, recipe: OptimRecipe, ranks: Ranks | None = None, future: nn.Module | None = None
) -> Optimizers:
    """Muon for the banks, AdamW for the tables and for everything else; every parameter in exactly one group.

    `future` are heads beside the model (`train/future.py`): an AdamW group of their own, with `future_lr`. The model
    must have the device and dtypes that it trains with. Raises `RecipeError` as `assign` does.
    """
    ranks = ranks or Ranks()
    parameters = dict(model.named_parameters())
    members = assign(list(parameters))
    adam_groups = [
        {"params": [parameters[name] for name in members[group]], "lr": lr, "weight_decay": decay}
        for group, lr, decay in (
            ("embedding", recipe.embedding_lr, recipe.embedding_weight_decay),
            ("scalar", recipe.scalar_lr, recipe.scalar_weight_decay),
            ("cap", recipe.scalar_lr, 0.0),
        )
        if members[group]
    ]
    if future is not None:
        adam_groups.append({"params": list(future.parameters()), "lr": recipe.future_lr})
    muon = Muon(
        [parameters[name] for name in members["matrix"]],
        recipe.matrix_lr,
        recipe.muon_momentum,
        recipe.muon_weight_decay,
        recipe.newton_schulz_steps,
        ranks,
        newton_schulz=recipe.newton_schulz,
        row_norm=recipe.muon_row_norm,
    )
    # Fused: its arithmetic is float32 also where parameters and their moments are bfloat16.
    adam = torch.optim.AdamW(
        adam_groups,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_eps,
        weight_decay=recipe.scalar_weight_decay,
        fused=True,
    )
    return Optimizers(muon, adam, recipe, ranks)
