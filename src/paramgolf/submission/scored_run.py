"""One run that may be submitted: trained, packed, scored on a whole text, and without a broken rule."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.clock import Entry, entries_of
from paramgolf.errors import CheckFailed, RunError
from paramgolf.recipe import Recipe
from paramgolf.referee.rules_ledger import CALIBRATION, TRAINING, training_phases
from paramgolf.run_folder import partial_path

if TYPE_CHECKING:
    from paramgolf.referee.finding import Verdict

Record = dict[str, Any]

ARTIFACT = "model.pyz"
_TRAINED = ("recipe.json", "env.json", "metrics.jsonl", "ledger.json", ARTIFACT)
_SCORED = ("score.json", "bits.npz", "verdict.json")
# What few audited positions leave open, the live probes of the kept verdict may have proven.
_PROBED = ("sums-to-one", "credit-is-row", "blind-to-target", "blind-to-future", "lanes-apart", "predict-is-pure")
_LIMITED = re.compile(r" \(first \d+ documents\)$")  # how score --limit calls its part of a text


@dataclass(frozen=True)
class ScoredRun:
    """The files of a run in memory. Sizes in bytes: of the artifact, and within it of its tokenizer and its sources."""

    folder: Path
    recipe: Recipe
    environment: Record = field(repr=False)
    metrics: tuple[Record, ...] = field(repr=False)
    log: tuple[str, ...] = field(repr=False)
    ledger: tuple[Entry, ...] = field(repr=False)
    score: Record = field(repr=False)
    verdict: Record = field(repr=False)
    artifact_bytes: int
    tokenizer_bytes: int
    source_bytes: int

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def steps(self) -> int:
        """Training steps that were done."""
        return int(self.metrics[-1]["step"])

    @property
    def train_seconds(self) -> float:
        """Seconds of the last training phase, those before a resume included, and of the calibration after it."""
        return sum(entry.seconds for entry in training_phases(self.ledger))

    @property
    def calibration_seconds(self) -> float | None:
        """Seconds of `train_seconds` in which training text calibrated the weights; None if it did not."""
        found = [entry.seconds for entry in training_phases(self.ledger) if entry.name == CALIBRATION]
        return sum(found) if found else None

    @property
    def bpb(self) -> float:
        """Bits per byte of the raw text, everything a decoder needs included."""
        return float(self.score["bpb"])

    @property
    def nats_per_token(self) -> float:
        """Mean cost of a token in nats: the contest's val_loss."""
        return float(self.score["nats_per_token"])

    @property
    def eval_seconds(self) -> float:
        """Seconds of the evaluation: all its phases where they were timed, else those of scoring with its audit."""
        phases = entries_of(self.score.get("ledger") or [])
        return max(float(self.score["seconds"]), sum(entry.seconds for entry in phases))

    @property
    def text_digest(self) -> str:
        """Digest of the text that was scored."""
        return str(self.score["text"]["digest"])


def read_scored_run(folder: Path, unproven: Collection[str] = ()) -> ScoredRun:
    """Read a run and refuse what is no record. `unproven` are rules that may lack evidence; a broken one never passes.

    Raises `RunError` for a folder that is no finished, scored run or whose score is of a part of a text, `CheckFailed`
    with the rules that did not pass if its verdict is not legal, or would not be by its files as they are now.
    """
    from paramgolf.artifact.container import read_container
    from paramgolf.artifact.open import stored_sizes
    from paramgolf.report.run_data import read_run

    _require_files(folder)
    data = read_run(folder)
    record = _require_whole_score(folder)
    verdict = _require_legal(folder, unproven)
    sizes = stored_sizes(read_container(folder / ARTIFACT))
    run = ScoredRun(
        folder=folder,
        recipe=Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8")),
        environment=data.environment or {},
        metrics=tuple(data.metrics or ()),
        log=_log(folder / "log.txt"),
        ledger=tuple(entries_of(data.ledger)),
        score=record,
        verdict=verdict,
        artifact_bytes=sizes["file"],
        tokenizer_bytes=sizes["tokenizer"],
        source_bytes=sizes["source"],
    )
    if not run.metrics or not isinstance(run.metrics[-1].get("step"), int):
        raise RunError(f"{folder / 'metrics.jsonl'} lists no training step")
    if all(entry.name != TRAINING for entry in run.ledger):
        raise RunError(f"{folder / 'ledger.json'} lists no phase called train, so nobody knows how long it took")
    return run


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        if partial_path(folder).is_dir():
            raise RunError(f"{folder} is unfinished; go on with: paramgolf train --resume {folder}")
        raise RunError(f"no run folder {folder}; give folders that train wrote and score --out completed")
    if folder.name.endswith(".partial"):
        raise RunError(f"{folder} is an unfinished run; go on with: paramgolf train --resume {folder}")
    missing = [name for name in _TRAINED if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder} is not the folder of a finished run: it has no {', '.join(missing)}")
    missing = [name for name in _SCORED if not (folder / name).is_file()]
    if "score.json" in missing and any(folder.glob("score.partial*.json")):
        raise RunError(f"{folder} has an incomplete score only (score.partial.json); score the whole text in time")
    if missing:
        raise RunError(
            f"{folder} has no {', '.join(missing)}: it was not scored; "
            f"first: paramgolf score {folder / ARTIFACT} TEXT --out {folder}"
        )


def _require_whole_score(folder: Path) -> Record:
    """score.json, once its bits are seen to add up to what it says, for the whole of a text."""
    from paramgolf.predict.score_file import load, read_record

    record = read_record(folder / "score.json")
    found = load(folder)
    if _LIMITED.search(found.text_name):
        raise RunError(
            f"{folder / 'score.json'} is of a part of the text only: {found.text_name}; score it without --limit"
        )
    return record


def _require_legal(folder: Path, unproven: Collection[str]) -> Record:
    """verdict.json, if every rule passed when it was written, and those on files still pass."""
    from paramgolf.referee.check import check
    from paramgolf.referee.finding import Verdict

    kept = Verdict.from_json((folder / "verdict.json").read_text(encoding="utf-8"))
    _refuse_illegal(folder, kept, "verdict.json says", unproven)
    _refuse_illegal(folder, check(folder), "its files say now", {*unproven, *_PROBED})
    return kept.record()


def _refuse_illegal(folder: Path, verdict: Verdict, when: str, unproven: Collection[str]) -> None:
    if not verdict.findings:
        raise CheckFailed(f"{folder} is not legal, {when}: no rule was applied")
    broken = list(verdict.with_status("FAIL"))
    lacking = [finding for finding in verdict.with_status("UNPROVEN") if finding.rule not in unproven]
    if not broken and not lacking:
        return
    first, *rest = [*broken, *lacking]
    also = f" (also {', '.join(finding.rule for finding in rest)})" if rest else ""
    flags = " ".join(f"--unproven {finding.rule}" for finding in lacking)
    step = "" if broken else f"\nprove it, or submit with {flags}, and the record says that it is not proven"
    raise CheckFailed(f"{folder} is not legal, {when}: {first.rule} {first.status}: {first.says}{also}{step}")


def _log(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines()) if path.is_file() else ()
