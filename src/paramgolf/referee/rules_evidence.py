"""Rules about provenance: are all files of a run there, and was the held-out text kept apart (C6, C9)?"""

from __future__ import annotations

import numpy as np

from paramgolf.referee.evidence import RUN_FILES, Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits
from paramgolf.referee.rules_calibration import calibration


def evidence(found: Evidence, _: Limits) -> Finding:
    """Every file that a run writes before it is judged is there and can be read."""
    missing = [name for name in RUN_FILES if name not in found.files]
    numbers = {"files": len(RUN_FILES) - len(missing), "expected": len(RUN_FILES), "damaged": len(found.problems)}
    if found.problems:
        name, reason = next(iter(found.problems.items()))
        return Finding("evidence", "FAIL", f"{name} cannot be read: {reason}.", numbers)
    if missing:
        return Finding("evidence", "UNPROVEN", f"missing from the run: {', '.join(missing)}.", numbers)
    return Finding("evidence", "PASS", f"all {len(RUN_FILES)} files of the run are there and can be read.", numbers)


def data_separation(found: Evidence, _: Limits) -> Finding:
    """No held-out document was trained on, or calibrated on: by the texts' digests and documents' hashes (V13, V16)."""
    apart, (status, says) = _training_apart(found), calibration(found)
    if apart.status == "FAIL" or not says:
        return apart
    if status == "FAIL":
        return Finding(apart.rule, status, says, apart.numbers)
    if apart.status == "UNPROVEN":
        return apart
    return Finding(apart.rule, status, says if status == "UNPROVEN" else f"{apart.says} {says}", apart.numbers)


def _training_apart(found: Evidence) -> Finding:
    rule = "data-separation"
    train = (found.environment or {}).get("train_text")
    held_out = found.text_digest()
    if not isinstance(train, dict) or not isinstance(train.get("digest"), str) or not held_out:
        lacking = found.trouble("env.json", "score.json") or "the digests of the texts are not recorded"
        return Finding(rule, "UNPROVEN", f"nobody can tell whether the texts were kept apart: {lacking}.")
    numbers: Numbers = {"train_sha256": train["digest"][:64], "held_out_sha256": held_out[:64]}
    if train["digest"] == held_out:
        return Finding(rule, "FAIL", "the text that was scored is the text that was trained on.", numbers)
    known = found.train_hashes
    mine = found.arrays["hashes"] if found.arrays is not None else np.zeros(0, dtype=np.uint64)
    if known is None or not known.any() or not mine.any():
        says = (
            "the texts differ as a whole; the hashes of their documents are not recorded, so an overlap would not show."
        )
        return Finding(rule, "UNPROVEN", says, numbers)
    documents = train.get("documents")
    if isinstance(documents, int) and documents != len(known):
        says = f"{documents:,} documents were trained on, the hashes of {len(known):,} are recorded."
        return Finding(rule, "UNPROVEN", says, numbers)
    shared = int((np.isin(mine, known) & (mine != 0)).sum())
    numbers |= {"train_documents": len(known), "held_out_documents": len(mine), "shared_documents": shared}
    if shared:
        return Finding(rule, "FAIL", f"{shared:,} of {len(mine):,} held-out documents were trained on.", numbers)
    says = f"none of the {len(mine):,} held-out documents is among the {len(known):,} training documents."
    return Finding(rule, "PASS", says, numbers)
