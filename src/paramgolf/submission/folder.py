"""The record folder: written beside its place, renamed when it is complete, never over anything."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramgolf.errors import BudgetError, OutputError
from paramgolf.predict.contest import ContestScore
from paramgolf.referee.evidence import CALIBRATION_FILE
from paramgolf.run_folder import says_unwritten
from paramgolf.submission.log_lines import log_text
from paramgolf.submission.names import SCRIPT, calibration_name, log_name, model_name, score_name, verdict_name
from paramgolf.submission.readme import readme_text
from paramgolf.submission.scored_run import ARTIFACT, ScoredRun
from paramgolf.submission.script import build_script, exported_sources, required_packages
from paramgolf.submission.summary import Credits, Submission, submission_record


@dataclass(frozen=True)
class RecordReport:
    """What was written: the folder, the object of submission.json, and the cap that the totals were held to."""

    folder: Path
    submission: dict[str, Any]
    cap: int


def write_record(
    runs: Sequence[ScoredRun],
    out: Path,
    entry: str,
    credits: Credits,
    *,
    commit: str | None = None,
    contest: Mapping[int, ContestScore] | None = None,
    cap: int | None = None,
) -> RecordReport:
    """Write the record of `runs` (`runs.read_runs`) to the new folder `out`.

    `entry` is what the script runs (`script.build_script`), `commit` that of the installed sources, `contest` the
    contest's figure of each seed; `cap` is the most bytes that script and model of a seed may have together, by default
    the recipe's budget. Raises `BudgetError` with both sizes if a seed is above it, `OutputError` if
    `out` exists or cannot be written.
    """
    refuse_taken(out)
    recipe = runs[0].recipe
    limit = recipe.budget.artifact_bytes if cap is None else cap
    script = build_script(recipe, entry, commit)
    submission = Submission(runs, credits, len(script), commit, contest or {})
    require_within(submission, limit)
    requirements = required_packages(exported_sources(entry))
    record = submission_record(submission)
    with _new_folder(out, len(script) + sum(run.artifact_bytes for run in runs)) as folder:
        (folder / SCRIPT).write_bytes(script)
        (folder / "requirements.txt").write_text("\n".join([*requirements, ""]), encoding="utf-8")
        (folder / "submission.json").write_text(_json(record), encoding="utf-8")
        (folder / "README.md").write_text(readme_text(submission, requirements), encoding="utf-8")
        for run in runs:
            (folder / log_name(run.seed)).write_text(log_text(run, len(script)), encoding="utf-8")
            (folder / score_name(run.seed)).write_text(_json(run.score), encoding="utf-8")
            (folder / verdict_name(run.seed)).write_text(_json(run.verdict), encoding="utf-8")
            shutil.copyfile(run.folder / ARTIFACT, folder / model_name(run.seed))
            if (run.folder / CALIBRATION_FILE).exists():
                shutil.copyfile(run.folder / CALIBRATION_FILE, folder / calibration_name(run.seed))
    return RecordReport(out, record, limit)


def require_within(submission: Submission, cap: int) -> None:
    """`BudgetError` if script and model of any seed together have more than `cap` bytes."""
    largest = max(submission.runs, key=lambda run: run.artifact_bytes)
    total, code = submission.total_bytes(largest), submission.code_bytes
    if total <= cap:
        return
    says = (
        f"{SCRIPT} ({code:,} bytes) and {largest.folder / ARTIFACT} ({largest.artifact_bytes:,}) make {total:,} bytes, "
    )
    says += f"{total - cap:,} above the cap of {cap:,};\n"
    if cap <= code:
        raise BudgetError(f"{says}the script alone does not fit: give a larger --cap if the rules allow it")
    raise BudgetError(
        f"{says}squeeze the model further: paramgolf pack {largest.folder} --budget {cap - code} --new-run RUN "
        "(or give a larger --cap if the rules allow it)"
    )


def refuse_taken(out: Path) -> None:
    """`OutputError` if `out` exists."""
    if os.path.lexists(out):
        raise OutputError(f"{out} exists already; choose another --out, or move it away")


@contextmanager
def _new_folder(out: Path, size: int) -> Iterator[Path]:
    """A folder that becomes `out` if the body succeeds, and vanishes if it does not."""
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".partial", dir=out.parent))
        partial.chmod(0o755)
        yield partial
        refuse_taken(out)
        partial.rename(out)
    except BaseException as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(says_unwritten(out, size, error)) from None
        raise


def _json(record: object) -> str:
    return json.dumps(record, indent=1, allow_nan=False) + "\n"
