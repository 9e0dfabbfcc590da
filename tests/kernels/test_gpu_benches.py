"""The benches that wait for a GPU run through on a CPU, in a tiny size, so that they work when one is there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCH / script), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def train_bench() -> ModuleType:
    """bench/train_step_gpu.py as a module."""
    sys.path.insert(0, str(BENCH))
    try:
        specification = importlib.util.spec_from_file_location("train_step_gpu", BENCH / "train_step_gpu.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH))
    return module


@given(limit=st.integers(1, 400), share=st.floats(0.01, 1.0), guess=st.integers(0, 800))
def test_largest_is_the_largest(train_bench: ModuleType, limit: int, share: float, guess: int) -> None:
    """The search ends at a size that fits, within a sixteenth of the limit, and asks about each size once."""
    asked = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = train_bench.largest(fits, max(1, int(share * limit)), guess)
    assert found <= limit <= found + max(1, found // 16)
    assert len(asked) == len(set(asked)) <= 24


@pytest.mark.parametrize("script", ["train_step_gpu.py", "ttt_gpu.py"])
def test_without_a_gpu(script: str) -> None:
    """On a machine without a GPU it says so in one line, and what to do."""
    done = run(script)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "--cpu-smoke" in done.stderr


@pytest.mark.slow
def test_train_bench_runs() -> None:
    """Every figure of the training bench comes out of a tiny run, and the record is JSON."""
    done = run("train_step_gpu.py", "--cpu-smoke", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout)
    assert record["tokens_per_second"] == pytest.approx(record["micro_batch_tokens"] / record["step_ms"] * 1e3)
    assert record["ratio_to_published"] == pytest.approx(record["tokens_per_second"] / 1.18e6)
    assert 0 < record["mfu_of_measured_product"] < 1
    assert record["largest"]["sequences"] == 3
    assert record["attention"] == "sdpa"
    assert {"ours: sdpa", "torch: flash_attention"} <= set(record["attention_alone"])


@pytest.mark.slow
def test_ttt_bench_runs() -> None:
    """Every figure of the test-time training bench comes out of a tiny run."""
    done = run("ttt_gpu.py", "--cpu-smoke", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout)
    assert record["frames"] * 64 == record["chunk_tokens"]
    assert set(record["ways"]) == {"eager", "predictor"}
    for way in record["ways"].values():
        assert way["times_published_speed"] == pytest.approx(1.728 / way["chunk_seconds"])
