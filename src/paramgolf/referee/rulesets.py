"""Dated rule sets: which rules apply, and with which limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paramgolf.errors import RunError
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding
from paramgolf.referee.limits import Limits
from paramgolf.referee.rules_artifact import reproducible, size
from paramgolf.referee.rules_audit import (
    blind_to_future,
    blind_to_target,
    credit_is_row,
    lanes_apart,
    predict_is_pure,
    sums_to_one,
)
from paramgolf.referee.rules_bytes import bytes_rule
from paramgolf.referee.rules_evidence import data_separation, evidence
from paramgolf.referee.rules_ledger import ledger
from paramgolf.referee.rules_order import document_order
from paramgolf.referee.rules_score import credited_once

Rule = Callable[[Evidence, Limits], Finding]


@dataclass(frozen=True)
class RuleSet:
    """A name with a date, the limits, and the rules that can be applied to the files of a run."""

    name: str
    limits: Limits
    rules: tuple[Rule, ...]

    def findings(self, found: Evidence) -> tuple[Finding, ...]:
        """One finding a rule."""
        return tuple(rule(found, self.limits) for rule in self.rules)


_FILE_RULES: tuple[Rule, ...] = (
    size,
    ledger,
    credited_once,
    document_order,
    bytes_rule,
    sums_to_one,
    credit_is_row,
    blind_to_target,
    blind_to_future,
    lanes_apart,
    predict_is_pure,
    data_separation,
    reproducible,
    evidence,
)

RULESETS = (
    RuleSet("parameter-golf-2026-04", Limits(), _FILE_RULES),
    RuleSet("strict", Limits(train_slack=0.0, lossless=True), _FILE_RULES),
)


def get_ruleset(name: str) -> RuleSet:
    """The rule set of that name; raise `RunError` that lists the known ones."""
    for ruleset in RULESETS:
        if ruleset.name == name:
            return ruleset
    raise RunError(f"unknown rule set {name!r}; known: {', '.join(ruleset.name for ruleset in RULESETS)}")
