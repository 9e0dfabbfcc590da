"""The loop learns, keeps its budget, and a stopped run goes on bitwise as if nothing had happened."""

import dataclasses
import io
import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from paramgolf.clock import Clock
from paramgolf.errors import RecipeError, RunError
from paramgolf.model.gpt import GPT
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.recipe import BudgetRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.loop import train
from paramgolf.train.notes import Notes
from paramgolf.train.progress import PlainDisplay, SilentDisplay
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, one_step, warm_up
from paramgolf.train.stop import TrainingStopped

VOCAB = 24
FULL_RATE = StepSettings(1.0, 0.95)
TINY = Recipe(
    name="tiny",
    model=ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, mlp_ratio=2.0),
    optim=OptimRecipe(),
    train=TrainRecipe(sequence=16, batch_tokens=64, checkpoint_seconds=1000.0),
    budget=BudgetRecipe(train_seconds=12.0),
)


class Counting:
    """Windows that count upwards modulo the vocabulary, drawn by the step alone: easy to learn."""

    def __init__(self, sequence: int = 16) -> None:
        self.sequence = sequence
        self.asked: list[int] = []

    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(step)
        starts = np.random.default_rng(step).integers(0, VOCAB, size=(sequences, 1))
        rows = (starts + np.arange(self.sequence + 1)) % VOCAB
        return rows[:, :-1].copy(), rows[:, 1:].copy()


class Ticks:
    """A clock that moves one second at each reading; with one reading a step, a step lasts one second."""

    def __init__(self) -> None:
        self.counter = itertools.count()

    def __call__(self) -> float:
        return float(next(self.counter))


def with_train(recipe: Recipe, **changes: object) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def run_it(path: Path, recipe: Recipe = TINY, windows: Counting | None = None, clock: Clock | None = None):
    run = RunFolder.resume(path) if (path.parent / f"{path.name}.partial").exists() else RunFolder.create(path)
    return run, train(recipe, windows or Counting(), VOCAB, run, clock or Clock(Ticks()), SilentDisplay())


def work_of(state: TrainState, recipe: Recipe = TINY, windows: Counting | None = None) -> Work:
    return Work(recipe, windows or Counting(), TrainingLoss(state.objective), Ranks())


def silent(path: Path) -> Notes:
    return Notes(RunFolder.create(path), SilentDisplay(), leads=True)


def points(run: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.read_text("metrics.jsonl").splitlines()]


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def assert_asked(windows: Counting, steps: range) -> None:
    """The batches of these steps were read in their order, and at most two beyond the end."""
    beyond = windows.asked[len(steps) :]
    assert windows.asked[: len(steps)] == list(steps)
    assert beyond == list(range(steps.stop, steps.stop + len(beyond))) and len(beyond) <= 2


def test_learns_and_returns_the_average(tmp_path: Path) -> None:
    """On a pattern without noise the loss falls far below uniform, and the averaged weights predict it."""
    recipe = dataclasses.replace(TINY, budget=BudgetRecipe(train_seconds=150.0))
    run, weights = run_it(tmp_path / "run", recipe)
    losses = [point["loss"] for point in points(run)]
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.1)
    assert losses[-1] < 0.3
    model = GPT(recipe.model, VOCAB)
    model.load_exported(weights)
    assert set(weights) == set(model.exported_weights())
    inputs, targets = Counting().batch(10_000, 8)
    assert model.loss(torch.from_numpy(inputs), torch.from_numpy(targets)).item() < 0.3
    assert all(value.dtype == np.float32 for value in weights.values())


