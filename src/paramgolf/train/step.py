"""One step of training, and the steps before the clock starts.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paramgolf.clock import Clock
from paramgolf.errors import RecipeError, RunError
from paramgolf.optim.schedule import StepSettings, stages, takes_snapshot
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.notes import Notes
from paramgolf.train.state import TrainState
from paramgolf.train.stop import StopRequest

Int64 = npt.NDArray[np.int64]


class Windows(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what it would have seen."""

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]: ...


@dataclass(frozen=True)
class Work:
    """What every step needs and none changes; `windows` are this rank's."""

    recipe: Recipe
    windows: Windows
    loss_of: TrainingLoss
    ranks: Ranks

    def sequences(self) -> int:
        """Sequences of each rank's share of a batch; `RecipeError` if they do not divide."""
        train = self.recipe.train
        sequences, world = train.batch_tokens // train.sequence, self.ranks.world
        if sequences % world:
            raise RecipeError(
                f"train.batch_tokens={train.batch_tokens} is {sequences} sequences of "
                f"train.sequence={train.sequence}, which do not divide over {world} ranks"
            )
        return sequences // world

    def piece(self) -> int:
        """Sequences of one forward and backward pass."""
        return min(self.sequences(), max(1, self.recipe.train.micro_tokens // self.recipe.train.sequence))


@dataclass(frozen=True)
class StepResult:
    """Mean loss (nats a token) and gradient norm over all ranks, of before the update; whether one wants to stop."""

    loss: float
    grad_norm: float
    stopping: bool


class Diverged(RunError):
    """The loss or the gradient is no number; the weights are those of the step before."""

    def __init__(self, loss: float, grad_norm: float) -> None:
        super().__init__(f"loss {loss}, gradient norm {grad_norm}")
        self.loss, self.grad_norm = loss, grad_norm


def one_step(state: TrainState, work: Work, settings: StepSettings, stop: StopRequest | None = None) -> StepResult:
    """One update of everything; all ranks call it, and all learn whether one of them was asked to stop.

    Raises `Diverged` on all ranks, before anything moved, if the loss or the gradient of any is no number.
    """
    loss = backward(state, work, settings)
    wants_stop = torch.full_like(loss, float(stop is not None and stop.number != 0))
    reduced = state.optimizers.reduce([loss, wants_stop])
    mean_loss, stopping = reduced.means
    if not (math.isfinite(mean_loss) and math.isfinite(reduced.grad_norm)):
        raise Diverged(mean_loss, reduced.grad_norm)
    state.optimizers.step(settings.lr_scale, settings.momentum)
    state.step += 1
    if takes_snapshot(work.recipe.optim, state.step, settings.lr_scale):
        state.average.update(state.weights())
    return StepResult(mean_loss, reduced.grad_norm, stopping > 0)


def backward(state: TrainState, work: Work, settings: StepSettings) -> Tensor:
    """Add this rank's gradient of the mean of all terms, piece by piece.

    Returns the mean loss of the next token alone, a scalar on the device: what a run reports does not depend on its
    other terms.
    """
    sequences, piece, device = work.sequences(), work.piece(), work.ranks.device
    inputs_ST, targets_ST = (_on(device, tokens) for tokens in work.windows.batch(state.step, sequences))
    teacher = state.objective.teacher
    distils = settings.distils and teacher is not None and teacher.follow(state.average, state.step)
    reported = torch.zeros((), device=device)
    for inputs, targets in zip(torch.split(inputs_ST, piece), torch.split(targets_ST, piece), strict=True):
        losses, share = work.loss_of(inputs, targets, settings.quantise_bits, distils), len(inputs) / sequences
        (losses.total * share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        reported += losses.next_token * share
    if settings.crown:
        state.objective.add_crown_gradient()
    return reported


def warm_up(state: TrainState, work: Work, clock: Clock, notes: Notes) -> None:
    """Compile and run some steps of every form of the loss off the clock, then put back all that they changed."""
    recipe, device = work.recipe, work.ranks.device
    with clock.phase("warm-up", on_clock=False):
        if recipe.train.compile and device.type == "cuda":
            tokens_ST = torch.zeros(work.piece(), recipe.train.sequence, dtype=torch.int64, device=device)
            work.loss_of.compile(tokens_ST, stages(recipe), notes)
        before = state.capture()
        try:
            for settings in stages(recipe):
                if settings.distils and state.objective.teacher is not None:
                    state.objective.teacher.copy(state.weights())
                for _ in range(recipe.train.warmup_steps):
                    one_step(state, work, settings)
        finally:
            state.restore(before)


def _on(device: torch.device, tokens_ST: Int64) -> Tensor:
    tensor = torch.from_numpy(tokens_ST)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
