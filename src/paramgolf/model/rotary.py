"""Rotary positions, half-split over the first channels of each head.

Legend: B batch, T positions, H heads, K channels of a head, R turned channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from paramgolf.kernels.turned_norm import turned
from paramgolf.recipe import ModelRecipe

MOST_TABLES = 8  # of different bases


class Rotary(nn.Module):
    """Turn channel pairs (j, j + R/2) of position t by the angle `t * base^(-2j/R)`; channels from R on stay.

    With a = the first half of R and b = the second: `a' = a cos + b sin; b' = -a sin + b cos` (spec pr549.md 2.6). The
    tables are computed in float64 and kept in float32 at least (bfloat16 cannot tell positions above 256 apart). They
    grow with the longest sequence. Under the NTK rule the base follows the length: each base has a table of its own, so
    that a graph that was compiled with one finds it as it was.
    """

    place: Tensor

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.turned, self.head_size = recipe.turned_channels(), recipe.head_size()
        self.register_buffer("place", torch.empty(0), persistent=False)  # device and dtype of the tables
        self._tables: dict[float, tuple[Tensor, Tensor]] = {}
        self._latest = 0.0  # the base that was prepared last

    @property
    def cos_TR(self) -> Tensor:
        """Cosines of what `prepare` was last asked for; rows beyond its length may follow."""
        return self._tables[self._latest][0]

    @property
    def sin_TR(self) -> Tensor:
        """Sines, as `cos_TR`; those of the second half with the other sign."""
        return self._tables[self._latest][1]

    def forward(self, x_BTHK: Tensor, context: int = 0) -> Tensor:
        """Turned `x_BTHK`, whose position t is its index in the second dimension; `context` as in `prepare`."""
        return turned(x_BTHK, *self.angles(x_BTHK.shape[1], x_BTHK.dtype, context))

    def angles(
        self, length: int, dtype: torch.dtype, context: int = 0, positions_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines [..., T, 1, R] for `turned`: of positions below `length`, or of `positions_BT` among them.

        `context` as in `prepare`.
        """
        cos_TR, sin_TR = self._table(length, self.recipe.rope_base_at(context or length))
        where = slice(length) if positions_BT is None else positions_BT
        return cos_TR[where].unsqueeze(-2).to(dtype), sin_TR[where].unsqueeze(-2).to(dtype)

    def prepare(self, length: int, context: int = 0) -> None:
        """Make the tables serve sequences of `length`.

        In a row of packed documents no position sees further than its document: the base follows `context`, the most
        that one of them spans, and the row may be as long as it likes. 0: `length`.
        """
        self._latest = self.recipe.rope_base_at(context or length)
        self._table(length, self._latest)

    def _table(self, length: int, base: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines of this base, of `length` positions at least."""
        if base in self._tables and length <= len(self._tables[base][0]):
            return self._tables[base]
        half = self.turned // 2
        speeds_J = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles_TJ = torch.arange(length, dtype=torch.float64)[:, None] * speeds_J
        cos_TR = torch.cat([angles_TJ.cos(), angles_TJ.cos()], dim=1)
        sin_TR = torch.cat([angles_TJ.sin(), -angles_TJ.sin()], dim=1)
        dtype = torch.promote_types(self.place.dtype, torch.float32)
        if base not in self._tables and len(self._tables) >= MOST_TABLES:
            del self._tables[next(each for each in self._tables if each != self._latest)]
        self._tables[base] = cos_TR.to(self.place.device, dtype), sin_TR.to(self.place.device, dtype)
        return self._tables[base]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """What torch moves a module with: tables are made anew where it is then, when they are needed."""
        self._tables.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self
