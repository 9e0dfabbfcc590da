"""GPTQ through the verbs: train calibrates within its seconds, pack does it again, the referee reads the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from paramgolf.cli import main
from paramgolf.cli.calibrate import ON_CLOCK, training_part
from paramgolf.errors import RecipeError
from paramgolf.recipe import BudgetRecipe, Recipe, SqueezeRecipe
from paramgolf.referee import rules_ledger
from paramgolf.squeeze.hessian import HessianRecord, load_hessians, save_hessians
from paramgolf.squeeze.sensitivity_file import load_sensitivities

WORDS = ["one ", "two ", "three ", "four\n", "five ", "six, ", "seven ", "eight. "]
TINY = ["--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "260", "--squeeze.carry_text", "false"]
TINY += ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--model.kv_heads", "1"]
TINY += ["--train.sequence", "32", "--train.batch_tokens", "64", "--train.warmup_steps", "1"]
TINY += ["--score.window", "32", "--score.stride", "16", "--score.chunk", "64", "--score.adapt", "none"]
TINY += ["--train.max_steps", "4", "--squeeze.calibration_sequences", "6", "--squeeze.matrix_bits", "4"]
GPTQ = ["--squeeze.quantiser", "gptq"]


def text(seed, words):
    return "".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Shards, held-out text, and two runs that differ in their quantiser alone."""
    home = tmp_path_factory.mktemp("home")
    for folder, first, count in (("texts", 0, 30), ("others", 50, 30), ("held", 100, 4)):
        (home / folder).mkdir()
        for index in range(count):
            (home / folder / f"{index:02}.txt").write_text(text(first + index, 80))
    for folder, out in (("texts", "shards"), ("others", "strange")):
        words = ["data", "prepare", str(home / folder), "--tokenizer", "bytes", "--out", str(home / out)]
        assert main(words) == 0
    for name, flags in (("nearest", []), ("gptq", GPTQ)):
        words = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(home / name), "--seconds", "60"]
        assert main([*words, *TINY, *flags]) == 0
    return home


def finding(run, rule="data-separation"):
    verdict = json.loads((run / "verdict.json").read_text())
    return next(found for found in verdict["findings"] if found["rule"] == rule)


@pytest.mark.slow
def test_train_ends_with_a_calibrated_artifact(home):
    """The ledger has both phases on the clock, their limits add up to the budget, and the record says on what."""
    run = home / "gptq"
    ledger = {entry["name"]: entry for entry in json.loads((run / "ledger.json").read_text())}
    assert ledger["train"]["on_clock"] and ledger["calibrate"]["on_clock"]
    assert ledger["train"]["limit"] + ledger["calibrate"]["limit"] == 60
    assert ledger["train"]["seconds"] + ledger["calibrate"]["seconds"] <= 60
    record = json.loads((run / "calibration.json").read_text())
    environment = json.loads((run / "env.json").read_text())
    assert record["source"] == "train" and record["sequences"] == 6 and record["tokens"] == 6 * 32
    assert record["text"]["digest"] == environment["train_text"]["digest"]
    hessians, about = load_hessians(run / "hessians.safetensors")
    assert about.sequences == 6 and len(hessians) == 6
    assert "calibrated on 192 tokens of training text" in (run / "log.txt").read_text()
    assert not (home / "nearest" / "calibration.json").exists()
    assert (run / "model.pyz").read_bytes() != (home / "nearest" / "model.pyz").read_bytes()


