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

from paramgolf.train.checkpoint import CHECKPOINT

# Each process trains on batches that depend on the step alone; steps last a fixed time of an injected clock.
PROGRAM = """
import itertools, sys, time
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
    def __init__(self, rank, pause): self.rank, self.pause = rank, pause
    def batch(self, step, sequences):
        time.sleep(self.pause)
        rng = np.random.default_rng(step)
        rows = np.cumsum(rng.integers(1, 3, size=(64, 17)), axis=1)[self.rank * sequences:][:sequences] % 20
        return rows[:, :-1].copy(), rows[:, 1:].copy()

recipe = Recipe("tiny", model=ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, mlp_ratio=2.0),
    train=TrainRecipe(sequence=16, batch_tokens=128, checkpoint_seconds=5.0), budget=BudgetRecipe(train_seconds=24.0))
path, pause = Path(sys.argv[1]), float(sys.argv[2])
with open_ranks() as ranks:
    # Rank 1's own clock runs wild: only the agreed readings of rank 0 may count.
    ticks = itertools.count(0, 1 + 97 * ranks.rank)
    clock = Clock(lambda: float(next(ticks)), ranks.agree)
    mine = path.with_name(f"{path.name}-{ranks.rank}")
    partial = mine.with_name(mine.name + ".partial")
    run = RunFolder.resume(mine) if partial.exists() else RunFolder.create(mine)
    try:
        weights = train(recipe, Drawn(ranks.rank, pause), 20, run, clock, SilentDisplay(), ranks)
    except ParamgolfError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    np.savez(run.path / "weights.npz", **weights)
"""


def start(path: Path, pause: float = 0.0, **variables: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), str(pause)],
        env={**clean, "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


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


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
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
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    path = tmp_path / "run"
    processes = [start(path, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for process in processes:
        finish(process)
    one, two = weights_of(whole), weights_of(path)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    with np.load(f"{path}-1.partial/weights.npz") as archive:
        assert all(archive[name].tobytes() == two[name].tobytes() for name in two)
    assert steps_logged(path) == list(range(1, 25))
    assert sorted(file.name for file in Path(f"{path}-1.partial").iterdir()) == ["weights.npz"]


def test_incomplete_torchrun_environment_is_refused(tmp_path: Path) -> None:
    """RANK without the rest names what is missing."""
    code = (
        "from paramgolf.ranks import open_ranks\n"
        "from paramgolf.errors import RunError\n"
        "try:\n    open_ranks().__enter__()\nexcept RunError as error:\n    print(error)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    done = subprocess.run([sys.executable, "-c", code], env={**clean, "RANK": "0"}, capture_output=True, text=True)
    assert "missing: WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in done.stdout, done.stderr
