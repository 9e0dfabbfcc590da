"""The bench of the training step runs PR #2140's stages on a CPU, in a tiny size, so that a GPU finds it in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "train_step_gpu.py"


def run(*flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), "--system", "pr2140", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_without_a_gpu() -> None:
    """On a machine without a GPU it says so in one line, and what to do."""
    done = run()
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "no GPU here" in done.stderr and "--cpu-smoke" in done.stderr


@pytest.mark.slow
def test_every_stage_is_timed() -> None:
    """Each context and depth has its speed and its share of the clock, and the run's figure is their mean."""
    done = run("--cpu-smoke", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout)
    table = record["stages"]
    assert [(row["context"], row["looping"]) for row in table] == [(128, False), (256, True)]
    assert sum(row["share"] for row in table) == pytest.approx(1)
    assert table[0]["share"] == pytest.approx(0.35, abs=1e-3)
    mean = sum(row["share"] * row["tokens_per_second"] for row in table)
    assert record["tokens_per_second_of_the_run"] == pytest.approx(mean)
    assert record["ratio_to_published"] == pytest.approx(mean / (6.55e6 / 8))
    assert record["attention"] == "by-length"
    assert "plain" in record["mlp_alone"] and "largest" not in record
