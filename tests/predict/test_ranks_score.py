"""One score on any number of ranks: frames and test-time training are shared, the result is not changed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.pack import pack
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.evaluation import Evaluation
from paramgolf.predict.score import Score, ScoreIncomplete
from paramgolf.predict.score_text import score_text
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.text import HeldOutText

pytestmark = pytest.mark.slow

TOKENIZER = ByteTokenizer()
MODEL = ModelRecipe(layers=2, width=16, heads=2, kv_heads=1, block_scales=True)
# Two sequences for each update: fewer than three ranks.
SCORE = ScoreRecipe(
    window=32,
    stride=8,
    chunk=64,
    ttt_chunk=64,
    ttt_optimizer="sgd",
    ttt_lr=0.05,
    ttt_schedule="cosine",
    ttt_epochs=3,
    ttt_sequences=32,
    ngram_order=3,
)
TEXT = HeldOutText("held", [b"some words that come again, " * 6, b"", b"and other words that come again. " * 5])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_artifact(**changed: object) -> Artifact:
    rng = np.random.default_rng(3)
    weights = {
        name: rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in tensor_shapes(MODEL, TOKENIZER.vocab_size).items()
    }
    score = dataclasses.replace(SCORE, **changed)
    return Artifact(
        Recipe("tiny", TokenizerRecipe("bytes", TOKENIZER.vocab_size), MODEL, score=score), TOKENIZER, weights
    )


class Meeting:
    """Where the threads that play ranks exchange values."""

    def __init__(self, world: int) -> None:
        self.values: list[object] = [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def exchange(self, rank: int, value: object) -> list[object]:
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


@dataclasses.dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads; a collective that not all of them enter times out."""

    meeting: Meeting | None = None

    def agree(self, value: float) -> float:
        return float(self.meeting.exchange(self.rank, value)[0])

    def add(self, tensor: Tensor) -> Tensor:
        parts = self.meeting.exchange(self.rank, tensor.clone())
        assert len({part.shape for part in parts}) == 1
        return tensor.copy_(sum(parts[1:], parts[0]))


def scores(artifact: Artifact, world: int, adapt: str, limit: float | None = None) -> list[Score]:
    meeting = Meeting(world)

    def of_rank(rank: int) -> Score:
        ranks = ThreadRanks(rank, world, torch.device("cpu"), meeting)
        return score_text(artifact, TEXT, adapt, seed=5, evaluation=Evaluation(limit, ranks))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(of_rank, range(world)))


@pytest.mark.parametrize(("adapt", "world"), [("none", 5), ("ttt", 2), ("ttt", 3), ("ttt-ngram", 2)])
def test_any_number_of_ranks_gives_the_score_of_one(adapt: str, world: int) -> None:
    """Bits agree to 1e-5, all ranks hold the same ones and audited the same places without an error."""
    artifact = make_artifact()
    alone = score_text(artifact, TEXT, adapt, seed=5)
    together = scores(artifact, world, adapt)
    for found in together:
        np.testing.assert_array_equal(found.bits, together[0].bits)
        assert found.audit == together[0].audit
    np.testing.assert_allclose(together[0].bits, alone.bits, atol=1e-5)
    assert together[0].audit.passed() and together[0].audit.max_causal_error == 0
    if adapt == "ttt":
        assert together[0].learning is not None and together[0].learning.updates == 5
        assert np.abs(alone.bits - score_text(artifact, TEXT, "none").bits).max() > 0.01


def test_lanes_share_their_frames_too() -> None:
    """Three lanes on two ranks are three lanes on one."""
    artifact = make_artifact(lanes=3)
    together = scores(artifact, 2, "ttt")[1]
    np.testing.assert_allclose(together.bits, score_text(artifact, TEXT, "ttt").bits, atol=1e-5)


def test_the_seed_of_the_audit_is_agreed_upon() -> None:
    """Without a given seed all ranks audit the same places: rank 0's random bits."""
    meeting = Meeting(2)

    def of_rank(rank: int) -> int:
        ranks = ThreadRanks(rank, 2, torch.device("cpu"), meeting)
        return score_text(make_artifact(), TEXT, "none", evaluation=Evaluation(None, ranks)).audit.seed

    with ThreadPoolExecutor(2) as pool:
        seeds = list(pool.map(of_rank, range(2)))
    assert seeds[0] == seeds[1] > 0


def test_the_clock_runs_out_on_all_ranks_at_once() -> None:
    """Rank 0's reading decides: every rank stops at the same chunk, none waits for another."""
    meeting = Meeting(2)

    def of_rank(rank: int) -> str:
        ranks = ThreadRanks(rank, 2, torch.device("cpu"), meeting)
        with pytest.raises(ScoreIncomplete) as caught:
            score_text(make_artifact(), TEXT, "ttt", evaluation=Evaluation(0.05, ranks, used=0.01))
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        says = list(pool.map(of_rank, range(2)))
    assert says[0] == says[1]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_torchrun_scores_as_one_process_does(tmp_path: Path, world: int) -> None:
    """Gloo processes under torchrun: one speaks and writes, and its bits are those of one process to 1e-5."""
    made = make_artifact()
    recipe = dataclasses.replace(made.recipe, train=dataclasses.replace(made.recipe.train, sequence=32))
    pack(recipe, TOKENIZER, made.weights, [], tmp_path / "model.pyz")
    (tmp_path / "text.txt").write_bytes(b"".join(TEXT.documents))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(world), "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "localhost:0", "-m", "paramgolf"]
    words = ["score", str(tmp_path / "model.pyz"), str(tmp_path / "text.txt"), "--adapt", "ttt", "--json", "--out"]
    for runner, out in (([sys.executable, "-m", "paramgolf"], "one"), (command, "many")):
        done = subprocess.run([*runner, *words, str(tmp_path / out)], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(lines) == 1
        assert {entry["name"] for entry in json.loads(lines[0])["ledger"]} >= {"evaluation: open", "evaluation: score"}
    bits = [np.load(tmp_path / out / "bits.npz")["bits"] for out in ("one", "many")]
    np.testing.assert_allclose(bits[1], bits[0], atol=1e-5)
