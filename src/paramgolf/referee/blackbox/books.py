"""T8 and T9: where the artifact comes from, and how the score is counted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from paramgolf.clock import Entry
from paramgolf.referee.blackbox.exam import Exam, judged, unproven
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.rules_ledger import evaluates

_SEALS = re.compile(r"squeeze|pack|quanti[sz]e|gptq|calibrat", re.IGNORECASE)


def t8_provenance(exam: Exam) -> Finding:
    """The artifact is built twice, the second time beside another validation text: its bytes must not know."""
    builder = exam.box.builder
    if builder is None or (builder.build is None and builder.ledger is None):
        return unproven("T8", "nobody shows how the artifact is built.")
    sealed = sealed_before_reading(builder.ledger) if builder.ledger is not None else None
    if builder.build is None or (sealed is not None and sealed.status == "FAIL"):
        return sealed or unproven("T8", "nobody shows how the artifact is built.")
    rng, size = exam.rng(8), exam.box.vocab_size
    train, noise = (rng.integers(0, size, len(exam.tokens)) for _ in range(2))
    built = [builder.build(train.copy(), val.copy()) for val in (exam.tokens, exam.tokens, noise)]
    digests = [hashlib.sha256(one).hexdigest()[:16] for one in built]
    numbers: Numbers = {"digest": digests[0], "digest_beside_noise": digests[2], "bytes": len(built[0])}
    if digests[0] != digests[1]:
        return unproven("T8", "two builds from the same data differ: make the build deterministic.", numbers)
    bad = "the artifact is another one when the validation text is noise: it was calibrated or trained on it."
    good = "the artifact is the same, byte for byte, when the validation text is noise."
    return judged("T8", digests[0] != digests[2], bad, good, numbers)


def sealed_before_reading(ledger: Sequence[Entry]) -> Finding:
    """For runs of this project: in the ledger, no phase that evaluates begins before the artifact is packed."""
    seals = [entry for entry in ledger if _SEALS.search(entry.name) and not evaluates(entry)]
    reads = [entry for entry in ledger if evaluates(entry)]
    if not seals or not reads:
        missing = "packing" if not seals else "evaluation"
        return unproven("T8", f"the ledger lists no {missing} among {len(ledger)} phases.")
    sealed = max(entry.start + entry.seconds for entry in seals)
    first = min(reads, key=lambda entry: entry.start)
    numbers: Numbers = {"sealed_at": sealed, "read_at": first.start}
    bad = f"phase {first.name!r} reads the text at {first.start:.1f} s, the artifact is sealed at {sealed:.1f} s."
    good = f"the artifact is sealed at {sealed:.1f} s, the text is first read at {first.start:.1f} s."
    return judged("T8", first.start < sealed, bad, good, numbers)


def t9_coverage(exam: Exam) -> Finding:
    """Every target is credited once, and the bytes by which the score is divided are those of the text."""
    test, cost = "T9", exam.base
    if cost.shape != (exam.declared,) or not (cost > -np.inf).all() or np.isnan(cost).any():
        missing = int(np.isnan(cost).sum()) if cost.shape == (exam.declared,) else abs(exam.declared - cost.size)
        return judged(test, True, f"{missing} of {exam.declared} targets have no cost.", "", {"missing": missing})
    if exam.box.books is None:
        return unproven(test, "every target has a cost; how often each is counted, and by which bytes, is not shown.")
    books = exam.box.books
    credited = np.asarray(books.credited(exam.tokens.copy()), dtype=np.int64)
    of_text = (credited >= 1) & (credited <= exam.declared)
    times = np.bincount(credited[of_text], minlength=exam.declared + 1)[1:]
    weights = int(np.asarray(books.byte_weights(exam.tokens.copy())).sum())
    size = len(books.text(exam.tokens[1:].copy()))
    wrong = int((times != 1).sum() + (~of_text).sum())
    numbers: Numbers = {"targets": exam.declared, "not_once": wrong, "bytes_counted": weights, "bytes_of_text": size}
    bad = f"{wrong} of {exam.declared} targets are not credited exactly once"
    bad += f", and {weights} bytes are counted for a text of {size}." if weights != size else "."
    if not wrong:
        bad = f"{weights} bytes are counted for a text of {size}."
    good = f"each of {exam.declared} targets is credited once, and their {size} bytes are those of the text."
    return judged(test, wrong > 0 or weights != size, bad, good, numbers)
