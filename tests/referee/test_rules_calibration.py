"""The rule data-separation reads what calibrated the weights: forged and honest records of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paramgolf.predict.score_file import write_hashes
from paramgolf.recipe import Recipe, SqueezeRecipe
from paramgolf.referee.evidence import Evidence, run_evidence
from paramgolf.referee.rules_evidence import data_separation
from paramgolf.referee.rules_ledger import ledger
from paramgolf.referee.rulesets import RULESETS

TRAIN, HELD_OUT = "a" * 64, "b" * 64
SCORED = np.array([5, 0xFEDCBA9876543210, 7], dtype=np.uint64)


def judged(folder: Path, record, quantiser="gptq", train_digest=TRAIN):
    """The finding on a folder with this calibration.json (None: without one), scored on HELD_OUT."""
    folder.mkdir(exist_ok=True)
    (folder / "env.json").write_text(json.dumps({"train_text": {"name": "t", "digest": train_digest, "documents": 2}}))
    (folder / "recipe.json").write_text(Recipe("tiny", squeeze=SqueezeRecipe(quantiser=quantiser)).to_json())
    (folder / "score.json").write_text(json.dumps({"text": {"digest": HELD_OUT}}))
    write_hashes(np.array([1, 2], dtype=np.uint64), folder)
    if record is not None:
        (folder / "calibration.json").write_text(record if isinstance(record, str) else json.dumps(record))
    read = run_evidence(folder)
    fields = {name: getattr(read, name) for name in Evidence.__dataclass_fields__}
    limits = RULESETS[0].limits
    return data_separation(Evidence(**(fields | {"arrays": {"hashes": SCORED}})), limits)


HONEST = {"source": "train", "text": {"name": "t", "digest": TRAIN}, "sequences": 64}
OWN = {"source": "generated", "text": None, "sequences": 64}


@pytest.mark.parametrize("record", [HONEST, OWN])
def test_honest_records_pass_and_say_what_it_was(tmp_path, record):
    """Training text and the model's own text stay PASS, and the sentence names which."""
    finding = judged(tmp_path / "run", record)
    assert finding.status == "PASS"
    assert ("training text" if record is HONEST else "own making") in finding.says
    assert "none of the 3 held-out documents" in finding.says


@pytest.mark.parametrize("source", ["train", "generated", "validation"])
def test_the_scored_text_as_calibration_fails(tmp_path, source):
    """The digest of the scored text in the record is a FAIL, whatever the source is called."""
    finding = judged(tmp_path / "run", {"source": source, "text": {"name": "x", "digest": HELD_OUT}})
    assert finding.status == "FAIL"
    assert "calibrated" in finding.says


@pytest.mark.parametrize("source", ["train", "generated"])
def test_scored_documents_among_the_calibrations_fail(tmp_path, source):
    """One shared document hash is a FAIL, also beside an honest digest."""
    listed = ["000000000000000c", "fedcba9876543210"]
    finding = judged(tmp_path / "run", HONEST | {"source": source, "document_hashes": listed})
    assert finding.status == "FAIL"
    assert finding.says.startswith("1 of the documents")
    assert judged(tmp_path / "other", HONEST | {"document_hashes": ["c", "0"]}).status == "PASS"


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"source": "train", "text": {"name": "x", "digest": "c" * 64}},
        {"source": "train", "text": None},
        {"source": "train", "text": {"digest": TRAIN}},
        {"source": "train", "text": {"digest": 7}},
        {"source": "generated", "text": {"name": "x", "digest": "c" * 64}},
        {"source": ["train"], "text": [], "document_hashes": [None, "zz", "-5", "f" * 17, 3]},
        "[1, 2]",
        "{",
    ],
)
def test_what_cannot_be_told_is_unproven(tmp_path, record):
    """GPTQ without a record, with a damaged one, or calibrated on a text that nobody knows is UNPROVEN."""
    assert judged(tmp_path / "run", record).status == "UNPROVEN"


def timed(folder: Path, record, *phases):
    """The finding of the rule ledger on this calibration.json and phases (name, on clock, seconds) beside training."""
    folder.mkdir()
    (folder / "calibration.json").write_text(json.dumps(record))
    listed = [("train", True, 280.0), *phases, ("score", True, 5.0)]
    entries = [{"name": n, "on_clock": c, "start": 0.0, "seconds": s, "limit": None} for n, c, s in listed]
    (folder / "ledger.json").write_text(json.dumps(entries))
    return ledger(run_evidence(folder), RULESETS[0].limits)


@pytest.mark.parametrize(
    ("told", "phases", "status"),
    [
        (300.0, [("calibrate", True, 300.0)], "PASS"),
        (300.0, [("GPTQ Hessians", True, 300.1)], "PASS"),
        (300.0, [], "FAIL"),
        (300.0, [("second moments of own text", False, 300.0)], "FAIL"),
        (300.0, [("eval calibrate", True, 300.0)], "FAIL"),
        (300.0, [("calibrate", True, 10.0)], "FAIL"),
        (10**400, [("calibrate", True, 10.0)], "FAIL"),
        (None, [("calibrate", True, 10.0)], "UNPROVEN"),
        ("300", [], "UNPROVEN"),
        (-1, [], "UNPROVEN"),
        (True, [], "UNPROVEN"),
    ],
)
def test_calibration_on_training_text_is_in_the_ledger(tmp_path, told, phases, status):
    """Seconds that calibration.json admits to must be those of a phase that counts as training (#609)."""
    finding = timed(tmp_path / "run", HONEST | {"seconds": told}, *phases)
    assert finding.status == status, finding
    assert timed(tmp_path / "own", OWN | {"seconds": told}, *phases).status == "PASS"


def test_runs_without_calibration_are_as_before(tmp_path):
    """Round to nearest without a record passes without a word of calibration."""
    finding = judged(tmp_path / "run", None, quantiser="nearest")
    assert finding.status == "PASS"
    assert "calibrat" not in finding.says


def test_training_on_the_scored_text_stays_the_first_thing_said(tmp_path):
    """A run trained on the scored text fails for that, whatever calibrated it."""
    finding = judged(tmp_path / "run", OWN, train_digest=HELD_OUT)
    assert finding.status == "FAIL"
    assert "trained on" in finding.says
