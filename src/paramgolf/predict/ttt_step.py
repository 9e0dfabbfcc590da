"""The training steps of test-time training: the same on any number of ranks, and never a step to weights that are no
numbers.

Legend: F sequences of a step, W window.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from paramgolf.errors import RecipeError
from paramgolf.kernels.loss import softcapped_loss
from paramgolf.model.arithmetic import BANKS, bank_rows
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Int64
from paramgolf.ranks import Ranks
from paramgolf.recipe import ScoreRecipe

IGNORED = -100  # target of a padding position
PASS_TOKENS = 2048  # that go through the model at once on a CPU; more would not be faster, and need more memory
GPU_PASS_TOKENS = 65_536


class Trainer:
    """Takes the optimizer steps on `model`, whose parameters it may change.

    A step's gradient is that of the mean loss over the real tokens of its sequences, which the ranks share out; it is
    added up over the ranks and then clipped. Frozen blocks keep all they have, bit for bit: their own parameters and
    their matrices in the banks, from which AdamW's decay and SGD's momentum are kept too (the published option leaves
    the matrices free, spec pr549.md 5.4, pr1430.md 7). Raises `RecipeError` if more blocks are to be frozen than there
    are.

    `average`, a model with the same weights, follows every step: a -> ttt_polyak a + (1 - ttt_polyak) w (spec
    pr1185.md 5). Training goes on from `model`.
    """

    def __init__(self, model: GPT, recipe: ScoreRecipe, ranks: Ranks, average: GPT | None = None) -> None:
        frozen, layers = recipe.ttt_frozen_blocks, model.recipe.layers
        if frozen > layers:
            raise RecipeError(f"score.ttt_frozen_blocks={frozen} of a model with model.layers={layers}")
        self._model, self._recipe, self._ranks = model, recipe, ranks
        own = tuple(f"blocks.{layer}." for layer in range(frozen))
        named = dict(model.named_parameters())
        for name, parameter in named.items():
            parameter.requires_grad_(not name.startswith(own))
        self._trained = [parameter for parameter in named.values() if parameter.requires_grad]
        self._still = [_Still(named[bank], own, bank) for bank in BANKS if bank in named] if frozen else []
        self._optimizer = _optimizer(self._trained, recipe)
        followers = {} if average is None else dict(average.named_parameters())
        self._averaged = [followers[name] for name, parameter in named.items() if parameter.requires_grad and followers]
        self._kept: list[Tensor] = []

    def learn(self, inputs_FW: Int64, targets_FW: Int64, rate: float) -> bool:
        """All epochs over some sequences at one learning rate (targets `IGNORED` are no tokens).

        False, and the weights as they were before, if a gradient or a weight came out infinite or as no number.
        """
        self._kept = [tensor.detach().clone() for tensor in self._moving()]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        size = self._recipe.ttt_sequences
        for _ in range(self._recipe.ttt_epochs):
            for first in range(0, len(inputs_FW), size):
                if not self._step(inputs_FW[first : first + size], targets_FW[first : first + size]):
                    return self._restored()
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self._trained])
        return bool(finite.all()) or self._restored()

    def _step(self, inputs_FW: Int64, targets_FW: Int64) -> bool:
        ranks, count = self._ranks, len(inputs_FW)
        real = int((targets_FW != IGNORED).sum())
        for parameter in self._trained:
            parameter.grad = None
        mine = range(count * ranks.rank // ranks.world, count * (ranks.rank + 1) // ranks.world)
        for first in range(mine.start, mine.stop, self._pass_sequences(inputs_FW.shape[1])):
            part = slice(first, min(mine.stop, first + self._pass_sequences(inputs_FW.shape[1])))
            self._backward(inputs_FW[part], targets_FW[part], real)
        add_up_gradients(self._trained, self._ranks)
        for still in self._still:
            still.without_gradient()
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._recipe.ttt_clip_norm)
        if not math.isfinite(float(norm)):
            return False
        self._optimizer.step()
        with torch.no_grad():
            self._model.hold_softcaps()
        for still in self._still:
            still.put_back()
        self._follow()
        return True

    def _follow(self) -> None:
        """Move the averages towards the weights, by 1 - ttt_polyak of what lies between."""
        with torch.no_grad():
            for average, parameter in zip(self._averaged, self._trained):
                average.lerp_(parameter, 1.0 - self._recipe.ttt_polyak)

    def _backward(self, inputs_FW: Int64, targets_FW: Int64, real: int) -> None:
        """Add the gradient of this part of the mean loss over `real` tokens."""
        device, chosen = self._model.embedding.weight.device, targets_FW != IGNORED
        targets = torch.from_numpy(targets_FW[chosen]).to(device)
        with torch.enable_grad():
            h_FWD = self._model.hidden(torch.from_numpy(inputs_FW).to(device))
            h_ND = h_FWD.flatten(0, 1) if chosen.all() else h_FWD[torch.from_numpy(chosen).to(device)]
            head_VD = self._model.embedding.weight.to(h_ND.dtype)
            loss = softcapped_loss(h_ND, head_VD, targets, self._model.softcap) * (len(targets) / real)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's

    def _restored(self) -> bool:
        with torch.no_grad():
            for tensor, kept in zip(self._moving(), self._kept, strict=True):
                tensor.copy_(kept)
        return False

    def _moving(self) -> list[torch.nn.Parameter]:
        """All that a step changes: the weights and their averages."""
        return [*self._trained, *self._averaged]

    def _pass_sequences(self, window: int) -> int:
        on_cpu = self._model.embedding.weight.device.type == "cpu"
        return max(1, (PASS_TOKENS if on_cpu else GPU_PASS_TOKENS) // window)


def add_up_gradients(parameters: list[torch.nn.Parameter], ranks: Ranks) -> None:
    """Each gradient becomes its sum over the ranks; one that had no sequence takes part with zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if ranks.world == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = ranks.add(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class _Still:
    """The frozen matrices of a bank, whose others are trained."""

    def __init__(self, bank: torch.nn.Parameter, own: tuple[str, ...], name: str) -> None:
        chosen = [row.startswith(own) for row in bank_rows(name, len(bank))]
        self._bank = bank
        self._rows = torch.from_numpy(np.flatnonzero(chosen)).to(bank.device)
        self._values = bank.detach()[self._rows].clone()

    def without_gradient(self) -> None:
        """So that they do not count in the norm."""
        if self._bank.grad is not None:
            self._bank.grad[self._rows] = 0

    def put_back(self) -> None:
        """What an optimizer does without a gradient is undone."""
        with torch.no_grad():
            self._bank[self._rows] = self._values


def learning_rate(recipe: ScoreRecipe, update: int, chunks: int | None) -> float:
    """The rate of the `update`-th update, counted from 0, in a text of `chunks` chunks (spec pr1430.md 7).

    "cosine" falls from `ttt_lr` to 0 at the last chunk, but never below `ttt_least_lr`; it raises `RecipeError` if
    nobody knows how many chunks there are.
    """
    if recipe.ttt_schedule == "constant":
        return recipe.ttt_lr
    if chunks is None:
        raise RecipeError(
            "score.ttt_schedule='cosine' needs the number of tokens of the text; take 'constant' where it is unknown"
        )
    cosine = recipe.ttt_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, update / max(chunks - 1, 1))))
    return max(recipe.ttt_least_lr, cosine)


def _optimizer(parameters: list[torch.nn.Parameter], recipe: ScoreRecipe) -> torch.optim.Optimizer:
    if recipe.ttt_optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.ttt_lr, momentum=recipe.ttt_momentum)
    return torch.optim.AdamW(parameters, lr=recipe.ttt_lr, weight_decay=recipe.ttt_weight_decay)
