"""The adapters of some lanes with what their optimizer remembers, and the step that all of them take at once.

Each lane is on its own: its step follows from its gradient alone, whatever the others do. Legend: L lanes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from paramgolf.model.adapters import LoraAdapters
from paramgolf.predict.protocol import Bool, Int64
from paramgolf.recipe import ScoreRecipe

EPS = 1e-10  # of AdamW, as published (spec pr2140.md 5.2)


class LaneAdapters:
    """Adapters, second moments, and for each lane the steps since its document began [L].

    `resting` lanes [L] take no step until their next document: a step of theirs led to no numbers. Treat an object as a
    value: `fresh_in` and `stepped` give new ones.
    """

    def __init__(self, adapters: LoraAdapters, recipe: ScoreRecipe) -> None:
        self.adapters = adapters
        self.recipe = recipe
        self.squares = [torch.zeros_like(parameter) for parameter in adapters.parameters()]
        self.steps: Int64 = np.zeros(adapters.lanes, dtype=np.int64)
        self.resting: Bool = np.zeros(adapters.lanes, dtype=np.bool_)

    def fresh_in(self, lanes: Bool) -> LaneAdapters:
        """With a new document in some lanes [L]: B and moments at nought, A as at first (`lora_keeps_inner`: kept)."""
        if not lanes.any():
            return self
        fresh = self._copy()
        where = torch.from_numpy(np.flatnonzero(lanes)).to(self.squares[0].device)
        fresh.adapters.reset(where, keep_inner=self.recipe.lora_keeps_inner)
        for square in fresh.squares:
            square.index_fill_(square.dim() - 3, where, 0.0)
        fresh.steps[lanes], fresh.resting[lanes] = 0, False
        return fresh

    def stepped(self, gradients: tuple[Tensor, ...], lanes: Bool) -> LaneAdapters:
        """After one step of AdamW in some lanes [L]: beta1 0, decay of A and B apart from the gradient.

        A lane whose moments or adapters come out infinite or as no number keeps what it had, and rests.
        """
        after = self._copy()
        after.steps[lanes] += 1
        recipe, like = self.recipe, self.squares[0]
        beta2 = recipe.lora_beta2
        correction = np.sqrt(1.0 - beta2 ** np.maximum(after.steps, 1))

        def of_lanes(learning: float, still: float) -> Tensor:
            return torch.from_numpy(np.where(lanes, learning, still)[:, None, None]).to(like)

        old_L11, new_L11 = of_lanes(beta2, 1.0), of_lanes(1.0 - beta2, 0.0)
        kept_L11, rate_L11 = (
            of_lanes(1.0 - recipe.lora_lr * recipe.lora_weight_decay, 1.0),
            of_lanes(-recipe.lora_lr, 0.0),
        )
        root_L11 = torch.from_numpy(1.0 / correction[:, None, None]).to(like)
        finite_L = torch.ones(len(lanes), dtype=torch.bool, device=like.device)
        with torch.no_grad():
            for parameter, square, gradient in zip(after.adapters.parameters(), after.squares, gradients, strict=True):
                square.mul_(old_L11).addcmul_(gradient, gradient * new_L11)
                size = square.sqrt().mul_(root_L11).add_(EPS)
                parameter.mul_(kept_L11).addcdiv_(gradient * rate_L11, size)
                for tensor in (square, parameter):
                    finite_L &= tensor.isfinite().flatten(-2).all(-1).reshape(-1, len(lanes)).all(0)
        broken = lanes & ~finite_L.cpu().numpy()
        return self._without(after, broken) if broken.any() else after

    def _without(self, after: LaneAdapters, broken: Bool) -> LaneAdapters:
        """`after`, but with the present state in the broken lanes, which rest."""
        where = torch.from_numpy(np.flatnonzero(broken)).to(self.squares[0].device)
        with torch.no_grad():
            for new, old in zip(after._tensors(), self._tensors(), strict=True):
                new.index_copy_(new.dim() - 3, where, old.index_select(old.dim() - 3, where))
        after.steps[broken] = self.steps[broken]
        after.resting |= broken
        return after

    def _tensors(self) -> list[Tensor]:
        return [*self.adapters.parameters(), *self.squares]

    def _copy(self) -> LaneAdapters:
        twin = copy.copy(self)
        twin.adapters = copy.deepcopy(self.adapters)
        twin.squares = [square.clone() for square in self.squares]
        twin.steps, twin.resting = self.steps.copy(), self.resting.copy()
        return twin
