"""Grokfast: what changes slowly in the gradients counts for more.

    mean = g at first, then decay mean + (1 - decay) g;    g = g + strength mean

Source: Lee et al. 2024, "Grokfast" (the EMA form); spec pr1185.md 2.8 and oracle O16. Published after clipping and
before the ranks are averaged, so that each rank had a mean of its own; here the gradient is already the one that all
ranks agree on, and a rank keeps the mean of the matrices that it owns alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Grokfast:
    """Running means, float32, of the gradients of parameters; `means` is empty until the first step."""

    def __init__(self, strength: float, decay: float) -> None:
        self._strength, self._decay = strength, decay
        self.means: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def amplify(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """Take in the gradients, by the parameter each belongs to (its shape may be a part's), and add to them."""
        for parameter, gradient in gradients.items():
            if parameter not in self.means:
                self.means[parameter] = gradient.float().clone()
            else:
                self.means[parameter].lerp_(gradient.float(), 1.0 - self._decay)
            gradient.add_(self.means[parameter], alpha=self._strength)
