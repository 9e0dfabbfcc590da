"""The rule about the denominator: raw bytes of the documents, and nothing else (C5)."""

from __future__ import annotations

import numpy as np

from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits

# A full run over the contest's 50,000 documents with a lossless tokenizer implies this many bytes (test R0).
CONTEST_DOCUMENTS = 50_000
CONTEST_BYTES = (151_069_000, 151_082_600)


def bytes_rule(found: Evidence, limits: Limits) -> Finding:
    """The denominator is the sum of the documents' raw bytes; the tokens give them back where the set demands it."""
    rule, record, arrays = "bytes", found.score, found.arrays
    if record is None or arrays is None:
        return Finding(rule, "UNPROVEN", f"the denominator is not known: {found.trouble('score.json', 'bits.npz')}.")
    claimed, sizes = record.get("bytes"), arrays["sizes"]
    if isinstance(claimed, bool) or not isinstance(claimed, int) or not 0 < claimed < 2**63:
        return Finding(rule, "FAIL", f"score.json divides by {str(claimed)[:40]!r} bytes, which is no size of a text.")
    numbers: Numbers = {"bytes": claimed, "documents": len(arrays["lengths"])}
    if len(sizes) != len(arrays["lengths"]) or sizes.min(initial=0) < 0:
        says = f"{claimed:,} bytes are claimed, but bits.npz does not list the bytes of each document."
        return Finding(rule, "UNPROVEN" if len(sizes) == 0 else "FAIL", says, numbers)
    total = int(sizes.sum(dtype=np.float64))
    numbers["document_bytes"] = total
    if total != claimed:
        says = f"score.json divides by {claimed:,} bytes, the documents have {total:,}."
        return Finding(rule, "FAIL", says, numbers)
    low, high = CONTEST_BYTES
    if len(sizes) == CONTEST_DOCUMENTS and not low <= total <= high:
        says = f"50,000 documents of {total:,} bytes are not the contest's: those have {low:,} to {high:,}."
        return Finding(rule, "FAIL", says, numbers)
    return _lossless(found, limits, total, numbers)


def _lossless(found: Evidence, limits: Limits, total: int, numbers: Numbers) -> Finding:
    assert found.score is not None
    changed = found.score.get("documents_not_lossless")
    says = f"the denominator is {total:,}, the raw bytes of {numbers['documents']:,} documents"
    if isinstance(changed, int) and not isinstance(changed, bool):
        numbers["documents_not_lossless"] = changed
        says += f"; not lossless: {changed:,} of them do not come back" if changed else "; all of them come back"
        return Finding("bytes", "FAIL" if changed and limits.lossless else "PASS", f"{says}.", numbers)
    if limits.lossless:
        return Finding("bytes", "UNPROVEN", f"{says}; nobody looked whether they come back.", numbers)
    return Finding("bytes", "PASS", f"{says}.", numbers)
