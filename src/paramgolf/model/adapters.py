"""Low-rank additions to a model's matrices, a set of its own for every row of a batch (LoRA in lanes).

    delta(x) = (x Aᵀ) Bᵀ alpha / rank

Each *visit* of the route has its own pair of factors, so the runs of a looped block differ. What an adapter of a kind
adds to, and from which input x: `query`, `key`, `value` to the product of that matrix, from the attention's normalised
input; `output` to what attention adds, from the same input (published: not from what the heads read); `mlp` to what the
MLP adds, from its own normalised input; `head` to the logits before their softcap, from the last norm (spec pr2140.md
5.2). Legend: B rows of a batch, T positions, D width, V vocabulary, N visits, L lanes, R rank, I and O channels of
inputs and outputs, S chosen lanes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from paramgolf.recipe import ModelRecipe

HEAD = "head"


class Adapters(Protocol):
    """What a model asks for while it runs."""

    def delta(self, kind: str, visit: int, x_BTI: Tensor) -> Tensor | None:
        """What is added [B, T, O] at this visit of the route, None where nothing is."""


def adapter_kinds(recipe: ModelRecipe, vocab_size: int, *, query_value: bool) -> dict[str, int]:
    """Channels that each kind of adapter gives, the head last; all read the model's width."""
    kinds = {"key": recipe.kv_width(), "output": recipe.width, "mlp": recipe.width}
    if query_value:
        kinds |= {"query": recipe.width, "value": recipe.kv_width()}
    return kinds | {HEAD: vocab_size}


class LoraAdapters(nn.Module):
    """Factors of all lanes: parameters `{kind}_a [N, L, R, I]` and `{kind}_b [N, L, O, R]`, of the head without N.

    A begins uniform within `1 / sqrt(I)`, drawn from `seed` alone and the same in every lane, so that a document's rows
    do not depend on the lane it has; B begins at nought, and with it every delta.
    """

    def __init__(
        self,
        recipe: ModelRecipe,
        vocab_size: int,
        lanes: int,
        rank: int,
        alpha: float,
        query_value: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lanes, self.rank, self.alpha, self.seed = lanes, rank, alpha, seed
        self.kinds = tuple(adapter_kinds(recipe, vocab_size, query_value=query_value))
        for kind, channels in adapter_kinds(recipe, vocab_size, query_value=query_value).items():
            visits = () if kind == HEAD else (recipe.visits(),)
            self.register_parameter(f"{kind}_a", nn.Parameter(torch.empty(*visits, lanes, rank, recipe.width)))
            self.register_parameter(f"{kind}_b", nn.Parameter(torch.empty(*visits, lanes, channels, rank)))
        self.reset()

    def delta(self, kind: str, visit: int, x_BTI: Tensor, lanes: Tensor | None = None) -> Tensor | None:
        """What is added for `x_BTI` [B, T, O]: row b uses lane b, or `lanes[b]` (int64 [B]); None for a kind left out.

        `visit` is the place in the route; the head has one pair alone, and any number does.
        """
        if kind not in self.kinds:
            return None
        a_LRI, b_LOR = self.factors(kind)
        if kind != HEAD:
            a_LRI, b_LOR = a_LRI[visit], b_LOR[visit]
        if lanes is not None:
            a_LRI, b_LOR = a_LRI[lanes], b_LOR[lanes]
        return low_rank(x_BTI, a_LRI, b_LOR, self.alpha / self.rank)

    def chosen(self, lanes: Tensor | None = None) -> ChosenAdapters:
        """The adapters for one pass, whose row b uses lane `lanes[b]` (int64 [S]); None: lane b.

        For training: each parameter is taken apart once, so that the backward pass stacks gradients once, where
        indexing in `delta` writes a whole parameter of noughts for every visit.
        """
        parts: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}
        for kind in self.kinds:
            a, b = self.factors(kind)
            if lanes is not None:
                a, b = a.index_select(a.dim() - 3, lanes), b.index_select(b.dim() - 3, lanes)
            parts[kind] = ((a,), (b,)) if kind == HEAD else (a.unbind(0), b.unbind(0))
        return ChosenAdapters(parts, self.alpha / self.rank)

    def factors(self, kind: str) -> tuple[Tensor, Tensor]:
        """The parameters A and B of a kind, all visits and lanes."""
        return self.get_parameter(f"{kind}_a"), self.get_parameter(f"{kind}_b")

    @torch.no_grad()
    def reset(self, lanes: Tensor | None = None, *, keep_inner: bool = False) -> None:
        """Put lanes (int64 indices; None: all) back to the first values, exactly; with `keep_inner` A stays."""
        generator = torch.Generator().manual_seed(self.seed)
        for kind in self.kinds:
            a, b = self.factors(kind)
            over_lanes = (slice(None),) * (a.dim() - 3)
            where = (*over_lanes, slice(None) if lanes is None else lanes)
            b[where] = 0.0
            if not keep_inner:
                bound = 1.0 / math.sqrt(a.shape[-1])
                drawn = torch.empty(*a.shape[:-3], 1, *a.shape[-2:]).uniform_(-bound, bound, generator=generator)
                a[where] = drawn.to(a.device, a.dtype)


class ChosenAdapters:
    """Lanes of `LoraAdapters` as one pass uses them; see `LoraAdapters.chosen`."""

    def __init__(self, parts: Mapping[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]], scale: float) -> None:
        self._parts, self._scale = parts, scale

    def delta(self, kind: str, visit: int, x_BTI: Tensor) -> Tensor | None:
        """As `LoraAdapters.delta`."""
        if kind not in self._parts:
            return None
        of_visits = self._parts[kind]
        at = 0 if kind == HEAD else visit
        return low_rank(x_BTI, of_visits[0][at], of_visits[1][at], self._scale)


def low_rank(x_BTI: Tensor, a_BRI: Tensor, b_BOR: Tensor, scale: float) -> Tensor:
    """`(x Aᵀ) Bᵀ scale` of every row with its own factors [B, T, O], in the dtype of `x_BTI`."""
    if len(x_BTI) != len(a_BRI):
        raise ValueError(f"{len(x_BTI)} rows need as many lanes of adapters, found {len(a_BRI)}")
    a_BRI, b_BOR = a_BRI.to(x_BTI.dtype), b_BOR.to(x_BTI.dtype)
    return torch.bmm(torch.bmm(x_BTI, a_BRI.transpose(1, 2)).mul(scale), b_BOR.transpose(1, 2))
