"""Promises of `paramgolf compare`: seeds are pooled, texts are not mixed, and what cannot be tested is said."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramgolf.cli import main
from paramgolf.predict.audit_record import Audit
from paramgolf.predict.plan import plan
from paramgolf.predict.score import Score
from paramgolf.predict.score_file import save
from paramgolf.recipe import ModelRecipe, Recipe
from paramgolf.referee.statistics import welch

Captured = pytest.CaptureFixture[str]
DOCUMENTS = 40


def write_run(
    folder: Path,
    seed: int | None,
    level: float,
    *,
    text: str = "held",
    layers: int = 2,
    adapt: str = "none",
    order: str = "stream",
    legal: bool = True,
) -> Path:
    """The files of a scored run: about `level` bits a token, some documents harder, the same in every run."""
    folder.mkdir()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))
    sizes = rng.integers(20, 200, DOCUMENTS)
    hard = np.repeat(rng.gamma(4, 0.25, DOCUMENTS), sizes + 1)
    own = np.random.default_rng([seed or 0, layers]).normal(0, 0.1, len(hard))
    score = Score(
        bits=np.maximum(0.0, level * hard + own),
        plan=plan(sizes.tolist(), chunk=64, order=order),
        bytes=int(3 * sizes.sum()),
        text_digest=hashlib.sha256(text.encode()).hexdigest(),
        seconds=2.5,
        audit_seconds=0.0,
        audit=Audit(0),
        text_name=text,
        adapt=adapt,
        document_bytes=3 * sizes,
    )
    save(score, folder)
    (folder / "verdict.json").write_text(json.dumps({"legal": legal, "ruleset": "strict", "findings": []}))
    if seed is not None:
        recipe = Recipe("small", model=ModelRecipe(layers=layers, width=16, heads=2, kv_heads=1), seed=seed)
        (folder / "recipe.json").write_text(recipe.to_json())
        (folder / "model.pyz").write_bytes(b"x" * (1000 + seed))
        train = {"name": "train", "on_clock": True, "start": 0.0, "seconds": 60.0, "limit": None}
        (folder / "ledger.json").write_text(json.dumps([train]))
    return folder


def compared(captured: Captured, *runs: Path) -> dict[str, Any]:
    assert main(["compare", *map(str, runs), "--json"]) == 0
    record = json.loads(captured.readouterr().out.splitlines()[-1])
    assert isinstance(record, dict)
    return record


def test_seeds_are_pooled_and_groups_are_tested(tmp_path: Path, capsys: Captured) -> None:
    """Three seeds of one recipe against two of another: means and intervals, and Welch's test of just these scores."""
    old = [write_run(tmp_path / f"a{seed}", seed, 3.0) for seed in (3, 1, 2)]
    new = [write_run(tmp_path / f"b{seed}", seed, 2.9, layers=3) for seed in (1, 2)]
    found = compared(capsys, *old, *new)
    first, second = found["groups"]
    assert first["seeds"] == [1, 2, 3] and second["seeds"] == [1, 2]
    assert first["interval"][0] < first["mean"] < first["interval"][1] and first["bytes"] == 1003
    assert first["train_seconds"] == 60 and first["score_seconds"] == 2.5 and first["legal"] is True
    test = found["comparisons"][0]["welch"]
    assert test == pytest.approx(dataclasses.asdict(welch(second["bpb"], first["bpb"])))
    assert test["difference"] == pytest.approx(second["mean"] - first["mean"]) and test["difference"] < 0
    assert found["comparisons"][0]["margin"]["margin"] == 0.005


def test_documents_are_paired(tmp_path: Path, capsys: Captured) -> None:
    """A small gain on every document is found with one seed each; the difference is that of the two scores."""
    found = compared(capsys, write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 1, 2.9, layers=3))
    (one,) = found["comparisons"]
    assert one["welch"] is None and any("two seeds" in note for note in one["notes"])
    pairs, (old, new) = one["paired"], [group["mean"] for group in found["groups"]]
    assert pairs["difference"] == pytest.approx(new - old, abs=1e-9)
    assert pairs["better"] + pairs["worse"] == DOCUMENTS and pairs["better"] > 35 and pairs["p"] < 0.001


def test_noise_is_no_difference(tmp_path: Path, capsys: Captured) -> None:
    """Two recipes that differ in noise alone get a p that says so."""
    found = compared(capsys, write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 1, 3.0, layers=3))
    assert found["comparisons"][0]["paired"]["p"] > 0.02


def test_other_texts_are_never_compared(tmp_path: Path, capsys: Captured) -> None:
    """Seeds or not, runs of two texts get no test, and both texts are named."""
    runs = [write_run(tmp_path / f"a{seed}", seed, 3.0) for seed in (1, 2)]
    runs += [write_run(tmp_path / f"b{seed}", seed, 3.0, text="other") for seed in (1, 2)]
    found = compared(capsys, *runs)
    assert len(found["groups"]) == 2
    (one,) = found["comparisons"]
    assert one["welch"] is None and one["margin"] is None and one["paired"] is None
    assert "held" in one["notes"][0] and "other" in one["notes"][0]


def test_one_recipe_scored_two_ways_is_two_groups(tmp_path: Path, capsys: Captured) -> None:
    """The adaptation is part of what is compared, and so is a folder that holds a score alone."""
    plain, adapted = write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 1, 2.9, adapt="ttt")
    alone = write_run(tmp_path / "c", None, 2.95)
    assert [group["name"] for group in compared(capsys, plain, adapted, alone)["groups"]] == [
        "small",
        "small, ttt",
        "c",
    ]