@pytest.mark.slow
def test_the_referee_passes_it_and_fails_a_forged_record(home, tmp_path, capsys):
    """Scored and checked, the run keeps its texts apart; with the scored text's digest in calibration.json it fails."""
    run = Path(shutil.copytree(home / "gptq", tmp_path / "run"))
    assert main(["score", str(run / "model.pyz"), str(home / "held"), "--out", str(run)]) == 0
    assert finding(run)["status"] == "PASS"
    assert "calibrated on the training text" in finding(run)["says"]
    assert finding(run, "ledger")["numbers"]["train_seconds"] > 0
    record = json.loads((run / "calibration.json").read_text())
    record["text"]["digest"] = json.loads((run / "score.json").read_text())["text"]["digest"]
    (run / "calibration.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["check", str(run)]) == 1
    assert "calibrated the weights" in capsys.readouterr().out


@pytest.mark.slow
def test_pack_again_from_what_the_run_kept(home, tmp_path, capsys):
    """`pack` of a calibrated run needs nothing else, meets another budget, and takes its record along."""
    new = tmp_path / "new"
    assert (
        main(["pack", str(home / "gptq"), "--new-run", str(new), "--squeeze.clip", "percentile-floor", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= told["floored_share"] <= 1 and told["unmended"] == []
    assert "% of rows on the floor" in (new / "log.txt").read_text()
    assert json.loads((new / "calibration.json").read_text())["source"] == "train"
    assert (new / "hessians.safetensors").exists()
    same = tmp_path / "same.pyz"
    assert main(["pack", str(home / "gptq"), "--out", str(same)]) == 0
    assert same.read_bytes() == (home / "gptq" / "model.pyz").read_bytes()


@pytest.mark.slow
def test_pack_a_run_that_was_never_calibrated(home, tmp_path, capsys):
    """Without Hessians `pack` says how to get them; with --data or own text it collects them, on or off the clock."""
    run = str(home / "nearest")
    assert main(["pack", run, *GPTQ, "--out", str(tmp_path / "a.pyz")]) == 2
    error = capsys.readouterr().err
    assert "--data DIR" in error and "--squeeze.calibration generated" in error
    trained, own = tmp_path / "trained", tmp_path / "own"
    assert main(["pack", run, *GPTQ, "--data", str(home / "shards"), "--new-run", str(trained)]) == 0
    generated = ["--squeeze.calibration", "generated"]
    assert main(["pack", run, *GPTQ, *generated, "--new-run", str(own)]) == 0
    for folder, phase, on_clock in ((trained, "calibrate", True), (own, "second moments of own text", False)):
        ledger = {entry["name"]: entry["on_clock"] for entry in json.loads((folder / "ledger.json").read_text())}
        assert ledger["train"] is True and ledger[phase] is on_clock
    assert json.loads((own / "calibration.json").read_text())["text"] is None
    assert main(["score", str(own / "model.pyz"), str(home / "held"), "--out", str(own)]) == 0
    assert "own making" in finding(own)["says"]


def phases(run):
    return [entry["name"] for entry in json.loads((run / "ledger.json").read_text())]


def with_weights(home, run):
    """Give a run that was packed again the checkpoint, which stays in the run that it came from."""
    shutil.copyfile(home / "gptq" / "checkpoint.safetensors", run / "checkpoint.safetensors")


@pytest.mark.slow
def test_a_calibration_that_is_not_used_takes_no_time(home, tmp_path):
    """A new file keeps the phase of the Hessians that it was packed with, and of no others."""
    assert ON_CLOCK == rules_ledger.CALIBRATION
    run = str(home / "gptq")
    for name, flags, calibrations in (
        ("kept", [], [ON_CLOCK]),
        ("plain", ["--squeeze.quantiser", "nearest"], []),
        ("again", ["--data", str(home / "shards")], [ON_CLOCK]),
        ("own", ["--squeeze.calibration", "generated"], ["second moments of own text"]),
    ):
        assert main(["pack", run, "--new-run", str(tmp_path / name), *flags]) == 0
        listed = phases(tmp_path / name)
        assert [phase for phase in listed if phase in (ON_CLOCK, "second moments of own text")] == calibrations, name
        assert listed.count("train") == 1
    old, again = (json.loads((folder / "ledger.json").read_text()) for folder in (home / "gptq", tmp_path / "again"))
    assert [e for e in old if e["name"] == ON_CLOCK] != [e for e in again if e["name"] == ON_CLOCK]
    with_weights(home, tmp_path / "own")
    assert main(["pack", str(tmp_path / "own"), "--new-run", str(tmp_path / "owner"), *GPTQ]) == 0
    assert phases(tmp_path / "owner").count("second moments of own text") == 1
    assert (
        main(["pack", str(tmp_path / "own"), "--new-run", str(tmp_path / "b"), "--squeeze.quantiser", "nearest"]) == 0
    )
    assert "second moments of own text" not in phases(tmp_path / "b")


@pytest.mark.slow
def test_kept_hessians_are_not_passed_off_as_others(home, tmp_path, capsys):
    """Another number of sequences or seconds than the run was calibrated with is refused, or read anew."""
    words = ["pack", str(home / "gptq"), "--squeeze.calibration_sequences", "9"]
    assert main([*words, "--out", str(tmp_path / "a.pyz")]) == 2
    error = capsys.readouterr().err
    assert "--squeeze.calibration_sequences 9" in error and "calibrated with 6" in error and "--data DIR" in error
    longer = ["pack", str(home / "gptq"), "--squeeze.calibration_seconds", "20", "--out", str(tmp_path / "a.pyz")]
    assert main(longer) == 2 and "--squeeze.calibration_seconds 20" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*words, "--data", str(home / "shards"), "--new-run", str(tmp_path / "nine")]) == 0
    assert json.loads((tmp_path / "nine" / "calibration.json").read_text())["sequences"] == 9
    with_weights(home, tmp_path / "nine")
    same = ["pack", str(tmp_path / "nine"), "--squeeze.calibration_sequences", "9", "--out", str(tmp_path / "b.pyz")]
    assert main(same) == 0


@pytest.mark.slow
def test_a_resumed_run_is_calibrated_once(home, tmp_path, monkeypatch):
    """After a packing that failed, --resume takes what was kept, and the ledger lists the time that it took then."""
    out = tmp_path / "run"
    words = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(out), "--seconds", "60"]

    def fails(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paramgolf.artifact.pack.pack", fails)
        assert main([*words, *TINY, *GPTQ]) == 130
    partial = tmp_path / "run.partial"
    before = json.loads((partial / "ledger.json").read_text())
    spoilt = Path(shutil.copytree(partial, tmp_path / "spoilt.partial"))
    (spoilt / "calibration.json").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr("paramgolf.cli.calibrate.calibrate", fails)
        assert main(["train", "--resume", str(out)]) == 0
        assert main(["train", "--resume", str(tmp_path / "spoilt")]) == 130
    after = json.loads((out / "ledger.json").read_text())
    for name in ("train", ON_CLOCK):
        assert [e for e in after if e["name"] == name] == [e for e in before if e["name"] == name] != []
    assert (out / "calibration.json").exists() and (out / "model.pyz").exists()
    assert main(["train", "--resume", str(tmp_path / "spoilt")]) == 0
    assert phases(tmp_path / "spoilt").count(ON_CLOCK) == 1


@pytest.mark.slow
def test_pack_refuses_other_data(home, tmp_path, capsys):
    """Shards of another text, and --data where nothing is calibrated on it, are refused before any work."""
    words = ["pack", str(home / "nearest"), "--out", str(tmp_path / "a.pyz")]
    assert main([*words, *GPTQ, "--data", str(home / "strange")]) == 2
    assert "takes the training data alone" in capsys.readouterr().err
    assert main([*words, "--data", str(home / "shards")]) == 2
    assert "--data" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_hessians_of_other_weights_are_refused(home, tmp_path, capsys):
    """A file of Hessians that belongs to another run raises with both digests."""
    run = Path(shutil.copytree(home / "gptq", tmp_path / "run"))
    hessians, _ = load_hessians(run / "hessians.safetensors")
    save_hessians(run / "hessians.safetensors", hessians, HessianRecord("0badcafe", 6))
    assert main(["pack", str(run), "--out", str(tmp_path / "a.pyz")]) == 2
    assert "belongs to weights 0badcafe" in capsys.readouterr().err


def test_calibration_must_leave_time_to_train():
    """The training part is what calibration leaves; a budget that it uses up raises with both numbers."""
    squeeze = SqueezeRecipe(quantiser="gptq", calibration_seconds=14)
    recipe = Recipe("r", squeeze=squeeze, budget=BudgetRecipe(train_seconds=600))
    assert training_part(recipe).budget.train_seconds == 586
    with pytest.raises(RecipeError, match=r"calibration_seconds=14 leave nothing of budget\.train_seconds=10"):
        training_part(Recipe("r", squeeze=squeeze, budget=BudgetRecipe(train_seconds=10)))
    for other in (SqueezeRecipe(), SqueezeRecipe(quantiser="gptq", calibration="generated")):
        same = Recipe("r", squeeze=other, budget=BudgetRecipe(train_seconds=10))
        assert training_part(same) is same


@pytest.mark.slow
def test_a_run_with_allocated_steps_keeps_its_sensitivities(home, tmp_path, capsys):
    """Clip sigma and free steps calibrate the head and gradients within the seconds; `pack` takes them again, and what
    was kept without them does not do.
    """
    free = ["--squeeze.clip", "sigma", "--squeeze.allocation", "free", "--squeeze.corrected_tensors", "2"]
    run = tmp_path / "free"
    words = ["train", "quickstart", "--data", str(home / "shards"), "--out", str(run), "--seconds", "60"]
    assert main([*words, *TINY, *GPTQ, *free]) == 0
    record = json.loads((run / "calibration.json").read_text())
    assert record["gradient_sequences"] == 1
    names = set(load_hessians(run / "hessians.safetensors")[0])
    assert names == set(load_sensitivities(run / "sensitivities.safetensors")[0])
    assert "embedding.weight" in names and len(names) == 7
    same = tmp_path / "same.pyz"
    assert main(["pack", str(run), "--out", str(same)]) == 0
    assert same.read_bytes() == (run / "model.pyz").read_bytes()
    capsys.readouterr()
    smaller = ["--budget", str(same.stat().st_size - 300), "--out", str(tmp_path / "b.pyz"), "--json"]
    assert main(["pack", str(run), *smaller]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["artifact_bytes"] <= same.stat().st_size - 300
    assert set(told["step_factors"]) == names
    assert main(["pack", str(home / "gptq"), *free, "--out", str(tmp_path / "c.pyz")]) == 2
    assert "--data DIR" in capsys.readouterr().err
