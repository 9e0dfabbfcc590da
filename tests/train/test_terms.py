"""All parts of training at once: their forms change on time, resume bitwise, leave no trace, and agree over ranks."""

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from paramgolf.clock import Clock
from paramgolf.optim.schedule import StepSettings, settings_of, stages
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.train.batches import Piece
from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.loop import train
from paramgolf.train.notes import Notes
from paramgolf.train.objective import Objective
from paramgolf.train.progress import SilentDisplay
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, one_step, warm_up

Weights = dict[str, np.ndarray]


@pytest.fixture
def everything(tiny: Recipe, with_train, with_optim) -> Recipe:
    """Every part on; with steps of a second the scale falls from step 6 of 12 on, and the average teaches from 4."""
    recipe = with_train(
        tiny,
        future_heads=2,
        crown_weight=0.05,
        crown_below=0.6,
        distill_weight=0.5,
        distill_below=0.9,
        distill_every=3,
        micro_tokens=32,
    )
    return with_optim(recipe, ema_decay=0.75, grokfast=0.5, grokfast_decay=0.8, qat_below=0.3)


def ticking() -> Clock:
    counter = itertools.count()
    return Clock(lambda: float(next(counter)))


def run_it(path: Path, recipe: Recipe, windows: object) -> Weights:
    partial = path.with_name(f"{path.name}.partial")
    run = RunFolder.resume(path) if partial.exists() else RunFolder.create(path)
    return train(recipe, windows, 24, run, ticking(), SilentDisplay())  # type: ignore[arg-type]  # as train's


def same(one: Weights, other: Weights) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_each_part_changes_the_run(tiny, counting, with_train, with_optim, tmp_path: Path) -> None:
    """Every switch alone gives other weights than the plain run, and weights that are numbers."""
    plain = run_it(tmp_path / "plain", tiny, counting)
    parts = {
        "heads": with_train(tiny, future_heads=1),
        "crown": with_train(tiny, crown_weight=0.1, crown_below=0.9),
        "distil": with_optim(with_train(tiny, distill_weight=0.5, distill_below=0.9), ema_decay=0.75),
        "grokfast": with_optim(tiny, grokfast=0.5),
        "rounding": with_optim(tiny, qat_below=0.5),
    }
    for name, recipe in parts.items():
        weights = run_it(tmp_path / name, recipe, counting)
        assert set(weights) == set(plain), name
        assert not same(weights, plain), name
        assert all(np.isfinite(value).all() for value in weights.values()), name


@pytest.mark.parametrize("step", [2, 8, 11])
def test_resume_is_bitwise(everything, counting, tmp_path: Path, step: int) -> None:
    """A run with every part that dies and goes on from its checkpoint ends with the bits of an unbroken one."""

    class Dies:
        def batch(self, asked: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
            if asked == step:
                raise MemoryError("nothing is saved on the way out")
            return counting.batch(asked, sequences)

    recipe = dataclasses.replace(everything, train=dataclasses.replace(everything.train, checkpoint_seconds=1.0))
    whole = run_it(tmp_path / "whole", recipe, counting)
    with pytest.raises(MemoryError):
        run_it(tmp_path / "broken", recipe, Dies())
    saved, _ = load_checkpoint(tmp_path / "broken.partial" / CHECKPOINT)
    assert saved["counts"].tolist() == [step, step]
    assert any(name.startswith("grokfast/banks.") for name in saved) and "grokfast/future.weight" in saved
    assert "adam/future.weight/exp_avg" in saved
    assert any(name.startswith("teacher/") for name in saved) == (step > 7)
    assert same(whole, run_it(tmp_path / "broken", recipe, counting))
    ends = [load_checkpoint(tmp_path / f"{name}.partial" / CHECKPOINT)[0] for name in ("whole", "broken")]
    assert set(ends[0]) == set(ends[1])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_warm_up_leaves_no_trace(everything, counting, tmp_path: Path) -> None:
    """Warm-up of every form puts back heads, means, moments and the teacher, at the start and later in a run."""
    recipe = dataclasses.replace(everything, train=dataclasses.replace(everything.train, warmup_steps=1))
    state = TrainState.fresh(recipe, 24)
    work = Work(recipe, counting, TrainingLoss(state.objective), Ranks())
    notes = Notes(RunFolder.create(tmp_path / "notes"), SilentDisplay(), leads=True)
    for _ in range(2):
        before = state.capture()
        warm_up(state, work, ticking(), notes)
        after = state.capture()
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.grad is None for p in state.learnt().values())
        for _ in range(5):
            one_step(state, work, stages(recipe)[-1])
        assert state.objective.teacher is not None and state.objective.teacher.taught