def test_budget_is_kept_and_the_ledger_lists_both_phases(tmp_path: Path) -> None:
    """Training ends within its seconds, the warm-up is listed off the clock, and every point is plausible."""
    clock = Clock(Ticks())
    run, _ = run_it(tmp_path / "run", clock=clock)
    warm, timed = clock.ledger
    assert (warm.name, warm.on_clock, timed.name, timed.on_clock, timed.limit) == (
        "warm-up",
        False,
        "train",
        True,
        12.0,
    )
    log = points(run)
    assert [point["step"] for point in log] == list(range(1, 12 + 1))
    assert all(point["seconds"] <= 12.0 for point in log)
    assert all(point["tokens"] == 64 * point["step"] for point in log)
    assert all(point["tokens_per_second"] == 64 for point in log)
    assert [point["fraction"] for point in log] == pytest.approx([step / 12 for step in range(1, 13)])
    # Half the budget is warm-down: the rate of step k follows from the clock after step k - 1.
    rates = [0.02 * min(1.0, (1 - (step - 1) / 12) / 0.5) for step in range(1, 13)]
    assert [point["lr"] for point in log] == pytest.approx(rates)


def test_max_steps_end_the_run(tmp_path: Path) -> None:
    """The step limit ends a run before its clock does."""
    run, _ = run_it(tmp_path / "run", with_train(TINY, max_steps=3))
    assert points(run)[-1]["step"] == 3


def test_warm_up_leaves_no_trace(tmp_path: Path) -> None:
    """With or without warm-up steps the run is bitwise the same, generators included."""
    recipe = with_train(TINY, warmup_steps=3)
    state = TrainState.fresh(recipe, VOCAB)
    before = state.capture()
    warm_up(state, work_of(state, recipe), Clock(Ticks()), silent(tmp_path / "silent"))
    after = state.capture()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not state.optimizers.muon.state and not state.optimizers.adam.state
    assert all(parameter.grad is None for parameter in state.model.parameters())
    runs = [run_it(tmp_path / str(n), with_train(TINY, warmup_steps=n), clock=Clock(Ticks()))[1] for n in (0, 3)]
    assert_same(*runs)


def test_warm_up_restores_a_run_in_its_middle(tmp_path: Path) -> None:
    """Warm-up after some steps puts back optimizer states and the average as they were then."""
    state = TrainState.fresh(TINY, VOCAB)
    for _ in range(2):
        one_step(state, work_of(state), FULL_RATE)
    before = state.capture()
    assert any("momentum" in name for name in before)
    assert any("exp_avg_sq" in name for name in before)
    warm_up(state, work_of(state), Clock(Ticks()), silent(tmp_path / "silent"))
    after = state.capture()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("step", [0, 5, 11])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_and_resume_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    """A signal ends the step, saves and says how to go on; the resumed run equals an unbroken one, its log included."""
    recipe = with_train(TINY, warmup_steps=0)
    whole_run, whole = run_it(tmp_path / "whole", recipe)
    plain, losses = GPT.loss, itertools.count()

    def signals(model: GPT, inputs: torch.Tensor, targets: torch.Tensor, **form: object) -> torch.Tensor:
        if next(losses) == step:
            signal.raise_signal(number)
        return plain(model, inputs, targets, **form)

    monkeypatch.setattr(GPT, "loss", signals)
    with pytest.raises(TrainingStopped, match=f"stopped after step {step + 1} .*train --resume .*broken") as caught:
        run_it(tmp_path / "broken", recipe)
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    windows, clock = Counting(), Clock(Ticks())
    run, resumed = run_it(tmp_path / "broken", recipe, windows, clock)
    assert_same(whole, resumed)
    assert points(run) == points(whole_run)
    assert_asked(windows, range(step + 1, 12))
    assert clock.ledger[-1].seconds >= 12.0
    assert [entry.name for entry in clock.ledger] == ["warm-up", "warm-up", "train"]


