"""Promises of findings and verdicts: UNPROVEN is no pass, and what is written is what was meant."""

import json
import math

import numpy as np
import pytest

from paramgolf.errors import RunError
from paramgolf.referee.finding import Finding, Verdict, merge

GOOD = Finding("size", "PASS", "fits.", {"bytes": 5})
OPEN = Finding("bytes", "UNPROVEN", "nobody looked.")
BAD = Finding("size", "FAIL", "too large.", {"bytes": 9})


def test_only_passes_make_a_legal_verdict() -> None:
    """A failure, an unproven rule, or no rule at all is not legal."""
    assert Verdict("r", (GOOD,)).legal
    assert not Verdict("r", (GOOD, OPEN)).legal
    assert not Verdict("r", (GOOD, BAD)).legal
    assert not Verdict("r", ()).legal


def test_one_claim_with_two_proofs_is_said_once() -> None:
    """What scoring and probes both found is one claim with two proofs; other sentences stand one after the other."""
    proofs = ("rows sum to one: while scoring (15 positions).", "rows sum to one: in probes (8 positions). A twin too.")
    found = merge([Finding("sums-to-one", "PASS", says) for says in proofs])
    assert [finding.says for finding in found] == [
        "rows sum to one: while scoring (15 positions); in probes (8 positions). A twin too."
    ]
    others = merge([Finding("size", "PASS", "fits."), Finding("size", "PASS", "as it was: fits.")])
    assert others[0].says == "fits. as it was: fits."


def test_a_verdict_comes_back_from_json() -> None:
    """to_json is plain JSON that from_json reads back; numpy numbers and infinities survive as JSON can hold them."""
    numbers = {"a": np.int64(3), "b": np.float64(0.5), "c": math.inf, "d": math.nan, "e": "word", "f": 2**70}
    verdict = Verdict("r", (Finding("size", "PASS", "fits.", numbers), OPEN))
    record = json.loads(verdict.to_json(), parse_constant=pytest.fail)
    assert record["findings"][0]["numbers"] == {"a": 3, "b": 0.5, "c": "inf", "d": "nan", "e": "word", "f": 2**70}
    assert record["legal"] is False
    assert Verdict.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize(
    "change",
    [
        {"legal": True},
        {"legal": "yes"},
        {"findings": None},
        {"findings": [3]},
        {"findings": [{"rule": "size", "status": "MAYBE", "says": "", "numbers": {}}]},
        {"findings": [{"rule": "size", "status": ["PASS"], "says": "", "numbers": {}}]},
        {"findings": [{"rule": "size", "status": "PASS", "says": ""}]},
        {"findings": [{"rule": "size", "status": "PASS", "says": "", "numbers": {"a": []}}], "legal": True},
    ],
)
def test_a_tampered_verdict_is_refused(change: dict[str, object]) -> None:
    """A verdict that calls itself legal against its findings, or is malformed, raises RunError."""
    record = {**Verdict("r", (GOOD, BAD)).record(), **change}
    with pytest.raises(RunError):
        Verdict.from_json(json.dumps(record))


@pytest.mark.parametrize("text", ["", "3", "[]", "[" * 99_999])
def test_no_verdict_is_refused(text: str) -> None:
    """Text that is no verdict raises RunError."""
    with pytest.raises(RunError):
        Verdict.from_json(text)


def test_a_finding_has_one_of_three_statuses() -> None:
    """A misspelt status is a programming error."""
    with pytest.raises(ValueError, match="PASSED"):
        Finding("size", "PASSED", "")


def test_merging_keeps_the_heaviest() -> None:
    """One finding a rule: FAIL over PASS over UNPROVEN; two proofs of one rule are both shown."""
    proof = Finding("bytes", "PASS", "counted.", {"bytes": 3})
    more = Finding("bytes", "PASS", "counted again.", {"again": 4})
    assert merge([GOOD, OPEN, BAD]) == (BAD, OPEN)
    assert merge([BAD, GOOD]) == (BAD,)
    (both,) = merge([OPEN, proof, more])
    assert both == Finding("bytes", "PASS", "counted. counted again.", {"bytes": 3, "again": 4})