def test_warm_up_runs_every_form_that_training_uses(
    everything, counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step on the clock asks for a form of the loss that warm-up has not run, so none compiles there."""
    asked: list[tuple[int, bool]] = []
    penalties: list[int] = []
    plain, crown = Objective.losses, Objective.add_crown_gradient

    def spy(objective, inputs, targets, quantise_bits, distils, *more):  # type: ignore[no-untyped-def]  # as losses
        asked.append((quantise_bits, distils))
        return plain(objective, inputs, targets, quantise_bits, distils, *more)

    def spy_crown(objective: Objective) -> None:
        penalties.append(len(asked))
        crown(objective)

    monkeypatch.setattr(Objective, "losses", spy)
    monkeypatch.setattr(Objective, "add_crown_gradient", spy_crown)
    run_it(tmp_path / "cold", everything, counting)
    used = asked[::2]
    # The scale before step k of 12 is 1 up to the sixth second, then (12 - k) / 6; each step has two pieces.
    assert used == [(0, False)] * 7 + [(0, True)] * 4 + [(6, True)]
    assert [count // 2 for count in penalties] == [10, 11, 12]  # below 0.6: steps 9, 10, 11
    asked.clear()
    recipe = dataclasses.replace(everything, train=dataclasses.replace(everything.train, warmup_steps=1, max_steps=1))
    run_it(tmp_path / "warm", recipe, counting)
    assert set(used) <= set(asked[:-2])


def test_routers_pull_without_being_reported(tiny, counting) -> None:
    """With routed layers the step minimises the model's own loss, pull included, and reports the next token alone."""
    recipe = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, routed_layers=(1,), routed_share=0.25))
    state = TrainState.fresh(recipe, 24)
    inputs, targets = (torch.from_numpy(x) for x in counting.batch(0, 4))
    losses = TrainingLoss(state.objective)(Piece(inputs, targets), StepSettings(1.0, 0.9))
    assert losses.total.item() == pytest.approx(state.model.loss(inputs, targets).item(), rel=1e-6)
    assert losses.next_token.item() == pytest.approx(state.model.eval().loss(inputs, targets).item(), rel=1e-6)
    assert losses.total.item() > losses.next_token.item()


def test_stages_list_every_form(everything: Recipe) -> None:
    """Whatever the scale, the form of a step is a stage, also without its teacher; a plain recipe has one form."""
    known = {(s.quantise_bits, s.crown, s.distils) for s in stages(everything)}
    for seconds in np.linspace(0, 12, 500):
        form = settings_of(everything, 3, float(seconds))
        assert (form.quantise_bits, form.crown, form.distils) in known
        assert (form.quantise_bits, form.crown, False) in known
    assert len(known) == len(stages(everything))
    plain = Recipe("plain")
    assert stages(plain) == (settings_of(plain, 0, 0.0),)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of our Functions
@pytest.mark.parametrize("distils", [False, True])
def test_all_terms_are_one_graph(everything, counting, distils: bool) -> None:
    """The composed loss traces without a break, teacher included, and a new copy of the teacher needs no new graph."""
    torch.compiler.reset()
    state = TrainState.fresh(everything, 24)
    work = Work(everything, counting, TrainingLoss(state.objective), Ranks())
    for _ in range(6):
        one_step(state, work, stages(everything)[-1])
    graphs: list[int] = []

    def backend(graph, inputs):  # type: ignore[no-untyped-def]  # as Dynamo calls it
        graphs.append(1)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    compiled = torch.compile(state.objective.losses, backend=backend, fullgraph=True, dynamic=False)
    inputs, targets = (torch.from_numpy(x) for x in counting.batch(0, 4))
    teacher = state.objective.teacher
    assert teacher is not None
    for copy in range(2):
        found = []
        for losses_of in (compiled, state.objective.losses):
            losses = losses_of(inputs, targets, 6, distils)
            losses[0].backward()
            found.append([losses[0].detach(), losses[1], *(p.grad.clone() for p in state.learnt().values())])
            state.objective.zero_grad()
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        teacher.copy(state.weights() if copy else state.average.weights())
    assert graphs == [1]


PROGRAM = """
import itertools, sys
import numpy as np
from pathlib import Path
from paramgolf.clock import Clock
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.ranks import open_ranks
from paramgolf.train.loop import train
from paramgolf.train.progress import SilentDisplay

class Drawn:
    def __init__(self, rank): self.rank = rank
    def batch(self, step, sequences):
        rng = np.random.default_rng(step)
        rows = np.cumsum(rng.integers(1, 3, size=(64, 17)), axis=1)[self.rank * sequences:][:sequences] % 20
        return rows[:, :-1].copy(), rows[:, 1:].copy()

with open_ranks(120.0) as ranks:
    ticks = itertools.count(0, 1 + 97 * ranks.rank)
    run = RunFolder.create(Path(f"{sys.argv[1]}-{ranks.rank}"))
    recipe = Recipe.from_json(Path(sys.argv[2]).read_text())
    clock = Clock(lambda: float(next(ticks)), ranks.agree)
    weights = train(recipe, Drawn(ranks.rank), 20, run, clock, SilentDisplay(), ranks)
    np.savez(f"{sys.argv[1]}-{ranks.rank}.npz", **weights)
"""


@pytest.mark.slow
def test_two_ranks_equal_one(everything: Recipe, tmp_path: Path) -> None:
    """With every part on, two gloo ranks agree bitwise, and with one rank to rounding."""
    (tmp_path / "recipe.json").write_text(everything.to_json())
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    starts = [("one", {})] + [("two", {**group, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / name), str(tmp_path / "recipe.json")],
            env={**clean, "OMP_NUM_THREADS": "1", **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, variables in starts
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    one, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("one-0", "two-0", "two-1"))
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], one[name], rtol=0, atol=2e-4, err_msg=name)
    log = (tmp_path / "two-0.partial" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 13))
