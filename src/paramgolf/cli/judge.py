"""Score an artifact and judge the score: the same steps for `score` and `quickstart`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.meter import Meter
from paramgolf.errors import CheckFailed, RecipeError

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact
    from paramgolf.predict.audit_record import Tolerance
    from paramgolf.predict.evaluation import Evaluation
    from paramgolf.predict.protocol import Int64, Predictor
    from paramgolf.predict.score import Score
    from paramgolf.referee.finding import Finding, Verdict
    from paramgolf.text.text import HeldOutText

EXHIBIT = "exhibit:"
EXHIBIT_LANES = 2  # a leak between lanes needs two


@dataclass(frozen=True)
class Judged:
    """A score with what the audit and the live probes found. `score` is None if a credit was no probability."""

    score: Score | None
    probes: tuple[Finding, ...]
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether a rule was broken; what is merely unproven is none of this."""
        return bool(self.verdict.with_status("FAIL"))


def judge(
    artifact: Artifact,
    text: HeldOutText,
    adapt: str | None = None,
    *,
    limit: int | None = None,
    evaluation: Evaluation | None = None,
) -> Judged:
    """Score `text` (or its first whole documents of at most `limit` bytes) and probe a fresh predictor on its start.

    `adapt` None is the recipe's own; `exhibit:NAME` runs a rogue. `evaluation` is the clock with the ranks that score
    together (None: this process, within the recipe's `budget.eval_seconds`); the probes run on the leading rank alone,
    off the clock. Progress goes to stderr. Raises `RecipeError` for an unknown name, and what `score_text` raises:
    `ScoreIncomplete` when the time runs out.
    """
    from paramgolf.cli.adapt_names import adapt_names
    from paramgolf.predict.evaluation import Evaluation

    chosen = artifact.recipe.score.adapt if adapt is None else adapt
    known = adapt_names()
    if chosen not in known:
        from paramgolf.cli.arguments import suggestion

        raise RecipeError(
            f"unknown adaptation {chosen!r}{suggestion(chosen, known)}; `paramgolf score --help` lists all"
        )
    if chosen.startswith(EXHIBIT):
        if evaluation is not None and evaluation.ranks.world > 1:
            raise RecipeError(f"{chosen} runs in one process, not under torchrun")
        return _judge_exhibit(artifact, text, chosen.removeprefix(EXHIBIT), limit)
    return _judge_honest(artifact, text, chosen, limit, evaluation or Evaluation(artifact.recipe.budget.eval_seconds))


def save_judged(judged: Judged, folder: Path) -> Verdict:
    """Write score.json, bits.npz and verdict.json into a folder that has none of them; return the verdict.

    The ledger of a run (a folder with recipe.json) gets the phases of the evaluation, unless it lists one; the verdict
    is that of the whole run, with the rules on its files as well.
    """
    from paramgolf.predict.score_file import save
    from paramgolf.referee.check import check
    from paramgolf.referee.finding import Verdict, merge
    from paramgolf.run_folder import write_atomically

    if judged.score is not None:
        save(judged.score, folder)
        _append_ledger(judged.score, folder)
    verdict = judged.verdict
    if (folder / "recipe.json").exists():
        of_files = check(folder)
        verdict = Verdict(of_files.ruleset, merge([*of_files.findings, *judged.probes]))
    write_atomically(folder / "verdict.json", (verdict.to_json() + "\n").encode())
    return verdict


def _append_ledger(found: Score, folder: Path) -> None:
    """Put the evaluation's phases behind those of a run's ledger; where one has been timed already, it stays."""
    from paramgolf.clock import entries_of
    from paramgolf.predict.score_file import read_json
    from paramgolf.referee.rules_ledger import evaluates
    from paramgolf.run_folder import write_atomically

    path = folder / "ledger.json"
    if not path.exists() or not found.ledger:
        return
    entries = entries_of(read_json(path))
    if not any(evaluates(entry) for entry in entries):
        record = [dataclasses.asdict(entry) for entry in [*entries, *found.ledger]]
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def _judge_honest(
    artifact: Artifact, text: HeldOutText, adapt: str, limit: int | None, evaluation: Evaluation
) -> Judged:
    from paramgolf.predict.score import ScoreIncomplete
    from paramgolf.predict.score_text import first_documents, score_text
    from paramgolf.referee.live import probe_subject, subject_of

    part = text if limit is None else first_documents(text, limit)
    try:
        with Meter("score", "tokens") as meter:
            progress = _progress(meter) if evaluation.ranks.leads else None
            found = score_text(artifact, part, adapt, progress=progress, evaluation=evaluation)
    except ScoreIncomplete:
        raise
    except CheckFailed as error:
        return _judged(None, [_refused(error)])
    if not evaluation.ranks.leads:
        return _judged(found, [])
    subject = subject_of(artifact, adapt)
    return _judged(found, probe_subject(subject, part.documents, _seed()), subject.tolerance)


