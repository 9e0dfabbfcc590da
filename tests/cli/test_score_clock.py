"""`paramgolf score` and its clock: the ledger of a score, and what is left when the time runs out."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramgolf.artifact.pack import pack
from paramgolf.cli import main
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import BudgetRecipe, ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.slow

Captured = pytest.CaptureFixture[str]
TOKENIZER = ByteTokenizer()
MODEL = ModelRecipe(layers=1, width=16, heads=2, kv_heads=1)
SCORE = ScoreRecipe(window=32, stride=16, chunk=64, ttt_chunk=128, adapt="ttt")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact and a text."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(MODEL, TOKENIZER.vocab_size)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    tokenizer = TokenizerRecipe("bytes", TOKENIZER.vocab_size)
    recipe = Recipe("tiny", tokenizer, MODEL, score=SCORE, budget=BudgetRecipe(eval_seconds=500.0))
    pack(recipe, TOKENIZER, weights, [], home / "model.pyz")
    (home / "text.txt").write_bytes(b"a text that says a text. " * 40)
    return home


def called(capsys: Captured, *words: str | Path) -> tuple[int, dict[str, Any], str]:
    status = main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out.splitlines()[-1]), captured.err


def test_a_score_shows_where_its_time_went(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Every phase is on the clock and within the recipe's limit; audit and training are parts of the scoring."""
    status, record, shown = called(capsys, "score", home / "model.pyz", home / "text.txt", "--out", tmp_path / "out")
    assert status == 0
    phases = {entry["name"]: entry for entry in record["ledger"]}
    assert list(phases) == [f"evaluation: {name}" for name in ("open", "tokenise", "build predictor", "score")]
    assert all(entry["on_clock"] for entry in phases.values())
    assert 0 < phases["evaluation: score"]["limit"] < 500
    parts = record["audit_seconds"] + record["learning"]["seconds"]
    assert 0 < parts <= phases["evaluation: score"]["seconds"]
    assert record["learning"]["updates"] == 7 and record["learning"]["stopped"] == ""
    assert "test-time training" in shown and "in 7 updates" in shown
    kept = json.loads((tmp_path / "out" / "score.json").read_text())
    assert kept["ledger"] == record["ledger"]


def test_a_run_gets_the_phases_into_its_ledger(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """The run's own phases stay first, and the rule about time sees how long the evaluation took."""
    trained = {"name": "train", "on_clock": True, "start": 0.0, "seconds": 3.0, "limit": 600.0}
    (tmp_path / "ledger.json").write_text(json.dumps([trained]))
    status, record, _ = called(capsys, "score", home / "model.pyz", home / "text.txt", "--out", tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert status == 0 and ledger == [trained, *record["ledger"]]


def test_time_that_runs_out_is_no_score(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """Exit 1, one line with the next step, all usual keys empty, and what was measured in score.partial.json alone."""
    words = ["score", home / "model.pyz", home / "text.txt", "--out", tmp_path / "out", "--seconds", "0.001"]
    status, record, shown = called(capsys, *words)
    assert status == 1
    assert record["bpb"] is None and record["legal"] is False and "incomplete" in record["incomplete"]
    assert [line for line in shown.splitlines() if line.startswith("paramgolf score: incomplete")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["score.partial.json"]
    assert "Traceback" not in shown


def test_the_recipes_limit_holds_without_a_flag(home: Path, tmp_path: Path, capsys: Captured) -> None:
    """An artifact whose recipe allows a millisecond cannot be scored within it."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.cli.judge import judge
    from paramgolf.predict.score import ScoreIncomplete
    from paramgolf.text.text import HeldOutText

    artifact = open_artifact(home / "model.pyz")
    recipe = dataclasses.replace(artifact.recipe, budget=BudgetRecipe(eval_seconds=1e-3))
    with pytest.raises(ScoreIncomplete, match=r"budget\.eval_seconds"):
        judge(dataclasses.replace(artifact, recipe=recipe), HeldOutText("held", [b"some words " * 50]))