def test_one_seed_twice_is_no_sample(tmp_path: Path, capsys: Captured) -> None:
    """Two runs of one recipe and one seed are two groups, told apart by their folders."""
    found = compared(capsys, write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 1, 2.9))
    assert [group["name"] for group in found["groups"]] == ["small [a]", "small [b]"]
    assert all(group["sd"] is None for group in found["groups"])


def test_a_repeated_seed_does_not_dissolve_its_group(tmp_path: Path, capsys: Captured) -> None:
    """Of three seeds and a second run of one, the three stay a sample and the second stands alone, with a note."""
    runs = [write_run(tmp_path / f"a{seed}", seed, 3.0) for seed in (1, 2, 3)]
    found = compared(capsys, *runs, write_run(tmp_path / "again", 1, 2.9))
    assert [group["seeds"] for group in found["groups"]] == [[1, 2, 3], [1]]
    assert [group["name"] for group in found["groups"]] == ["small [a1]", "small [again]"]
    assert found["comparisons"][0]["welch"] is None
    assert any("seed 1 appears twice" in note for note in found["comparisons"][0]["notes"])
    other = compared(capsys, *runs, write_run(tmp_path / "b", 1, 2.9, layers=3))
    assert not any("twice" in note for note in other["comparisons"][0]["notes"])


def phase(name: str, seconds: float, on_clock: bool = True) -> dict[str, object]:
    return {"name": name, "on_clock": on_clock, "start": 0.0, "seconds": seconds, "limit": None}


def test_calibration_is_training_time(tmp_path: Path, capsys: Captured) -> None:
    """Seconds of the last training and of the calibration after it; other phases and an earlier training are not."""
    run = write_run(tmp_path / "a", 1, 3.0)
    phases = [phase("train", 20.0), phase("train", 60.0), phase("calibrate", 5.5), phase("calibrate", 9.0, False)]
    (run / "ledger.json").write_text(json.dumps([*phases, phase("squeeze and pack", 8.0, False)]))
    assert compared(capsys, run)["groups"][0]["train_seconds"] == 65.5
    (run / "ledger.json").write_text("[]")
    assert compared(capsys, run)["groups"][0]["train_seconds"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b"\xff\xfe{}"),
        ("recipe.json", b"[]"),
        ("recipe.json", b'{"name": 1}'),
        ("recipe.json", b"{"),
        ("ledger.json", json.dumps([phase("train", 10**400)]).encode()),
        ("ledger.json", json.dumps([phase("train", -1)]).encode()),
        ("ledger.json", b'[{"name": "train"}]'),
        ("ledger.json", b'{"train": 1}'),
        ("ledger.json", b"\xff"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, capsys: Captured, name: str, content: bytes) -> None:
    """A recipe or ledger that cannot be read gives one line with its path, and status 2."""
    run = write_run(tmp_path / "a", 1, 3.0)
    (run / name).write_bytes(content)
    assert main(["compare", str(run)]) == 2
    error = capsys.readouterr().err
    assert str(run / name) in error and "Traceback" not in error


def test_an_illegal_score_is_marked(tmp_path: Path, capsys: Captured) -> None:
    """A better score whose verdict is negative is shown as such, in the table and beside the test."""
    runs = [write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 1, 1.0, adapt="exhibit:x", legal=False)]
    assert main(["compare", *map(str, runs)]) == 0
    page = capsys.readouterr().out
    assert "NOT legal" in page and "NO" in page and "against small:" in page and "better on 40 and worse on 0" in page


def test_scores_in_another_order_are_another_group(tmp_path: Path, capsys: Captured) -> None:
    """Two seeds whose documents were scored in two orders are no sample of one thing, and the group names its order."""
    runs = [write_run(tmp_path / "a", 1, 3.0), write_run(tmp_path / "b", 2, 3.0, order="longest-first")]
    groups = compared(capsys, *runs)["groups"]
    assert [(group["name"], group["order"]) for group in groups] == [
        ("small", "stream"),
        ("small, longest-first", "longest-first"),
    ]


def test_wrong_folders_are_refused_with_the_next_step(tmp_path: Path, capsys: Captured) -> None:
    """Not scored, not there, given twice, damaged: one line each, exit status 2."""
    good = write_run(tmp_path / "good", 1, 3.0)
    bare = tmp_path / "bare"
    bare.mkdir()
    damaged = write_run(tmp_path / "damaged", 2, 3.0)
    record = json.loads((damaged / "score.json").read_text())
    (damaged / "score.json").write_text(json.dumps(record | {"bpb": 0.5}))
    for words, says in (
        ([good, bare], "first: paramgolf score"),
        ([good, tmp_path / "nowhere"], "no run folder"),
        ([good, good], "given twice"),
        ([good, tmp_path / "x" / ".." / "good"], "given twice"),
        ([good, damaged], "adds up to"),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert main(["compare", *map(str, words)]) == 2
        assert says in capsys.readouterr().err
    assert main(["compare"]) == 2


def test_help_imports_nothing_heavy() -> None:
    """--help answers without numpy or torch."""
    code = "import sys; from paramgolf.cli import main; main(['compare', '--help']); "
    code += "sys.exit(any(name in sys.modules for name in ('numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
