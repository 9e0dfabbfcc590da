"""Rotary positions, half-split over the first channels of each head.

Legend: B batch, T positions, H heads, K channels of a head, R turned channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramgolf.recipe import ModelRecipe


class Rotary(nn.Module):
    """Turn channel pairs (j, j + R/2) of position t by the angle `t * base^(-2j/R)`; channels from R on stay.

    With a = the first half of R and b = the second: `a' = a cos + b sin; b' = -a sin + b cos` (spec pr549.md 2.6). The
    tables are computed in float64 and kept in float32 at least (bfloat16 cannot tell positions above 256 apart). They
    grow with the longest sequence; under the NTK rule the base follows the length, and they are made anew.
    """

    cos_TR: Tensor
    sin_TR: Tensor

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.turned, self.head_size = recipe.turned_channels(), recipe.head_size()
        self._base = recipe.rope_base
        self.register_buffer("cos_TR", torch.empty(0, self.turned), persistent=False)
        self.register_buffer("sin_TR", torch.empty(0, self.turned), persistent=False)

    def forward(self, x_BTHK: Tensor, context: int = 0) -> Tensor:
        """Turned `x_BTHK`, whose position t is its index in the second dimension; `context` as in `prepare`."""
        length = x_BTHK.shape[1]
        self.prepare(length, context)
        cos_T1R = self.cos_TR[:length, None].to(x_BTHK.dtype)
        sin_T1R = self.sin_TR[:length, None].to(x_BTHK.dtype)
        turned_BTHR = x_BTHK[..., : self.turned]
        # Rolling by half swaps the halves: one pass over memory where slicing and joining takes three.
        turned_BTHR = torch.addcmul(turned_BTHR * cos_T1R, turned_BTHR.roll(self.turned // 2, dims=-1), sin_T1R)
        if self.turned == self.head_size:
            return turned_BTHR
        return torch.cat([turned_BTHR, x_BTHK[..., self.turned :]], dim=-1)

    def prepare(self, length: int, context: int = 0) -> None:
        """Make the tables serve sequences of `length`.

        In a row of packed documents no position sees further than its document: the base follows `context`, the most
        that one of them spans, and the row may be as long as it likes. 0: `length`.
        """
        base = self.recipe.rope_base_at(context or length)
        if length <= self.cos_TR.shape[0] and base == self._base:
            return
        half = self.turned // 2
        speeds_J = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles_TJ = torch.arange(length, dtype=torch.float64)[:, None] * speeds_J
        cos_TR = torch.cat([angles_TJ.cos(), angles_TJ.cos()], dim=1)
        sin_TR = torch.cat([angles_TJ.sin(), -angles_TJ.sin()], dim=1)
        place = self.cos_TR
        dtype = torch.promote_types(place.dtype, torch.float32)
        self._base = base
        self.cos_TR = cos_TR.to(place.device, dtype)
        self.sin_TR = sin_TR.to(place.device, dtype)
