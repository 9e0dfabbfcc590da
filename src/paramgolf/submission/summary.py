"""`submission.json`: the keys that the contest's records use (rules.md 1.6), every value from the runs' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paramgolf.predict.contest import ContestScore
from paramgolf.referee.rules_bytes import CONTEST_BYTES
from paramgolf.submission.runs import spread
from paramgolf.submission.scored_run import ScoredRun


@dataclass(frozen=True)
class Credits:
    """What only the author knows; None where nobody said it."""

    author: str | None = None
    github_id: str | None = None
    name: str | None = None
    blurb: str | None = None


@dataclass(frozen=True)
class Submission:
    """What every file of a record is made from.

    `commit` of the sources in the script; `contest` the score of each seed as the contest would print it, empty if
    nobody computed it.
    """

    runs: Sequence[ScoredRun]
    credits: Credits
    code_bytes: int
    commit: str | None = None
    contest: Mapping[int, ContestScore] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The given name, else the recipe's with the score."""
        return self.credits.name or f"{self.runs[0].recipe.name}: {spread(self.runs, _bpb).mean:.4f} bits per byte"

    def unproven(self) -> list[str]:
        """Rules that did not pass for every seed."""
        findings = [finding for run in self.runs for finding in run.verdict["findings"]]
        return list(dict.fromkeys(finding["rule"] for finding in findings if finding["status"] != "PASS"))

    def total_bytes(self, run: ScoredRun) -> int:
        """Script and model of one seed."""
        return self.code_bytes + run.artifact_bytes


def submission_record(submission: Submission) -> dict[str, Any]:
    """The object of submission.json."""
    runs, credits = submission.runs, submission.credits
    bpb, loss = spread(runs, _bpb), spread(runs, lambda run: run.nats_per_token)
    totals = [submission.total_bytes(run) for run in runs]
    environment = runs[0].environment
    contest = spread(runs, lambda run: submission.contest[run.seed].bpb) if submission.contest else None
    return {
        "author": credits.author,
        "github_id": credits.github_id,
        "name": submission.title,
        "blurb": credits.blurb or blurb(submission),
        "date": max(str(run.environment.get("started") or "") for run in runs),
        "val_loss": loss.mean,
        "val_bpb": bpb.mean,
        "val_loss_std": loss.deviation,
        "val_bpb_std": bpb.deviation,
        "val_bpb_contest": None if contest is None else contest.mean,
        "val_bpb_contest_std": None if contest is None else contest.deviation,
        "bytes_total": max(totals),
        "bytes_code": submission.code_bytes,
        "artifact_bytes_mean": spread(runs, lambda run: run.artifact_bytes).mean,
        "artifact_bytes_max": max(run.artifact_bytes for run in runs),
        "seeds": [run.seed for run in runs],
        "seed_results": {str(run.seed): _seed_result(submission, run) for run in runs},
        "train_steps_mean": spread(runs, lambda run: run.steps).mean,
        "train_time_s_mean": spread(runs, lambda run: run.train_seconds).mean,
        "eval_time_s_mean": spread(runs, lambda run: run.eval_seconds).mean,
        "hardware": hardware(runs[0]),
        "pytorch_version": (environment.get("versions") or {}).get("torch"),
        "cuda_version": environment.get("cuda"),
        "text": runs[0].score["text"] | {"bytes": runs[0].score["bytes"], "tokens": runs[0].score["tokens"]},
        "documents_not_lossless": runs[0].score.get("documents_not_lossless"),
        "legal": all(run.verdict["legal"] for run in runs),
        "unproven": submission.unproven(),
        "meanings": {
            "val_bpb": "mean over the seeds of bits per byte of the raw text, boundary tokens included",
            "val_loss": "mean over the seeds of nats per token",
            "val_bpb_contest": "the same with the denominator of the contest's byte tables, null if not computed",
            "val_bpb_std": "sample standard deviation over the seeds (n - 1), null for one seed",
            "bytes_total": "the largest seed: bytes of train_gpt.py as it is and of the model file",
            "bytes_code": "train_gpt.py as it is on the disk",
            "artifact_bytes": "the model file, which holds tokenizer and runtime sources too",
            "date": "start of the last run",
        },
    }


def blurb(submission: Submission) -> str:
    """One sentence that the files hold."""
    run = submission.runs[0]
    seeds = "one seed" if len(submission.runs) == 1 else f"{len(submission.runs)} seeds"
    return (
        f"Recipe {run.recipe.name} ({run.recipe.model.layers} layers of width {run.recipe.model.width}), "
        f"{run.recipe.budget.train_seconds:g} s of training, scored with adaptation {run.score.get('adapt')}, {seeds}."
    )


def is_contest_text(run: ScoredRun) -> bool:
    """Whether the scored text can be the contest's validation text, by its size (rules.md 1.8)."""
    least, most = CONTEST_BYTES
    return bool(least <= run.score["bytes"] <= most)


def hardware(run: ScoredRun) -> str:
    """The machine as env.json has it."""
    environment = run.environment
    gpus, ranks = environment.get("gpus") or [], environment.get("ranks")
    processes = f"{ranks} process{'' if ranks == 1 else 'es'} on " if ranks else ""
    if gpus and str(environment.get("device", "")).startswith("cuda"):
        kinds = sorted(set(gpus))
        return processes + ", ".join(f"{gpus.count(kind)} x {kind}" for kind in kinds)
    count = environment.get("threads")
    threads = f", {count} thread{'' if count == 1 else 's'}" if count else ""
    return f"{processes}CPU {environment.get('cpu', 'unknown')}, {environment.get('cores', '?')} cores{threads}"


def _seed_result(submission: Submission, run: ScoredRun) -> dict[str, Any]:
    return {
        "val_bpb": run.bpb,
        "val_bpb_contest": submission.contest[run.seed].bpb if run.seed in submission.contest else None,
        "val_loss": run.nats_per_token,
        "steps": run.steps,
        "train_time_s": run.train_seconds,
        "eval_time_s": run.eval_seconds,
        "artifact_bytes": run.artifact_bytes,
        "code_bytes": submission.code_bytes,
        "bytes_total": submission.total_bytes(run),
    }


def _bpb(run: ScoredRun) -> float:
    return run.bpb