def _judge_exhibit(artifact: Artifact, text: HeldOutText, name: str, limit: int | None) -> Judged:
    """Score with a rogue around the artifact's own rows, so that it can cheat, and see whether it is caught."""
    from paramgolf.cli.whole_rows import WholeRows
    from paramgolf.exhibits import EXHIBITS
    from paramgolf.predict.adapt import build_predictor
    from paramgolf.predict.plan import plan
    from paramgolf.predict.score import score
    from paramgolf.predict.score_text import encode_documents, first_documents
    from paramgolf.referee.live import probe_size
    from paramgolf.referee.probe_size import beginning
    from paramgolf.referee.probes import probe_predictor

    exhibit = EXHIBITS[name]
    part = text if limit is None else first_documents(text, limit)
    tokens = encode_documents(artifact.tokenizer, part.documents)
    lanes = max(EXHIBIT_LANES, artifact.recipe.score.lanes)
    boundary = artifact.tokenizer.boundary_id

    def make(documents: Sequence[Int64]) -> Predictor:
        return exhibit.build(lambda: WholeRows(build_predictor(artifact, "none", lanes=lanes)), documents)

    size = probe_size(make([ids.astype("int64") for ids in tokens[:1]]), lanes)
    probes = probe_predictor(
        make,
        beginning(tokens, size.tokens, lanes, len(tokens)),
        lanes=lanes,
        chunk=size.chunk,
        boundary_id=boundary,
        seed=_seed(),
        positions=size.positions,
        counterfactuals=size.counterfactuals,
        candidates=size.candidates,
        decoded_tokens=size.decoded,
    )
    # In the stream's order, as the probes read: a rogue that knows the documents finds its place by it.
    order = plan([len(ids) for ids in tokens], lanes=lanes, chunk=artifact.recipe.score.chunk)
    try:
        with Meter("score", "tokens") as meter:
            progress = _progress(meter)
            predictor = make([ids.astype("int64") for ids in tokens])
            found = score(
                predictor, tokens, order, boundary, raw_bytes=part.size(), text_digest=part.digest, progress=progress
            )
    except CheckFailed as error:
        return _judged(None, [_refused(error), *probes])
    found = dataclasses.replace(found, text_name=part.name, artifact_digest=artifact.digest, adapt=f"{EXHIBIT}{name}")
    return _judged(found, probes)


def _judged(found: Score | None, probes: Sequence[Finding], tolerance: Tolerance | None = None) -> Judged:
    from paramgolf.predict.audit_record import TOLERANCE
    from paramgolf.referee.finding import Verdict, merge
    from paramgolf.referee.rules_audit import audit_findings

    audited = () if found is None else audit_findings(found.audit, found.tokens, tolerance or TOLERANCE)
    return Judged(found, tuple(probes), Verdict("audit and live probes", merge([*audited, *probes])))


def _refused(error: CheckFailed) -> Finding:
    """What the scorer refused to credit, as a finding of the rule that its message begins with."""
    from paramgolf.referee.finding import Finding

    rule, _, says = str(error).partition(": ")
    return Finding(rule, "FAIL", f"{says}.") if says and " " not in rule else Finding("sums-to-one", "FAIL", str(error))


def _progress(meter: Meter) -> Any:
    return lambda done, total, bits: meter.update(done, total, f"{bits / max(done, 1):.3f} bits/token")


def _seed() -> int:
    return int.from_bytes(os.urandom(6), "little")
