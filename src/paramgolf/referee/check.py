"""Judge a path: the folder of a run, an artifact, or a stranger's record folder."""

from __future__ import annotations

from pathlib import Path

from paramgolf.errors import RunError
from paramgolf.referee.evidence import RUN_FILES, Evidence, artifact_evidence, run_evidence
from paramgolf.referee.finding import Verdict, merge
from paramgolf.referee.own_record import own_seeds, seed_findings
from paramgolf.referee.record_folder import looks_like_a_record, read_record_folder
from paramgolf.referee.rules_record import record_findings
from paramgolf.referee.rulesets import RuleSet, get_ruleset
from paramgolf.text.text import HeldOutText


def check(path: Path, ruleset: str = "parameter-golf-2026-04", text: HeldOutText | None = None) -> Verdict:
    """The verdict on what is at `path`, from its files alone; with `text` the artifact is also run and probed on it.

    No code of theirs is executed. Raises `RunError` if there is nothing to judge, nothing to run on `text`, or the rule
    set does not exist.
    """
    rules = get_ruleset(ruleset)
    found = _evidence(path)
    if found is None:
        return _record_verdict(path, rules, text)
    findings = rules.findings(found)
    if text is not None:
        from paramgolf.referee.live import live_findings

        findings = merge([*findings, *live_findings(found, text)])
    return Verdict(rules.name, findings)


def _record_verdict(path: Path, rules: RuleSet, text: HeldOutText | None) -> Verdict:
    """A record from its files; of one that has packed models of ours, those as well."""
    record = read_record_folder(path)
    seeds = own_seeds(record)
    if text is not None and not seeds:
        raise RunError(
            f"{path} has no model_seedN.pyz that the installed code could run on {text.name}; leave --text out"
        )
    sizes = [seed.evidence.files["model.pyz"] for seed in seeds]
    of_seeds = seed_findings(record, seeds, rules.limits, text) if seeds else ()
    return Verdict(rules.name, merge([*record_findings(record, rules.limits, sizes), *of_seeds]))


def _evidence(path: Path) -> Evidence | None:
    """Evidence of a run or an artifact; None for a record folder."""
    try:
        if path.is_file():
            return artifact_evidence(path)
        if not path.is_dir():
            raise RunError(f"nothing at {path}; give a run folder, a model.pyz or a record folder")
        if any((path / name).is_file() for name in RUN_FILES if name != "log.txt"):
            return run_evidence(path)
        if looks_like_a_record(path):
            return None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    raise RunError(f"{path} is no run (no {', '.join(RUN_FILES[:2])} ...) and no record (no submission.json, no logs)")
