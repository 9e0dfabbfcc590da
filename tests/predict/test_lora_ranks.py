"""LoRA test-time training and its global phase on several ranks: lanes are shared, the result is that of one."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramgolf.clock import Phase
from paramgolf.model.gpt import GPT
from paramgolf.predict.lora import LoraPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.score import Score, score
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = """
import sys
import numpy as np
import torch
from paramgolf.clock import Phase
from paramgolf.model.gpt import GPT
from paramgolf.predict import global_phase, lora
from paramgolf.predict.plan import plan
from paramgolf.predict.score import score
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import RankLost, open_ranks
from paramgolf.recipe import ModelRecipe, ScoreRecipe

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
model = GPT(ModelRecipe(layers=2, width=16, heads=2, kv_heads=1), 30)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
recipe = ScoreRecipe(
    window=16, stride=8, chunk=12, lora_rank=2, lora_chunks=(6,), lora_lr=1e-3, global_documents=4, global_chunk=30
)
documents = [np.random.default_rng(n).integers(2, 9, n) for n in (10, 40, 3, 25, 6, 17, 30)]
with open_ranks(60.0) as ranks:
    if ranks.rank == 1 and sys.argv[2] == "dies":
        global_phase.add_up_gradients = lambda *given: sys.exit(9)
    predictor = lora.LoraPredictor(WindowPredictor(model, recipe, 30, 1, 3, ranks=ranks))
    order = plan([len(d) for d in documents], lanes=3, chunk=12)
    try:
        phase = Phase("score", True, None, 0.0, lambda: 0.0)
        given = {"raw_bytes": 99, "text_digest": "x", "seed": 3, "audit_positions": 4}
        found = score(predictor, documents, order, 1, phase=phase, **given)
    except RankLost as error:
        print("LOST", error)
        raise SystemExit(1)
    assert found.audit.passed()
    np.save(f"{sys.argv[1]}/{ranks.rank}of{ranks.world}.npy", found.bits)
"""
OnRanks = Callable[..., list[Any]]
V, BOUNDARY = 30, 1
MODEL = ModelRecipe(layers=2, width=16, heads=2, kv_heads=1)
SCORE = ScoreRecipe(
    window=16, stride=8, chunk=12, lora_rank=2, lora_chunks=(6,), lora_lr=1e-3, global_documents=4, global_chunk=30
)
DOCUMENTS = [np.random.default_rng(n).integers(2, 9, n) for n in (10, 26, 3, 13, 6, 18)]


def score_on(ranks: Ranks, lanes: int, recipe: ScoreRecipe = SCORE) -> Score:
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    predictor = LoraPredictor(WindowPredictor(model, recipe, V, BOUNDARY, lanes, ranks=ranks))
    order = plan([len(d) for d in DOCUMENTS], lanes=lanes, chunk=recipe.chunk)
    phase = Phase("score", True, None, 0.0, lambda: 0.0)  # one clock of all ranks, as `Evaluation` gives them
    given = {"raw_bytes": 99, "text_digest": "x", "seed": 3, "audit_positions": 2}
    return score(predictor, DOCUMENTS, order, BOUNDARY, phase=phase, **given)


@pytest.mark.parametrize(
    ("world", "lanes", "keeps_inner"),
    [(2, 3, True), (3, 2, False), pytest.param(2, 1, False, marks=pytest.mark.slow)],
)
def test_any_number_of_ranks_gives_the_score_of_one(
    on_ranks: OnRanks, world: int, lanes: int, keeps_inner: bool
) -> None:
    """Also with more ranks than lanes: all hold the same bits and counts, those of one rank to 1e-4."""
    recipe = dataclasses.replace(SCORE, lora_keeps_inner=keeps_inner)
    alone = score_on(Ranks(), lanes, recipe)
    found = on_ranks(world, lambda ranks: score_on(ranks, lanes, recipe))
    for of_rank in found:
        np.testing.assert_array_equal(of_rank.bits, found[0].bits)
        assert of_rank.learning.updates == alone.learning.updates > 10
        assert of_rank.audit.passed() and of_rank.audit.max_causal_error == 0
    np.testing.assert_allclose(found[0].bits, alone.bits, atol=1e-4)


def test_all_ranks_hear_of_a_lane_that_broke(on_ranks: OnRanks) -> None:
    """The record is the same on every rank, whoever has the lane."""
    recipe = dataclasses.replace(SCORE, lora_alpha=1e38, global_documents=0)
    found = on_ranks(2, lambda ranks: score_on(ranks, 3, recipe))
    assert found[0].learning.stopped == found[1].learning.stopped
    assert "lane 0" in found[0].learning.stopped and found[1].learning.updates == 0


def run_processes(folder: Path, world: int, how: str) -> list[subprocess.CompletedProcess[str]]:
    (folder / "rank.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(world):
        given = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        command = [sys.executable, str(folder / "rank.py"), str(folder), how]
        environment = os.environ | given | place
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    says = [process.communicate(timeout=240)[0] for process in started]
    return [subprocess.CompletedProcess([], process.returncode, said) for process, said in zip(started, says)]


@pytest.mark.slow
def test_gloo_processes_score_as_one_does(tmp_path: Path) -> None:
    """Two processes end with the same bits, those of one process to 1e-4."""
    for world in (1, 2):
        for done in run_processes(tmp_path, world, "lives"):
            assert done.returncode == 0, done.stdout[-3000:]
    one, first, second = (np.load(tmp_path / f"{name}.npy") for name in ("0of1", "0of2", "1of2"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, one, atol=1e-4)


@pytest.mark.slow
def test_a_rank_that_dies_in_the_global_phase_is_a_message(tmp_path: Path) -> None:
    """The rank that is left ends with one line that says that it lost the other; there is no score."""
    left, died = run_processes(tmp_path, 2, "dies")
    assert died.returncode == 9
    assert left.returncode == 1 and "LOST rank 0 of 2 lost the others: " in left.stdout
    assert not list(tmp_path.glob("*.npy"))
