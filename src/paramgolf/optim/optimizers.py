"""Muon and AdamW moved as one: gradients averaged over the ranks, clipped by one norm, then stepped.

With `optim.grokfast` the clipped gradients get their running mean added before the step. Source: spec pr549.md 3.4 (the
order of the traffic), 3.7 (clipping).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paramgolf.optim.grokfast import Grokfast
from paramgolf.optim.muon import Muon
from paramgolf.ranks import Ranks
from paramgolf.recipe import OptimRecipe

CLIP_EPS = 1e-6


@dataclass(frozen=True)
class Reduced:
    """What the ranks agreed on: the gradients' norm before clipping, and the mean of each number that was handed in."""

    grad_norm: float
    means: list[float]


class Optimizers:
    """Every rank must call every method. `reduce` then `step` make one update; nothing moves before `step`."""

    def __init__(self, muon: Muon, adam: torch.optim.AdamW, recipe: OptimRecipe, ranks: Ranks) -> None:
        self.muon, self.adam = muon, adam
        self.grokfast = Grokfast(recipe.grokfast, recipe.grokfast_decay) if recipe.grokfast else None
        self._recipe, self._ranks = recipe, ranks
        self._base_rates = [group["lr"] for group in self._groups()]

    def reduce(self, numbers: Sequence[Tensor]) -> Reduced:
        """Average the gradients and `numbers` (scalars on the gradients' device) over the ranks, and clip.

        `clip="after"` bounds the norm of the averaged gradient of all parameters. `clip="before"` is the published
        order: each rank bounds its own gradient before anything is sent, which is another algorithm on every number of
        ranks (spec pr549.md 7-B3); the norm returned is then the mean of the ranks' norms. The one wait for a GPU.
        """
        after = self._recipe.clip == "after"
        return self._average_then_clip(numbers) if after else self._clip_then_average(numbers)

    @torch.no_grad()
    def step(self, lr_scale: float, momentum: float) -> None:
        """Move all parameters at `lr_scale` times their own rates; the gradients are gone afterwards."""
        for group, base in zip(self._groups(), self._base_rates, strict=True):
            group["lr"] = base * lr_scale
        for group in self.muon.param_groups:
            group["momentum"] = momentum
        if self.grokfast is not None:
            self.grokfast.amplify({**_by_parameter(self.adam), **self.muon.shards()})
        self.adam.step()
        self.muon.step()
        self.muon.zero_grad()
        self.adam.zero_grad()

    def grokfast_means(self) -> dict[Tensor, Tensor]:
        """Whole running means of the gradients by parameter, empty without them; all ranks must call it."""
        if self.grokfast is None:
            return {}
        means, banks = self.grokfast.means, self._banks()
        replicated = {parameter: mean for parameter, mean in means.items() if parameter not in banks}
        return replicated | self.muon.gather(means)

    def load_grokfast_means(self, whole: Mapping[Tensor, Tensor]) -> None:
        """Go on from what `grokfast_means` gave on any number of ranks."""
        if self.grokfast is None:
            return
        banks = self._banks()
        parts = {parameter: mean for parameter, mean in whole.items() if parameter not in banks}
        parts |= self.muon.owned({parameter: mean for parameter, mean in whole.items() if parameter in banks})
        self.grokfast.means = {parameter: mean.to(parameter.device, copy=True) for parameter, mean in parts.items()}

    def _banks(self) -> set[Tensor]:
        return {parameter for group in self.muon.param_groups for parameter in group["params"]}

    def _average_then_clip(self, numbers: Sequence[Tensor]) -> Reduced:
        self.muon.send_gradients()
        replicated = _gradients(self.adam)
        self._ranks.average_tensors(replicated)
        shards = self.muon.gradients()
        summed = self._ranks.add(_message(_squares(shards), numbers, replicated))
        norm = (summed[0] + _squares(replicated)).sqrt() if replicated else summed[0].sqrt()
        _clip([*shards, *replicated], norm, self._recipe.clip_norm)
        return _read(torch.cat([norm[None], summed[1:] / self._ranks.world]))

    def _clip_then_average(self, numbers: Sequence[Tensor]) -> Reduced:
        replicated = _gradients(self.adam)
        own = [*_gradients(self.muon), *replicated]
        norm = _squares(own).sqrt()
        _clip(own, norm, self._recipe.clip_norm)
        summed = self._ranks.add(_message(norm, numbers, own))
        # The small ones go first: a GPU's traffic keeps its order, and AdamW can then step while the banks travel.
        self._ranks.average_tensors(replicated)
        self.muon.send_gradients()
        return _read(summed / self._ranks.world)

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adam.param_groups]


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return list(_by_parameter(optimizer).values())


def _by_parameter(optimizer: torch.optim.Optimizer) -> dict[Tensor, Tensor]:
    return {p: p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None}


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of all squares, float64 scalar."""
    whole = [tensor for tensor in tensors if tensor.numel()]
    if not whole:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(whole, dtype=torch.float64)).square().sum()


def _clip(tensors: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    whole = [tensor for tensor in tensors if tensor.numel()]
    if whole:
        torch._foreach_mul_(whole, (limit / (norm + CLIP_EPS)).clamp_max(1.0))


def _message(first: Tensor, numbers: Sequence[Tensor], beside: Sequence[Tensor]) -> Tensor:
    device = beside[0].device if beside else first.device
    return torch.stack([number.detach().to(device, torch.float64) for number in (first, *numbers)])


def _read(values: Tensor) -> Reduced:
    norm, *means = values.tolist()
    return Reduced(norm, means)