def test_resume_after_a_kill_repeats_the_lost_steps(tmp_path: Path) -> None:
    """If the process dies between checkpoints, the run goes on from the last one and its log has no step twice."""

    class Dies(Counting):
        def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
            if step == 7:
                raise MemoryError("as good as a kill: nothing is saved on the way out")
            return super().batch(step, sequences)

    recipe = with_train(TINY, warmup_steps=0, checkpoint_seconds=3.0)
    whole_run, whole = run_it(tmp_path / "whole", recipe)
    with pytest.raises(MemoryError):
        run_it(tmp_path / "broken", recipe, Dies())
    partial = RunFolder.resume(tmp_path / "broken")
    assert points(partial)[-1]["step"] == 7
    partial.append_line("metrics.jsonl", '{"step": 8, "sec')
    windows = Counting()
    run, resumed = run_it(tmp_path / "broken", recipe, windows)
    assert_asked(windows, range(6, 12))
    assert_same(whole, resumed)
    assert points(run) == points(whole_run)


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """A run that was stopped after training returns the same weights at once, with its ledger and no new step."""
    _, weights = run_it(tmp_path / "run")
    windows, clock = Counting(), Clock(Ticks())
    _, again = run_it(tmp_path / "run", windows=windows, clock=clock)
    assert_same(weights, again)
    assert windows.asked == []
    assert [entry.name for entry in clock.ledger] == ["warm-up", "train"]


def test_micro_batches_give_the_same_step(tmp_path: Path) -> None:
    """Taking the batch in pieces, even uneven ones, changes the weights by rounding only."""
    _, whole = run_it(tmp_path / "whole", with_train(TINY, max_steps=3))
    _, pieces = run_it(tmp_path / "pieces", with_train(TINY, max_steps=3, micro_tokens=48))
    for name in whole:
        np.testing.assert_allclose(whole[name], pieces[name], rtol=0, atol=2e-5)


def test_other_recipe_or_vocabulary_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another recipe or vocabulary is refused with both values."""
    run, _ = run_it(tmp_path / "run", with_train(TINY, max_steps=1))
    with pytest.raises(RunError, match=f"made by recipe .*, this is tiny {TINY.fingerprint()}"):
        run_it(tmp_path / "run", TINY)
    with pytest.raises(RunError, match="vocabulary of 24, the data one of 25"):
        train(with_train(TINY, max_steps=1), Counting(), 25, run, Clock(Ticks()), SilentDisplay())


def test_batches_must_divide_over_ranks() -> None:
    """A batch that does not divide is refused with its numbers."""
    loss_of = TrainingLoss(TrainState.fresh(TINY, VOCAB).objective)
    assert Work(TINY, Counting(), loss_of, Ranks(0, 2)).sequences() == 2
    with pytest.raises(RecipeError, match=r"batch_tokens=64 is 4 sequences of train\.sequence=16, .* over 3 ranks"):
        Work(TINY, Counting(), loss_of, Ranks(0, 3)).sequences()


def test_clipping_bounds_the_gradient() -> None:
    """The gradient that the optimizers see has at most the recipe's global norm, and the reported norm is the whole."""
    tight = dataclasses.replace(TINY, optim=dataclasses.replace(TINY.optim, clip_norm=1e-3))
    state = TrainState.fresh(tight, VOCAB)
    seen: list[float] = []
    plain_step = state.optimizers.step

    def spy(lr_scale: float, momentum: float) -> None:
        norms = [p.grad.norm() for p in state.model.parameters() if p.grad is not None]
        seen.append(torch.stack(norms).norm().item())
        plain_step(lr_scale, momentum)

    state.optimizers.step = spy  # type: ignore[method-assign]  # to look inside one step
    result = one_step(state, work_of(state, tight), FULL_RATE)
    assert seen[0] == pytest.approx(1e-3, rel=1e-2)
    assert result.grad_norm > 0.01


def test_plain_display_speaks_every_ten_seconds(tmp_path: Path) -> None:
    """In a pipe there is a first line, one every ten seconds of the clock, and a last one, each with all figures."""
    recipe = dataclasses.replace(TINY, budget=BudgetRecipe(train_seconds=25.0))
    stream = io.StringIO()
    run = RunFolder.create(tmp_path / "run")
    train(recipe, Counting(), VOCAB, run, Clock(Ticks()), PlainDisplay(25.0, 12_345, stream))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/25", "11/25", "21/25", "25/25"]
    for line in lines:
        for word in ("loss", "tokens/s", "ETA", "12,345 bytes"):
            assert word in line
