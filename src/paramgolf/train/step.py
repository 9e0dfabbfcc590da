"""One step of training, and the steps before the clock starts.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paramgolf.clock import Clock
from paramgolf.errors import RunError
from paramgolf.optim.schedule import StepSettings, stages, takes_snapshot
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.train.batches import (
    BATCHES_LOOKED_AT,
    Piece,
    examples,
    longest_rows,
    pieces,
    row_shapes,
    sequences_of_rank,
)
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.notes import Notes
from paramgolf.train.prefetch import Windows
from paramgolf.train.state import TrainState
from paramgolf.train.stop import StopRequest


@dataclass(frozen=True)
class Work:
    """What every step needs and none changes; `windows` are this rank's, rows of a stream if the recipe packs them."""

    recipe: Recipe
    windows: Windows
    loss_of: TrainingLoss
    ranks: Ranks
    boundary_id: int = 1

    def sequences(self) -> int:
        """Sequences (or rows) of each rank's share of a batch; `RecipeError` if they do not divide."""
        return sequences_of_rank(self.recipe.train, self.ranks.world)

    def pieces(self, step: int, context: int) -> Iterator[Piece]:
        """What passes the model one after the other in the step after `step` done ones."""
        batch = self.windows.batch(step, self.sequences())
        return pieces(self.recipe.train, batch, context, self.boundary_id, self.ranks.device)

    def examples(self, settings: StepSettings, step: int = 0) -> list[Piece]:
        """A piece of each shape that steps of these settings have, those of the next batches after `step` among them.

        It reads those batches, if they are packed.
        """
        train, context, seen = self.recipe.train, settings.context or self.recipe.train.sequence, set[int]()
        if train.packed:
            for each in range(step, step + BATCHES_LOOKED_AT):
                seen |= row_shapes(self.windows.batch(each, self.sequences())[0], context, self.boundary_id)
        return examples(train, self.ranks.world, context, self.ranks.device, seen)


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
    state.optimizers.step(settings.rate(), settings.momentum)
    state.model.hold_softcaps()
    state.step += 1
    if takes_snapshot(work.recipe.optim, state.step, settings.lr_scale):
        state.average.update(state.weights())
    return StepResult(mean_loss, reduced.grad_norm, stopping > 0)


def backward(state: TrainState, work: Work, settings: StepSettings) -> Tensor:
    """Add this rank's gradient of the mean of all terms, piece by piece.

    Returns the mean loss of the next token alone, a scalar on the device: what a run reports does not depend on its
    other terms.
    """
    teacher = state.objective.teacher
    distils = settings.distils and teacher is not None and teacher.follow(state.average, state.step)
    form = replace(settings, distils=distils)
    reported = torch.zeros((), device=work.ranks.device)
    for piece in work.pieces(state.step, settings.context):
        losses = work.loss_of(piece, form)
        (losses.total * piece.share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        reported += losses.next_token * piece.share
    if settings.crown:
        state.objective.add_crown_gradient()
    return reported


def warm_up(state: TrainState, work: Work, clock: Clock, notes: Notes) -> None:
    """Compile and run some steps of every form of the loss off the clock, then put back all that they changed.

    Each context, with looped layers or without, is a phase of its own in the ledger; the log has how many shapes were
    compiled in each.
    """
    work.loss_of.prepare(longest_rows(work.recipe.train, work.ranks.world))
    for name, forms in _phases(work.recipe).items():
        with clock.phase(name, on_clock=False):
            if work.recipe.train.compile and work.ranks.device.type == "cuda":
                compile_forms(state, work, forms, notes, name)
            _warm_up_forms(state, work, forms)


def compile_forms(state: TrainState, work: Work, forms: list[StepSettings], notes: Notes, name: str) -> None:
    """Compile forms of one context for every shape that is foreseen, and note how many that were for the phase."""
    pieces_of_each = work.examples(forms[0], state.step)
    notes.say(f"{name}: compiling the loss for {len(pieces_of_each)} shapes in {len(forms)} forms, off the clock")
    work.loss_of.compile([(form, piece) for form in forms for piece in pieces_of_each], notes)


def _warm_up_forms(state: TrainState, work: Work, forms: list[StepSettings]) -> None:
    recipe = work.recipe
    before = state.capture()
    try:
        for settings in forms:
            if settings.distils and state.objective.teacher is not None:
                state.objective.teacher.copy(state.weights())
            for _ in range(recipe.train.warmup_steps):
                one_step(state, work, settings)
    finally:
        state.restore(before)


def _phases(recipe: Recipe) -> dict[str, list[StepSettings]]:
    """The forms of a run by the name of the phase that warms them up."""
    forms = stages(recipe)
    several = len({(form.context, form.looping) for form in forms}) > 1
    found: dict[str, list[StepSettings]] = {}
    for form in forms:
        looping = ", looping" if recipe.model.looped_layers and form.looping else ""
        name = f"warm-up, context {form.context}{looping}" if several else "warm-up"
        found.setdefault(name, []).append(form)
    return found
