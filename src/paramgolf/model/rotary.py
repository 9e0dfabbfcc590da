"""Rotary positions, half-split over the whole head.

Legend: B batch, T positions, H heads, K channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Turn channel pairs (j, j + K/2) of position t by the angle `t * base^(-2j/K)`.

    With a = the first half and b = the second: `a' = a cos + b sin; b' = -a sin + b cos` (spec pr549.md 2.6). The
    tables are computed in float64 and grow with the longest sequence seen, so a row does not depend on that length.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, head_size: int, base: float) -> None:
        super().__init__()
        self.head_size, self.base = head_size, base
        self.register_buffer("cos_TK", torch.empty(0, head_size), persistent=False)
        self.register_buffer("sin_TK", torch.empty(0, head_size), persistent=False)

    def forward(self, x_BTHK: Tensor) -> Tensor:
        """Turned `x_BTHK`, whose position t is its index in the second dimension."""
        length = x_BTHK.shape[1]
        if length > self.cos_TK.shape[0]:
            self._grow(length)
        cos_T1K = self.cos_TK[:length, None].to(x_BTHK.dtype)
        sin_T1K = self.sin_TK[:length, None].to(x_BTHK.dtype)
        # Rolling by half swaps the halves: one pass over memory where slicing and joining takes three.
        return torch.addcmul(x_BTHK * cos_T1K, x_BTHK.roll(self.head_size // 2, dims=-1), sin_T1K)

    def _grow(self, length: int) -> None:
        half = self.head_size // 2
        speeds_J = self.base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles_TJ = torch.arange(length, dtype=torch.float64)[:, None] * speeds_J
        cos_TK = torch.cat([angles_TJ.cos(), angles_TJ.cos()], dim=1)
        sin_TK = torch.cat([angles_TJ.sin(), -angles_TJ.sin()], dim=1)
        place = self.cos_TK
        # Kept in float32 at least: bfloat16 cannot tell positions above 256 apart.
        dtype = torch.promote_types(place.dtype, torch.float32)
        self.cos_TK = cos_TK.to(place.device, dtype)
        self.sin_TK = sin_TK.to(place.device, dtype)
