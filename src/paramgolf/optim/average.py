"""The average of the weights, which is what a run delivers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """A float32 average of named weights, without the bias of its start.

    After n updates the weights of update i count in proportion to `decay^(n-i)`; the shares sum to one at any n, so the
    initial weights never leak in and the first update gives the weights themselves. A decay of 1 gives the plain mean
    (SWA). The published average starts from the initial weights and keeps `decay^n` of them: it is this one times
    `1 - decay^n` plus that remainder (spec pr549.md 3.11).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._names = list(weights)
        self._mean = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights.values()]

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the present weights; names and shapes as at the start."""
        self.updates += 1
        share = (1.0 - self.decay) / (1.0 - self.decay**self.updates) if self.decay < 1.0 else 1.0 / self.updates
        torch._foreach_lerp_(self._mean, [weights[name].float() for name in self._names], share)

    def weights(self) -> dict[str, Tensor]:
        """The average by name, zeros before the first update; live tensors, to be copied by who keeps them."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a saved average of `updates` updates."""
        self.updates = updates
        for name, mean in zip(self._names, self._mean, strict=True):
            mean.copy_(weights[name])
