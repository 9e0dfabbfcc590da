"""Train a model under the clock: one loop, from the first batch to the averaged weights."""

from __future__ import annotations

from collections import deque

import torch

from paramgolf.clock import Clock, Phase
from paramgolf.errors import RunError
from paramgolf.optim.schedule import settings_of, stage_at
from paramgolf.ranks import RankLost, Ranks
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.batches import in_rows, sequences_of_rank
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.metrics import MetricsLog
from paramgolf.train.notes import Notes
from paramgolf.train.prefetch import Prefetched, Windows
from paramgolf.train.progress import Display
from paramgolf.train.saves import Saves
from paramgolf.train.state import TrainState, Weights, delivered
from paramgolf.train.step import Diverged, Work, one_step, warm_up
from paramgolf.train.stop import StopRequest, TrainingStopped, stop_on_signals

NORMS_KEPT = 8  # gradient norms that the message of a diverged run shows
MEBIBYTE = 1 << 20


def train(
    recipe: Recipe,
    windows: Windows,
    vocab_size: int,
    run: RunFolder,
    clock: Clock,
    display: Display,
    ranks: Ranks | None = None,
    *,
    boundary_id: int = 1,
    data_digest: str = "",
) -> Weights:
    """Train until the budget's seconds (or `max_steps`) are used; return the averaged weights, float32, as exported.

    At least one step is made. Goes on from the run's checkpoint if there is one: with the same batches and readings of
    the clock the result is bitwise that of an uninterrupted run on one rank, and the same to rounding on another number
    of ranks. Writes `metrics.jsonl` and the checkpoint. `windows` are this rank's (with `train.packed` a stream, which
    is cut into rows here) and are read two steps ahead by a thread; `clock` must agree over the ranks; `boundary_id` is
    the tokenizer's, `data_digest` names what is trained on.

    Raises `TrainingStopped` after a signal, `RunError` for a checkpoint of another run or other data, or when the loss
    or the gradient is no number (the last good weights are saved), `RankLost` when another rank is gone, and
    `RecipeError` if the batch does not divide over the ranks.
    """
    ranks = ranks or Ranks()
    saves = Saves(recipe, vocab_size, data_digest, run, clock, ranks)
    notes = Notes(run, display, leads=ranks.leads)
    try:
        state = TrainState.fresh(recipe, vocab_size, ranks, boundary_id)
        # A batch that does not divide is refused before anything is done.
        sequences_of_rank(recipe.train, ranks.world)
        with Prefetched(in_rows(windows, recipe.train, ranks.world)) as ahead:
            work = Work(recipe, ahead, TrainingLoss(state.objective), ranks, boundary_id)
            if not saves.resume(state):
                with display:
                    _run(state, work, saves, notes, display)
            _say_what_is_odd(state, recipe, notes)
        return delivered(state.capture())
    except RankLost as lost:
        raise RankLost(f"{lost}; {saves.says_how_to_go_on()}") from lost


def _run(state: TrainState, work: Work, saves: Saves, notes: Notes, display: Display) -> None:
    """Warm-up, the steps on the clock, and the checkpoint after them."""
    norms: deque[float] = deque(maxlen=NORMS_KEPT)
    limit = work.recipe.budget.train_seconds
    try:
        warm_up(state, work, saves.clock, notes)
        with (
            stop_on_signals() as stop,
            saves.clock.phase("train", on_clock=True, limit=limit, used=state.seconds) as phase,
        ):
            _steps(state, work, saves, display, phase, stop, norms)
            if work.ranks.device.type == "cuda":
                torch.cuda.synchronize()  # the last step's work belongs on the clock
    except Diverged as bad:
        # The run ends with its last good step, also one that was resumed from, unless that step itself did the harm.
        ends = state.step > 0 and state.is_finite()
        if ends:
            saves.save(state, finished=True)
        raise RunError(_says_diverged(bad, state, saves, norms, ends)) from bad
    saves.save(state, finished=True)


