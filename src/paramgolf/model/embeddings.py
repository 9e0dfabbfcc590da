"""What a position knows besides its own token: hashed pairs, its predecessor, and values by token.

Legend: B batch, T positions, D model width, E width of a table, M buckets, V vocabulary, C channels of all values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from paramgolf.recipe import ModelRecipe

PAIR_KEYS = (36313, 27191)


class Matrix(nn.Module):
    """A weight [out, in], applied to the last dimension; it holds no values until the model initialises it."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))

    def look_up(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight as a table, [B, T, in]."""
        return functional.embedding(tokens_BT, self.weight).to(dtype)


class BigramEmbedding(nn.Module):
    """A learnt vector for each hash of (token, predecessor), added to the token's own (spec pr549.md 2.4)."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.buckets = recipe.bigram_buckets
        self.embedding = Matrix(recipe.bigram_buckets, recipe.bigram_width)
        self.projection = Matrix(recipe.width, recipe.bigram_width)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        hashed = self.embedding.look_up(pair_hash(tokens_BT, self.buckets), dtype)
        out: Tensor = self.projection(hashed) * self.scale.to(dtype)
        return out


def pair_hash(tokens_BT: Tensor, buckets: int) -> Tensor:
    """Bucket of each position, int64 [B, T]: the last one at a row's start, else a hash of the pair below it.

    The published one multiplies in 32 bits, which wraps for ids above 59,138 only.
    """
    here, before = PAIR_KEYS
    first = torch.full_like(tokens_BT[:, :1], buckets - 1)
    pairs = (tokens_BT[:, 1:] * here).bitwise_xor(tokens_BT[:, :-1] * before) % (buckets - 1)
    return torch.cat([first, pairs], dim=1)


class Smear(nn.Module):
    """Each channel takes a learnt share of the position before: `(1 - g) x_t + g x_{t-1}` (spec pr549.md 2.5).

    What lies before a row is nought. With a `boundary_id` a boundary token begins a row: the published form, without
    one, lets the end of a document into the next.
    """

    def __init__(self, width: int, boundary_id: int | None) -> None:
        super().__init__()
        self.boundary_id = boundary_id
        self.gate = nn.Parameter(torch.empty(width))

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        share_D = torch.sigmoid(self.gate.to(x_BTD.dtype))
        before_BTD = functional.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        if self.boundary_id is not None:
            before_BTD = before_BTD * (tokens_BT != self.boundary_id)[:, :, None].to(x_BTD.dtype)
        return x_BTD + share_D * (before_BTD - x_BTD)


class GatedSmear(nn.Module):
    """Each position takes a share of the one before that it decides itself: `x_t + s sigmoid(w . x_t[:C]) x_{t-1}`.

    It reads C = `channels` of its own channels, and a boundary token takes nothing: no document sees the one before it
    (spec pr2140.md 2.3). It acts before the first norm, `Smear` after it, as published.
    """

    def __init__(self, channels: int, boundary_id: int) -> None:
        super().__init__()
        self.boundary_id = boundary_id
        self.gate = nn.Parameter(torch.empty(channels))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        gate_C = self.gate.to(x_BTD.dtype)
        score_BT1 = (x_BTD[..., : len(gate_C)] * gate_C).sum(dim=-1, keepdim=True)
        share_BT1 = self.scale.to(x_BTD.dtype) * torch.sigmoid(score_BT1)
        share_BT1 = share_BT1 * (tokens_BT != self.boundary_id)[:, :, None].to(x_BTD.dtype)
        return x_BTD + share_BT1 * functional.pad(x_BTD[:, :-1], (0, 0, 1, 0))


class ValueEmbedding(nn.Module):
    """A vector for each token that chosen layers add to their values, each with a scale (spec pr549.md 2.7)."""

    def __init__(self, recipe: ModelRecipe, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Matrix(vocab_size, recipe.value_width)
        self.projection = Matrix(recipe.kv_width(), recipe.value_width)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, T, C], before a layer's own scale."""
        out: Tensor = self.projection(self.embedding.look_up(tokens_BT, dtype)) * self.scale.to(dtype)
        return out
