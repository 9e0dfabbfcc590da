"""What the squeezing of the weights learnt from: calibration.json of a run (V13, V14 of the catalogue; issue #728).

The file says `source` ("train" for training text, "generated" for text of the model's own making), `text` (name and
digest, null for generated text) and, if known, `document_hashes` as hex numbers. A stranger may have written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paramgolf.referee.evidence import CALIBRATION_FILE, Evidence
from paramgolf.referee.finding import Status

Told = tuple[Status, str]
_SLACK = 0.01  # share, and seconds, that two readings of one clock may differ by


def calibration(found: Evidence) -> Told:
    """Whether held-out text calibrated the weights, and a sentence; "" where nothing was calibrated."""
    record = found.calibration
    if record is None:
        if CALIBRATION_FILE in found.problems:
            return "UNPROVEN", f"nobody knows what calibrated the weights: {found.problems[CALIBRATION_FILE]}."
        if found.recipe is not None and found.recipe.squeeze.quantiser == "gptq":
            return "UNPROVEN", f"GPTQ was calibrated on something, and there is no {CALIBRATION_FILE} to say on what."
        return "PASS", ""
    digest, held_out = _digest(record), found.text_digest()
    if digest and digest == held_out:
        return "FAIL", "the text that was scored calibrated the weights."
    shared = _shared(record, found)
    if shared:
        return "FAIL", f"{shared:,} of the documents that were scored calibrated the weights."
    if record.get("source") == "generated" and record.get("text") is None:
        return "PASS", "The weights were calibrated on text of the model's own making."
    if record.get("source") == "train" and _is_training_text(record, found):
        return "PASS", "The weights were calibrated on the training text."
    return "UNPROVEN", f"the weights were calibrated on {_named(record)}, which nobody can tell from the held-out text."


def calibration_time(found: Evidence, listed: float | None) -> Told:
    """Whether calibration on training text is among the training's seconds, and a sentence; "" where it is.

    `listed` are the seconds of the ledger's phases of calibration that count as training, None without one.
    """
    record = found.calibration or {}
    if record.get("source") != "train":
        return "PASS", ""
    told = record.get("seconds")
    if isinstance(told, bool) or not isinstance(told, int | float) or told < 0:
        return "UNPROVEN", f"{CALIBRATION_FILE} does not say how long the calibration on training text took."
    if listed is None:
        return "FAIL", f"{_seconds(told)} of calibration on training text are in no phase of ledger.json."
    if told > listed * (1 + _SLACK) + _SLACK:
        says = f"calibration on training text took {_seconds(told)}, ledger.json lists {listed:.1f} s of it."
        return "FAIL", says
    return "PASS", ""


def _seconds(told: float) -> str:
    """A stranger's integer may be too large for a float."""
    return f"{told:.1f} s" if told < 1e12 else "endless seconds"


def _digest(record: Mapping[str, Any]) -> str:
    text = record.get("text")
    digest = text.get("digest") if isinstance(text, dict) else None
    return digest if isinstance(digest, str) else ""


def _is_training_text(record: Mapping[str, Any], found: Evidence) -> bool:
    """Whether the record's text is the one that env.json says was trained on; both may lack a digest (bare shards)."""
    mine, trained = record.get("text"), (found.environment or {}).get("train_text")
    if not isinstance(mine, dict) or not isinstance(trained, dict):
        return False
    return all(isinstance(mine.get(key), str) and mine[key] == trained.get(key) for key in ("name", "digest"))


def _shared(record: Mapping[str, Any], found: Evidence) -> int:
    """How many scored documents are among those that the record lists by their hashes."""
    listed = record.get("document_hashes")
    if not isinstance(listed, list) or found.arrays is None:
        return 0
    words = (word for word in listed if isinstance(word, str) and 0 < len(word) <= 16)
    known = np.array([_number(word) for word in words], dtype=np.uint64)
    mine = found.arrays["hashes"]
    return int((np.isin(mine, known) & (mine != 0)).sum())


def _number(word: str) -> int:
    try:
        return max(0, int(word, 16))
    except ValueError:
        return 0


def _named(record: Mapping[str, Any]) -> str:
    text = record.get("text")
    name = text.get("name") if isinstance(text, dict) else None
    return f"{str(record.get('source'))[:40]!r} text {str(name)[:60]!r}"
