"""Train a model under the clock: one loop, from the first batch to the averaged weights.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paramgolf.clock import Clock
from paramgolf.errors import RecipeError, RunError
from paramgolf.optim.groups import set_lr_scale
from paramgolf.optim.schedule import warmdown_scale
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.checkpoint import CHECKPOINT, CheckpointRecord, load_checkpoint, save_checkpoint
from paramgolf.train.metrics import MetricsLog, forget_after
from paramgolf.train.progress import Display
from paramgolf.train.state import TrainState
from paramgolf.train.stop import TrainingStopped, stop_on_signals

Int64 = npt.NDArray[np.int64]
Weights = dict[str, npt.NDArray[np.float32]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Windows(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what it would have seen."""

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]: ...


def train(
    recipe: Recipe,
    windows: Windows,
    vocab_size: int,
    run: RunFolder,
    clock: Clock,
    display: Display,
    ranks: Ranks | None = None,
) -> Weights:
    """Train until the budget's seconds (or `max_steps`) are used; return the averaged weights, float32 by name.

    Goes on from the run's checkpoint if there is one: with the same batches and readings of the clock the result is
    bitwise that of an uninterrupted run. Writes `metrics.jsonl` and the checkpoint. `windows` are this rank's, `clock`
    must agree over the ranks. Raises `TrainingStopped` after a signal, `RunError` for a checkpoint of another run or a
    loss that is no number, `RecipeError` if the batch does not divide over the ranks.
    """
    ranks = ranks or Ranks()
    sequences = sequences_of_rank(recipe, ranks.world)
    state = TrainState.fresh(recipe, vocab_size, ranks.device)
    saved = resume(state, recipe, vocab_size, run, clock)
    if saved is not None and saved.finished:
        return averaged(state)
    loss_of = _loss_function(state, recipe, ranks.device)
    warm_up(state, recipe, windows, sequences, loss_of, clock, ranks)

    limit = recipe.budget.train_seconds
    log = MetricsLog(run, recipe.train.batch_tokens, state.step, state.seconds)
    saved_seconds = state.seconds
    with (
        stop_on_signals() as stop,
        display,
        clock.phase("train", on_clock=True, limit=limit, used=state.seconds) as phase,
    ):
        while not _is_over(state, recipe):
            scale = warmdown_scale(phase.fraction_of(state.seconds), recipe.optim.warmdown)
            loss = one_step(state, recipe, windows, sequences, loss_of, scale, ranks)
            loss, signalled = ranks.average([loss, float(stop.number != 0)])
            state.seconds = phase.seconds()
            if not math.isfinite(loss):
                raise RunError(
                    f"loss is {loss} at step {state.step}; lower optim.matrix_lr={recipe.optim.matrix_lr} or "
                    f"optim.embedding_lr={recipe.optim.embedding_lr}"
                )
            over = _is_over(state, recipe)
            if ranks.leads and log.due(state.step, state.seconds, over):
                fraction = phase.fraction_of(state.seconds)
                display.show(log.write(state.step, state.seconds, fraction, loss, recipe.optim.matrix_lr * scale))
            if signalled:
                save(state, recipe, vocab_size, run, clock, ranks, finished=False)
                raise TrainingStopped(_says_stopped(state, limit, run), stop.number or 15)
            if state.seconds - saved_seconds >= recipe.train.checkpoint_seconds and not over:
                save(state, recipe, vocab_size, run, clock, ranks, finished=False)
                saved_seconds = state.seconds
    save(state, recipe, vocab_size, run, clock, ranks, finished=True)
    return averaged(state)


