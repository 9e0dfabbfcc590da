"""What a record that `submit` wrote shows of each seed: its packed model, the score of it, and the verdict on it.

The credits of single tokens and the hashes of the training documents stay in the run, so two rules stay unproven here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paramgolf.errors import ParamgolfError
from paramgolf.predict.audit_record import Audit
from paramgolf.predict.score_file import read_json, read_record
from paramgolf.referee.evidence import Evidence, artifact_evidence
from paramgolf.referee.finding import Finding, Verdict, merge
from paramgolf.referee.limits import Limits
from paramgolf.referee.record_folder import RecordFolder
from paramgolf.referee.rules_artifact import reproducible
from paramgolf.referee.rules_audit import (
    blind_to_future,
    blind_to_target,
    credit_is_row,
    lanes_apart,
    predict_is_pure,
    sums_to_one,
)
from paramgolf.text.text import HeldOutText

MOST_SEEDS = 64
LOG_SLACK = 1e-6  # bits per byte; logs print eight digits
_MODEL = re.compile(r"model_seed(0|[1-9][0-9]{0,11})\.pyz")
_RULES = (sums_to_one, credit_is_row, blind_to_target, blind_to_future, lanes_apart, predict_is_pure, reproducible)
_IN_THE_RUN = (
    Finding("credited-once", "UNPROVEN", "a record has no bits.npz to add the credits up; check the run itself."),
    Finding("data-separation", "UNPROVEN", "a record has no hashes of the training documents; check the run itself."),
)


@dataclass(frozen=True)
class Seed:
    """One seed: its number, its model with its score, and what the verdict beside them says was broken."""

    number: int
    evidence: Evidence
    admitted: tuple[Finding, ...]


def own_seeds(record: RecordFolder) -> tuple[Seed, ...]:
    """The seeds whose model lies in the folder, by number; none for a record of another making."""
    numbers = sorted(int(match[1]) for name in record.files if (match := _MODEL.fullmatch(name)))
    return tuple(_seed(record, number) for number in numbers[:MOST_SEEDS])


def seed_findings(
    record: RecordFolder, seeds: Sequence[Seed], limits: Limits, text: HeldOutText | None = None
) -> tuple[Finding, ...]:
    """The rules on models and scores, each as the seed has it that is worst off, and what contradicts itself.

    With `text` each model is also run by the installed code and probed on it; raises `RunError` if a score says that
    it is of another text.
    """
    found = {seed.number: _findings_of(seed, limits, text) for seed in seeds}
    return (*_worst(found), *_IN_THE_RUN, *_contradictions(record, seeds))


def _seed(record: RecordFolder, number: int) -> Seed:
    found = artifact_evidence(record.path / f"model_seed{number}.pyz")
    name, verdict = f"score_seed{number}.json", f"verdict_seed{number}.json"
    files, problems, score, audit = dict(found.files), dict(found.problems), None, None
    if name in record.files:
        files["score.json"] = record.files[name]
        try:
            score = read_record(record.path / name)
            audit = None if score.get("audit") is None else Audit.from_record(score["audit"])
        except (ParamgolfError, OSError) as error:
            problems["score.json"] = str(error)
    device = next((log.device for log in record.logs if log.seed == number), None)
    evidence = replace(found, files=files, problems=problems, score=score, audit=audit, environment={"device": device})
    return Seed(number, evidence, _admitted(record.path / verdict) if verdict in record.files else ())


def _admitted(path: Path) -> tuple[Finding, ...]:
    """The broken rules of a verdict that came along; that others pass is a claim, and proves nothing."""
    try:
        return Verdict.from_record(read_json(path)).with_status("FAIL")
    except (ParamgolfError, OSError) as error:
        return (Finding("evidence", "FAIL", f"{path.name} cannot be used: {error}."),)


def _findings_of(seed: Seed, limits: Limits, text: HeldOutText | None) -> tuple[Finding, ...]:
    found = [rule(seed.evidence, limits) for rule in _RULES]
    if text is not None:
        from paramgolf.referee.live import live_findings

        found += live_findings(seed.evidence, text)
    return merge([*found, *seed.admitted])


def _worst(found: Mapping[int, Sequence[Finding]]) -> tuple[Finding, ...]:
    """One finding a rule: a FAIL of any seed outweighs all, and only what every seed passes is a PASS."""
    weight = {"FAIL": 2, "UNPROVEN": 1, "PASS": 0}
    worst: dict[str, tuple[int, Finding]] = {}
    for number, findings in found.items():
        for finding in findings:
            known = worst.get(finding.rule)
            if known is None or weight[finding.status] > weight[known[1].status]:
                worst[finding.rule] = (number, finding)
    return tuple(
        replace(finding, says=f"{_all(found) if finding.status == 'PASS' else ''}seed {number}: {finding.says}")
        for number, finding in worst.values()
    )


def _all(found: Mapping[int, object]) -> str:
    return f"for each of {len(found)} seeds; " if len(found) > 1 else ""


def _contradictions(record: RecordFolder, seeds: Sequence[Seed]) -> tuple[Finding, ...]:
    """Models of another seed than their name, and scores that are not what the seed's log ends in."""
    says = []
    for seed in seeds:
        artifact, claimed = seed.evidence.artifact, (seed.evidence.score or {}).get("bpb")
        if artifact is not None and artifact.recipe.seed != seed.number:
            says.append(f"model_seed{seed.number}.pyz holds a recipe of seed {artifact.recipe.seed}.")
        for log in record.scored_logs():
            if log.seed != seed.number or claimed is None or log.val_bpb is None:
                continue
            if not isinstance(claimed, int | float) or not abs(claimed - log.val_bpb) <= LOG_SLACK:
                says.append(
                    f"score_seed{seed.number}.json claims {str(claimed)[:40]} bits per byte, {log.name} ends in "
                    f"{log.val_bpb:.8f}."
                )
    return (Finding("evidence", "FAIL", " ".join(says)),) if says else ()
