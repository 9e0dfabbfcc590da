"""Two lanes in the place of one residual stream: attention reads the first, the MLP the second, each adds to both.

    a = attention(mix(lane0));  m = mlp(lane1);  lane_l = kept_l lane_l + added_0l a + added_1l m

So the MLP does not wait for what attention found. Legend: B batch, T positions, D model width, L layers.
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
        """Both lanes [B, T, D] after one block."""
        attended_BTD = block.attend(block.mixed(lanes[0], carried), carried, matrices, rotary)
        thought_BTD = block.think(lanes[1], carried, matrices)
        added_22, kept_2 = self.added[layer].to(lanes[0].dtype), self.kept[layer].to(lanes[0].dtype)
        first, second = (
            kept_2[lane] * lanes[lane] + added_22[0, lane] * attended_BTD + added_22[1, lane] * thought_BTD
            for lane in (0, 1)
        )
        return first, second
