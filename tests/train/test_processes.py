"""Real processes: killed and interrupted runs go on, and two ranks train what one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

# Each process trains on batches that depend on the step alone; steps last a fixed time of an injected clock.
PROGRAM = """
import itertools, json, os, signal, sys, time
import numpy as np
from pathlib import Path
from paramgolf.clock import Clock
from paramgolf.errors import ParamgolfError
from paramgolf.recipe import BudgetRecipe, ModelRecipe, Recipe, TrainRecipe
from paramgolf.run_folder import RunFolder
from paramgolf.ranks import open_ranks
from paramgolf.train.loop import train
from paramgolf.train.progress import SilentDisplay

class Drawn:
    def __init__(self, rank, pause, dies_at): self.rank, self.pause, self.dies_at = rank, pause, dies_at
    def batch(self, step, sequences):
        time.sleep(self.pause)
        if step == self.dies_at: os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(step)
        rows = np.cumsum(rng.integers(1, 3, size=(64, 17)), axis=1)[self.rank * sequences:][:sequences] % 20
        return rows[:, :-1].copy(), rows[:, 1:].copy()

recipe = Recipe("tiny", model=ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, mlp_ratio=2.0),
    train=TrainRecipe(sequence=16, batch_tokens=192, checkpoint_seconds=5.0), budget=BudgetRecipe(train_seconds=24.0))
path, options = Path(sys.argv[1]), json.loads(sys.argv[2])
with open_ranks(options["timeout"]) as ranks:
    # Rank 1's own clock runs wild: only the agreed readings of rank 0 may count.
    ticks = itertools.count(0, 1 + 97 * ranks.rank)
    clock = Clock(lambda: float(next(ticks)), ranks.agree)
    mine = path.with_name(f"{path.name}-{0 if options['shared'] else ranks.rank}")
    partial = mine.with_name(mine.name + ".partial")
    if ranks.rank and options["shared"]:
        run = RunFolder(mine, finished=False)
    else:
        run = RunFolder.resume(mine) if partial.exists() else RunFolder.create(mine)
    windows = Drawn(ranks.rank, options["pause"], options["dies_at"] if ranks.rank == options["victim"] else -1)
    try:
        weights = train(recipe, windows, 20, run, clock, SilentDisplay(), ranks)
    except ParamgolfError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    np.savez(run.path / f"weights{ranks.rank if options['shared'] else ''}.npz", **weights)
"""
OPTIONS = {"pause": 0.0, "timeout": 120.0, "shared": False, "victim": -1, "dies_at": -1}


def start(path: Path, variables: dict[str, str] | None = None, **options: float) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), json.dumps({**OPTIONS, **options})],
        env={**clean, "OMP_NUM_THREADS": "1", **(variables or {})},
        stderr=subprocess.PIPE,
        text=True,
    )


def start_ranks(path: Path, world: int, **options: float) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [start(path, variables, **options) for variables in ranks]


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def weights_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(f"{path}-0.partial/weights.npz") as archive:
        return {name: archive[name] for name in archive.files}


def wait_for_steps(path: Path, steps: int) -> None:
    metrics = Path(f"{path}-0.partial/metrics.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            return
        time.sleep(0.02)
    pytest.fail(f"no {steps} steps within a minute")


def steps_logged(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in Path(f"{path}-0.partial/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "run"
    finish(start(path))
    assert steps_logged(path) == list(range(1, 25))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_process_goes_on(tmp_path: Path, whole: Path, number: int) -> None:
    """After SIGKILL or SIGINT in the middle, running again ends with bitwise the weights of an undisturbed process."""
    path = tmp_path / "run"
    process = start(path, pause=0.05)
    wait_for_steps(path, 12)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "continue with: paramgolf train --resume" in errors
    else:
        assert process.returncode == -signal.SIGKILL
    assert Path(f"{path}-0.partial", CHECKPOINT).exists()
    finish(start(path))
    one, other = weights_of(whole), weights_of(path)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert steps_logged(path) == list(range(1, 25))


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path, whole: Path) -> None:
    """Two gloo ranks of half a batch agree on the clock and give one rank's weights to rounding; only rank 0 writes."""
    path = tmp_path / "run"
    processes = start_ranks(path, 2)
    for process in processes:
        finish(process)
    one, two = weights_of(whole), weights_of(path)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    with np.load(f"{path}-1.partial/weights.npz") as archive:
        assert all(archive[name].tobytes() == two[name].tobytes() for name in two)
    assert steps_logged(path) == list(range(1, 25))
    assert sorted(file.name for file in Path(f"{path}-1.partial").iterdir()) == ["weights.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_rank_ends_the_others(tmp_path: Path, whole: Path, victim: int) -> None:
    """When one of three ranks is killed, the others stop within seconds, with one line; another number goes on."""
    path = tmp_path / "run"
    processes = start_ranks(path, 3, shared=True, victim=victim, dies_at=13)
    processes[victim].communicate(timeout=120)
    assert processes[victim].returncode == -signal.SIGKILL
    killed = time.monotonic()
    for rank, process in enumerate(processes):
        if rank != victim:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2, errors
            assert errors.count("\n") == 1, errors
            assert f"rank {rank} of 3 lost the others: " in errors
            assert "step 10 is saved; continue with: paramgolf train --resume" in errors
    assert time.monotonic() - killed < 60
    assert load_checkpoint(Path(f"{path}-0.partial", CHECKPOINT))[0]["counts"].tolist() == [10, 10]
    if victim == 0:
        finish(start(path))
    else:
        for process in start_ranks(path, 2, shared=True):
            finish(process)
        Path(f"{path}-0.partial/weights0.npz").rename(f"{path}-0.partial/weights.npz")
    one, other = weights_of(whole), weights_of(path)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    assert steps_logged(path) == list(range(1, 25))


@pytest.mark.slow
def test_a_silent_rank_ends_the_others(tmp_path: Path) -> None:
    """A rank that hangs without dying ends the other one after the time that collectives may take."""
    path = tmp_path / "run"
    processes = start_ranks(path, 2, pause=0.05, timeout=10.0)
    wait_for_steps(path, 6)
    processes[1].send_signal(signal.SIGSTOP)
    try:
        _, errors = processes[0].communicate(timeout=90)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode == 2
    assert "rank 0 of 2 lost the others: " in errors


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_dies(tmp_path: Path) -> None:
    """Under torchrun a killed rank ends the whole launch with a status that is not 0; the checkpoint is whole."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    path = tmp_path / "run"
    options = json.dumps({**OPTIONS, "shared": True, "victim": 1, "dies_at": 13})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(program), str(path), options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode != 0
    assert "rank 0 of 2 lost the others: " in done.stderr or "Signal 9 (SIGKILL)" in done.stderr
    assert load_checkpoint(Path(f"{path}-0.partial", CHECKPOINT))[0]["counts"].tolist() == [10, 10]


@pytest.mark.slow
def test_a_checkpoint_that_one_rank_cannot_see_is_refused(tmp_path: Path) -> None:
    """When rank 0 resumes and rank 1 finds nothing, rank 1 says so and rank 0 ends too."""
    path = tmp_path / "run"
    process = start(path, dies_at=13, victim=0)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    first, second = start_ranks(path, 2)
    errors = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 2
    assert "rank 1 finds no checkpoint in" in errors[1]
    assert "rank 0 a checkpoint of step 10; all ranks must see one folder" in errors[1]
    assert "rank 0 of 2 lost the others: " in errors[0]
