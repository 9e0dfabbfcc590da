"""Score an artifact and judge the score: the same steps for `score` and `quickstart`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.meter import Meter, announced
from paramgolf.errors import CheckFailed, RecipeError

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact
    from paramgolf.exhibits import Exhibit
    from paramgolf.predict.audit_record import Tolerance
    from paramgolf.predict.evaluation import Evaluation
    from paramgolf.predict.protocol import Int64, Predictor
    from paramgolf.predict.score import Score
    from paramgolf.referee.finding import Finding, Verdict
    from paramgolf.text.text import HeldOutText

EXHIBIT = "exhibit:"
PROBING = "probing the predictor ..."
EXHIBIT_LANES = 2  # a leak between lanes needs two


@dataclass(frozen=True)
class Judged:
    """A score with what the audit and the live probes found. `score` is None if a credit was no probability.

    `exhibit` names the rogue that made it, if one did: such a score is never legal.
    """

    score: Score | None
    probes: tuple[Finding, ...]
    verdict: Verdict
    exhibit: str = ""

    @property
    def failed(self) -> bool:
        """Whether a rule was broken, or a rogue scored; what is merely unproven is none of this."""
        return bool(self.exhibit or self.verdict.with_status("FAIL"))


def judge(
    artifact: Artifact,
    text: HeldOutText,
    adapt: str | None = None,
    *,
    limit: int | None = None,
    order: str | None = None,
    evaluation: Evaluation | None = None,
) -> Judged:
    """Score `text` (or its first whole documents of at most `limit` bytes) and probe a fresh predictor on its start.

    `adapt` and `order` None are the recipe's own; `exhibit:NAME` runs a rogue, in the stream's order and without a
    limit of time. `evaluation` is the clock with the ranks that score together (None: this process, within the recipe's
    `budget.eval_seconds`); the probes run on the leading rank alone, off the clock. Progress goes to stderr. Raises
    `RecipeError` for an unknown name, and what `score_text` raises: `ScoreIncomplete` when the time runs out.
    """
    from paramgolf.cli.adapt_names import adapt_names
    from paramgolf.predict.evaluation import Evaluation

    chosen = artifact.recipe.score.adapt if adapt is None else adapt
    known = adapt_names()
    if chosen not in known:
        from paramgolf.cli.arguments import suggestion

        raise RecipeError(
            f"unknown adaptation {chosen!r}{suggestion(chosen, known)} (`paramgolf score --help` lists all)"
        )
    evaluation = evaluation or Evaluation(artifact.recipe.budget.eval_seconds)
    if chosen.startswith(EXHIBIT):
        if evaluation.ranks.world > 1:
            raise RecipeError(f"{chosen} runs in one process, not under torchrun")
        if order not in (None, "stream"):
            raise RecipeError(f"{chosen} runs in the stream's order, not {order}: a rogue finds its place by it")
        evaluation.limit = None  # a score that counts for nothing has no budget
        return _judge_exhibit(artifact, text, chosen.removeprefix(EXHIBIT), limit, evaluation)
    return _judge_honest(artifact, text, chosen, order, limit, evaluation)


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
    artifact: Artifact, text: HeldOutText, adapt: str, order: str | None, limit: int | None, evaluation: Evaluation
) -> Judged:
    from paramgolf.predict.score import ScoreIncomplete
    from paramgolf.predict.score_text import first_documents, score_text
    from paramgolf.referee.live import probe_subject, subject_of

    part = text if limit is None else first_documents(text, limit)
    try:
        with Meter("score", "tokens") as meter:
            progress = _progress(meter) if evaluation.ranks.leads else None
            found = score_text(artifact, part, adapt, order=order, progress=progress, evaluation=evaluation)
    except ScoreIncomplete:
        raise
    except CheckFailed as error:
        return _judged(None, [_refused(error)])
    if not evaluation.ranks.leads:
        return _judged(found, [])
    with announced(PROBING):
        subject = subject_of(artifact, adapt)
        probes = probe_subject(subject, part.documents, _seed())
    return _judged(found, probes, subject.tolerance)


def _judge_exhibit(
    artifact: Artifact, text: HeldOutText, name: str, limit: int | None, evaluation: Evaluation
) -> Judged:
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
    with evaluation.phase("tokenise"):
        part = text if limit is None else first_documents(text, limit)
        tokens = encode_documents(artifact.tokenizer, part.documents)
    lanes = max(EXHIBIT_LANES, artifact.recipe.score.lanes)
    boundary = artifact.tokenizer.boundary_id

    def make(documents: Sequence[Int64]) -> Predictor:
        return exhibit.build(lambda: WholeRows(build_predictor(artifact, "none", lanes=lanes)), documents)

    with announced(PROBING):
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
        with evaluation.phase("build predictor"):
            predictor = make([ids.astype("int64") for ids in tokens])
        with evaluation.phase("score") as phase, Meter("score", "tokens") as meter:
            found = score(
                predictor,
                tokens,
                order,
                boundary,
                raw_bytes=part.size(),
                text_digest=part.digest,
                progress=_progress(meter),
                phase=phase,
            )
    except CheckFailed as error:
        return _of_exhibit(_judged(None, [_refused(error), *probes]), exhibit)
    found = dataclasses.replace(
        found,
        text_name=part.name,
        artifact_digest=artifact.digest,
        adapt=f"{EXHIBIT}{name}",
        ledger=evaluation.entries(),
    )
    return _of_exhibit(_judged(found, probes), exhibit)


def _of_exhibit(judged: Judged, exhibit: Exhibit) -> Judged:
    """What a rogue's own rule did not meet is no proof of innocence: unproven, and never legal."""
    from paramgolf.referee.finding import Finding, Verdict

    tokens = "" if judged.score is None else f" of {judged.score.tokens:,} tokens"
    says = f"{EXHIBIT}{exhibit.name} did not show its fault on this text{tokens}; a longer one may. Its score is not "
    unseen = Finding(exhibit.rule, "UNPROVEN", f"{says}legal all the same: it is built to break this rule.")
    findings = [unseen if one.rule == exhibit.rule and one.status == "PASS" else one for one in judged.verdict.findings]
    verdict = Verdict(judged.verdict.ruleset, tuple(findings))
    return dataclasses.replace(judged, verdict=verdict, exhibit=exhibit.name)


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