def one_step(
    state: TrainState,
    recipe: Recipe,
    windows: Windows,
    sequences: int,
    loss_of: Loss,
    scale: float,
    ranks: Ranks,
) -> float:
    """One update of everything; returns this rank's mean loss in nats a token, measured before the update."""
    inputs_ST, targets_ST = (torch.from_numpy(x).to(ranks.device) for x in windows.batch(state.step, sequences))
    piece = max(1, recipe.train.micro_tokens // recipe.train.sequence)
    total = torch.zeros((), device=ranks.device)
    for inputs, targets in zip(torch.split(inputs_ST, piece), torch.split(targets_ST, piece), strict=True):
        with _precision(recipe, ranks.device):
            loss = loss_of(inputs, targets) * (len(inputs) / sequences)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += loss.detach()
    parameters = list(state.model.parameters())
    ranks.average_tensors([p.grad for p in parameters if p.grad is not None])
    torch.nn.utils.clip_grad_norm_(parameters, recipe.optim.clip_norm)
    set_lr_scale(state.optimizers, scale)
    for optimizer in state.optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    state.average.update(state.weights())
    state.step += 1
    return float(total)


def warm_up(
    state: TrainState, recipe: Recipe, windows: Windows, sequences: int, loss_of: Loss, clock: Clock, ranks: Ranks
) -> None:
    """Run some steps off the clock (compilation, memory, caches), then put back everything that they changed."""
    with clock.phase("warm-up", on_clock=False):
        before = state.capture()
        for _ in range(recipe.train.warmup_steps):
            one_step(state, recipe, windows, sequences, loss_of, 1.0, ranks)
        state.restore(before)


def resume(state: TrainState, recipe: Recipe, vocab_size: int, run: RunFolder, clock: Clock) -> CheckpointRecord | None:
    """Bring `state` and the ledger to the run's checkpoint, if it has one; `RunError` if it is another run's."""
    path = run.path / CHECKPOINT
    if not path.exists():
        return None
    tensors, record = load_checkpoint(path)
    if record.fingerprint != recipe.fingerprint():
        raise RunError(f"{path} was made by recipe {record.fingerprint}, this is {recipe.name} {recipe.fingerprint()}")
    if record.vocab_size != vocab_size:
        raise RunError(f"{path} has a vocabulary of {record.vocab_size}, the data one of {vocab_size}")
    state.restore(tensors)
    clock.restore(record.ledger)
    forget_after(run, state.step)
    return record


def save(
    state: TrainState, recipe: Recipe, vocab_size: int, run: RunFolder, clock: Clock, ranks: Ranks, *, finished: bool
) -> None:
    """Write the checkpoint from rank 0; all ranks wait for it."""
    if ranks.leads:
        record = CheckpointRecord(recipe.fingerprint(), vocab_size, clock.record(), finished)
        save_checkpoint(run.path / CHECKPOINT, state.capture(), record)
    ranks.agree(0.0)


def sequences_of_rank(recipe: Recipe, world: int) -> int:
    """Sequences of each rank's share of a batch; `RecipeError` if they do not divide."""
    sequences = recipe.train.batch_tokens // recipe.train.sequence
    if sequences % world:
        raise RecipeError(
            f"train.batch_tokens={recipe.train.batch_tokens} is {sequences} sequences of "
            f"train.sequence={recipe.train.sequence}, which do not divide over {world} ranks"
        )
    return sequences // world


def averaged(state: TrainState) -> Weights:
    """The averaged weights as NumPy arrays."""
    return {name: value.cpu().numpy().copy() for name, value in state.average.weights().items()}


def _is_over(state: TrainState, recipe: Recipe) -> bool:
    # One more step of average length must fit: the budget is a promise, and the rate is near zero at its end anyway.
    needed = state.seconds + state.seconds / max(1, state.step)
    return state.step >= recipe.train.max_steps or needed > recipe.budget.train_seconds


def _loss_function(state: TrainState, recipe: Recipe, device: torch.device) -> Loss:
    if recipe.train.compile and device.type == "cuda":
        compiled: Loss = torch.compile(state.model.loss)
        return compiled
    return state.model.loss


def _precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    if recipe.train.dtype == "bfloat16" and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _says_stopped(state: TrainState, limit: float, run: RunFolder) -> str:
    return (
        f"stopped after step {state.step} ({state.seconds:.1f} of {limit:.1f} s), saved; "
        f"continue with: paramgolf train --resume {run.final_path}"
    )
