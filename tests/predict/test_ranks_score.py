"""One score on any number of ranks: frames and test-time training are shared, the result is not changed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

OnRanks = Callable[..., list[Any]]
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


def score_on(ranks: Ranks, artifact: Artifact, adapt: str) -> Score:
    return score_text(artifact, TEXT, adapt, seed=5, evaluation=Evaluation(None, ranks))


@pytest.mark.parametrize(("adapt", "world"), [("none", 5), ("ttt", 2), ("ttt", 3), ("ttt-ngram", 2)])
def test_any_number_of_ranks_gives_the_score_of_one(on_ranks: OnRanks, adapt: str, world: int) -> None:
    """Bits agree to 1e-5, all ranks hold the same ones and audited the same places without an error."""
    artifact = make_artifact()
    alone = score_text(artifact, TEXT, adapt, seed=5)
    together = on_ranks(world, lambda ranks: score_on(ranks, artifact, adapt))
    for found in together:
        np.testing.assert_array_equal(found.bits, together[0].bits)
        assert found.audit == together[0].audit
    np.testing.assert_allclose(together[0].bits, alone.bits, atol=1e-5)
    assert together[0].audit.passed() and together[0].audit.max_causal_error == 0
    if adapt == "ttt":
        assert together[0].learning is not None and together[0].learning.updates == 5
        assert np.abs(alone.bits - score_text(artifact, TEXT, "none").bits).max() > 0.01


def test_lanes_share_their_frames_too(on_ranks: OnRanks) -> None:
    """Three lanes on two ranks are three lanes on one."""
    artifact = make_artifact(lanes=3)
    together = on_ranks(2, lambda ranks: score_on(ranks, artifact, "ttt"))[1]
    np.testing.assert_allclose(together.bits, score_text(artifact, TEXT, "ttt").bits, atol=1e-5)


def test_the_seed_of_the_audit_is_agreed_upon(on_ranks: OnRanks) -> None:
    """Without a given seed all ranks audit the same places: rank 0's random bits."""

    def seed(ranks: Ranks) -> int:
        return score_text(make_artifact(), TEXT, "none", evaluation=Evaluation(None, ranks)).audit.seed

    seeds = on_ranks(2, seed)
    assert seeds[0] == seeds[1] > 0


def test_the_clock_runs_out_on_all_ranks_at_once(on_ranks: OnRanks) -> None:
    """Rank 0's reading decides: every rank stops at the same chunk, none waits for another."""

    def message(ranks: Ranks) -> str:
        with pytest.raises(ScoreIncomplete) as caught:
            score_text(make_artifact(), TEXT, "ttt", evaluation=Evaluation(0.05, ranks, used=0.01))
        return str(caught.value)

    says = on_ranks(2, message)
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
