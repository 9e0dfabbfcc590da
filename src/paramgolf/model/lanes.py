"""Two lanes in the place of one residual stream: attention reads the first, the MLP the second, each adds to both.

    a = attention(mix(lane0));  m = mlp(lane1);  lane_l = kept_l lane_l + added_0l a + added_1l m

So the MLP does not wait for what attention found. Legend: B batch, T positions, n of them that are wanted, D model
width, L layers.
Source: spec pr2140.md 2.3, item 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramgolf.model.banks import LayerMatrices
from paramgolf.model.block import Block, Carried
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe

Pair = tuple[Tensor, Tensor]


class Lanes(nn.Module):
    """Shares of every layer: `added` [L, 2, 2] of attention and MLP (first) in lane 0 and 1 (second), `kept` [L, 2]."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.added = nn.Parameter(torch.empty(recipe.layers, 2, 2))
        self.kept = nn.Parameter(torch.empty(recipe.layers, 2))

    def forward(
        self, lanes: Pair, layer: int, block: Block, carried: Carried, matrices: LayerMatrices, rotary: Rotary
    ) -> Pair:
        """The wanted positions of both lanes [B, n, D] after one block."""
        attended_BnD = block.attend(block.mixed(lanes[0], carried), carried, matrices, rotary)
        wanted = [carried.wanted(lane_BTD) for lane_BTD in lanes]
        thought_BnD = block.think(wanted[1], carried, matrices)
        added_22, kept_2 = self.added[layer].to(attended_BnD.dtype), self.kept[layer].to(attended_BnD.dtype)
        first, second = (
            torch.addcmul(
                torch.addcmul(kept_2[lane] * wanted[lane], added_22[0, lane], attended_BnD),
                added_22[1, lane],
                thought_BnD,
            )
            for lane in (0, 1)
        )
        return first, second
