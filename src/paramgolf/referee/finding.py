"""What the referee says: one finding a rule, and the verdict they make together.

Light on purpose (no numpy, no torch): whoever only reads verdicts pays nothing for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from types import MappingProxyType
from typing import Any, Literal, get_args

from paramgolf.errors import RunError

Status = Literal["PASS", "FAIL", "UNPROVEN"]
Number = float | int | str
Numbers = dict[str, float | int | str]
NO_NUMBERS: Mapping[str, Number] = MappingProxyType({})


@dataclass(frozen=True)
class Finding:
    """What one rule found: its name, the status, a sentence a person understands, and the numbers behind it.

    UNPROVEN means that the evidence is missing; it is not a pass. Numbers that JSON cannot hold become words.
    """

    rule: str
    status: Status
    says: str
    numbers: Mapping[str, Number] = field(default_factory=lambda: NO_NUMBERS)

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"finding {self.rule!r}: status {self.status!r} is none of {get_args(Status)}")
        tidy = {str(name): _plain(value) for name, value in self.numbers.items()}
        object.__setattr__(self, "numbers", MappingProxyType(tidy))

    def record(self) -> dict[str, Any]:
        """The finding as JSON values: rule, status, says, numbers."""
        return {"rule": self.rule, "status": self.status, "says": self.says, "numbers": dict(self.numbers)}

    @staticmethod
    def from_record(record: object) -> Finding:
        """Read `record()` back; raise `RunError` if it is anything else."""
        if not isinstance(record, dict) or not isinstance(record.get("numbers"), dict):
            raise RunError("a finding should be an object with rule, status, says and numbers")
        words = [record.get(name) for name in ("rule", "status", "says")]
        if not all(isinstance(word, str) for word in words) or record["status"] not in get_args(Status):
            raise RunError(
                f"a finding has rule, status and says {words}: expected words, status one of {get_args(Status)}"
            )
        if not all(isinstance(value, int | float | str) for value in record["numbers"].values()):
            raise RunError(f"the numbers of finding {record['rule']!r} should be numbers or words")
        return Finding(record["rule"], record["status"], record["says"], record["numbers"])


@dataclass(frozen=True)
class Verdict:
    """The findings of one rule set. Legal only if there are findings and every one of them passes."""

    ruleset: str
    findings: tuple[Finding, ...]

    @property
    def legal(self) -> bool:
        return bool(self.findings) and all(finding.status == "PASS" for finding in self.findings)

    def with_status(self, status: Status) -> tuple[Finding, ...]:
        """The findings that have `status`."""
        return tuple(finding for finding in self.findings if finding.status == status)

    def record(self) -> dict[str, Any]:
        """The verdict as JSON values: legal, ruleset, findings."""
        findings = [finding.record() for finding in self.findings]
        return {"legal": self.legal, "ruleset": self.ruleset, "findings": findings}

    def to_json(self) -> str:
        """What `verdict.json` holds."""
        return json.dumps(self.record(), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Verdict:
        """Read `to_json` back. `legal` follows from the findings: a file that says otherwise raises `RunError`."""
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"verdict is not JSON: {error}") from None
        return Verdict.from_record(record)

    @staticmethod
    def from_record(record: object) -> Verdict:
        """Read `record()` back; `RunError` as for `from_json`."""
        if not isinstance(record, dict) or not isinstance(record.get("findings"), list):
            raise RunError("a verdict should be an object with ruleset, legal and a list of findings")
        verdict = Verdict(str(record.get("ruleset")), tuple(map(Finding.from_record, record["findings"])))
        if record.get("legal") is not verdict.legal:
            raise RunError(f"verdict says legal={record.get('legal')!r}, its findings say {verdict.legal}")
        return verdict


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding a rule, in the order of first mention: a FAIL outweighs a PASS, and a proof outweighs UNPROVEN.

    Sentences and numbers of equal weight are put together, so a rule proven twice shows both proofs; a claim that both
    make before a colon is said once.
    """
    weight = {"FAIL": 2, "PASS": 1, "UNPROVEN": 0}
    kept: dict[str, Finding] = {}
    for finding in findings:
        known = kept.get(finding.rule)
        if known is None or weight[finding.status] > weight[known.status]:
            kept[finding.rule] = finding
        elif finding.status == known.status and finding.says != known.says:
            both = {**known.numbers, **finding.numbers}
            kept[finding.rule] = Finding(finding.rule, finding.status, _together(known.says, finding.says), both)
    return tuple(kept.values())


def _together(one: str, other: str) -> str:
    claim, colon, proof = other.partition(": ")
    same = colon and one.startswith(claim + colon) and one.endswith(".")
    return f"{one[:-1]}; {proof}" if same else f"{one} {other}"


def _plain(value: Any) -> Number:
    if isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else str(number)