def _steps(
    state: TrainState,
    work: Work,
    saves: Saves,
    display: Display,
    phase: Phase,
    stop: StopRequest,
    norms: deque[float],
) -> None:
    recipe, ranks = work.recipe, work.ranks
    log = MetricsLog(saves.run, recipe, state.step, state.seconds)
    saved_seconds = state.seconds
    while not _is_over(state, recipe):
        state.stage = stage_at(recipe, state.step, state.seconds, state.stage)
        settings = settings_of(recipe, state.step, state.seconds, state.stage)
        result = one_step(state, work, settings, stop)
        state.took(phase.seconds())
        norms.append(result.grad_norm)
        over = _is_over(state, recipe)
        if ranks.leads and log.due(state.step, state.seconds, over):
            fraction = phase.fraction_of(state.seconds)
            display.show(log.write(state.step, state.seconds, fraction, result.loss, result.grad_norm, settings))
        # A signal after the last gradient would be lost with this loop: ask once more.
        if result.stopping or (over and ranks.average([float(stop.number)])[0] > 0):
            saves.save(state, finished=False)
            raise TrainingStopped(_says_stopped(state, recipe, saves.run), stop.number or 15)
        if state.seconds - saved_seconds >= recipe.train.checkpoint_seconds and not over:
            saves.save(state, finished=False)
            saved_seconds = state.seconds


def _is_over(state: TrainState, recipe: Recipe) -> bool:
    # One more step like the longest of the last few must fit: the budget is a promise, and the rate is near zero at its
    # end anyway. The mean of all steps would promise too much: they take longer as contexts grow and layers loop.
    needed = state.seconds + max(state.durations, default=state.seconds / max(1, state.step))
    return state.step >= recipe.train.max_steps or needed > recipe.budget.train_seconds


def _says_stopped(state: TrainState, recipe: Recipe, run: RunFolder) -> str:
    return (
        f"stopped after step {state.step} ({state.seconds:.1f} of {recipe.budget.train_seconds:.1f} s), saved; "
        f"continue with: paramgolf train --resume {run.final_path}"
    )


def _says_diverged(bad: Diverged, state: TrainState, saves: Saves, norms: deque[float], ends: bool) -> str:
    if ends:
        kept = f"step {state.step} is saved, pack it with: paramgolf train --resume {saves.run.final_path}"
    else:
        kept = "no good step was made" if saves.saved_step is None else f"step {saves.saved_step} is still saved"
    last = ", ".join(f"{norm:.3g}" for norm in (*norms, bad.grad_norm))
    optim = saves.recipe.optim
    return (
        f"loss is {bad.loss:.4g} at step {state.step + 1}, gradient norms of the last steps: {last}; {kept}\n"
        f"or start again with lower optim.matrix_lr={optim.matrix_lr} or "
        f"optim.embedding_lr={optim.embedding_lr}"
    )


def _say_what_is_odd(state: TrainState, recipe: Recipe, notes: Notes) -> None:
    limit = recipe.budget.train_seconds
    if state.step == 1 and state.seconds > limit:
        notes.say(
            f"one step took {state.seconds:.3g} s, longer than budget.train_seconds={limit:g}: the run is that step, "
            f"over its budget; raise the budget or lower train.batch_tokens={recipe.train.batch_tokens}"
        )
    if not state.average.updates:
        notes.say(
            f"no snapshot was averaged (optim.swa_every={recipe.optim.swa_every}, "
            f"optim.swa_below={recipe.optim.swa_below:g}, {state.step} steps): the last weights are delivered"
        )
    if torch.cuda.is_available():
        notes.say(
            f"peak memory of training: {torch.cuda.max_memory_allocated() // MEBIBYTE:,} MiB allocated, "
            f"{torch.cuda.max_memory_reserved() // MEBIBYTE:,} MiB reserved"
        )
