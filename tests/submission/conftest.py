"""Runs as their files tell them, made up with the published numbers of #549 (spec pr549.md, section 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paramgolf.clock import Entry
from paramgolf.recipe import ModelRecipe, Recipe
from paramgolf.submission.scored_run import ScoredRun

TOKENS, BYTES = 62_023_616, 151_084_796  # the published evaluation, its duplicated tail included
PUBLISHED = {  # seed: steps, training ms, val_loss, val_bpb, model bytes, evaluation ms
    1337: (7_179, 600_128, 1.88976776, 1.11922988, 15_887_928, 410_268),
    42: (7_182, 600_128, 1.89110239, 1.12002032, 15_787_052, 408_049),
    2025: (7_193, 600_110, 1.88919190, 1.11888882, 15_900_548, 407_984),
}
RECIPE = Recipe("pr549", model=ModelRecipe(layers=11, width=512, heads=8, kv_heads=4))


def _finding(rule: str, says: str) -> dict[str, Any]:
    return {"rule": rule, "status": "PASS", "says": says, "numbers": {}}


def _published_run(seed: int, folder: Path) -> ScoredRun:
    steps, train_ms, loss, bpb, size, eval_ms = PUBLISHED[seed]
    text = {"name": "validation", "digest": "d" * 64}
    score = {
        "bpb": bpb,
        "nats_per_token": loss,
        "bytes": BYTES,
        "tokens": TOKENS,
        "documents": 50_000,
        "seconds": eval_ms / 1000,
        "text": text,
        "adapt": "ttt",
        "documents_not_lossless": 17,
    }
    environment = {
        "commit": "abc123",
        "python": "3.11.9",
        "versions": {"torch": "2.9.1", "numpy": "2.1.0", "brotli": None},
        "cpu": "Some CPU",
        "cores": 64,
        "gpus": ["H100"] * 8,
        "cuda": "12.8",
        "device": "cuda:0",
        "ranks": 8,
        "train_text": {"name": "web", "digest": "e" * 64, "documents": 9, "bytes": 1234},
        "tokenizer_digest": "f" * 64,
        "started": f"2026-03-2{len(str(seed))}T10:00:00Z",
    }
    metrics = (
        {"step": 1, "seconds": 0.0836, "loss": 6.9322, "tokens_per_second": 9_400_000.0},
        {"step": steps, "seconds": train_ms / 1000, "loss": 1.79},
    )
    return ScoredRun(
        folder=folder,
        recipe=dataclasses.replace(RECIPE, seed=seed),
        environment=environment,
        metrics=metrics,
        log=("10:00:01 trained for a while", "swa:start step:6500"),
        ledger=(Entry("warm-up", False, 0.0, 3.0), Entry("train", True, 3.0, train_ms / 1000, 600.0)),
        score=score,
        verdict={"legal": True, "ruleset": "parameter-golf-2026-04", "findings": [_finding("size", "a | b <c>")]},
        artifact_bytes=size,
        tokenizer_bytes=254_000,
        source_bytes=110_000,
    )


@pytest.fixture
def published(tmp_path: Path) -> Callable[[int], ScoredRun]:
    """A run of one published seed, with a model file of a few bytes."""

    def make(seed: int) -> ScoredRun:
        folder = tmp_path / f"run{seed}"
        folder.mkdir(exist_ok=True)
        (folder / "model.pyz").write_bytes(b"model of %d" % seed)
        return _published_run(seed, folder)

    return make
