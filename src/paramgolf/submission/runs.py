"""The runs of one record together: the same but for the seed, and what they come to."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.errors import RunError
from paramgolf.recipe import Recipe
from paramgolf.submission.scored_run import ARTIFACT, ScoredRun, read_scored_run

if TYPE_CHECKING:
    from paramgolf.predict.contest import ContestScore
    from paramgolf.text.text import HeldOutText

MOST_NAMED = 6  # settings that a refusal lists


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one number over the runs; None for a single run."""

    mean: float
    deviation: float | None


def read_runs(folders: Sequence[Path], unproven: Collection[str] = ()) -> tuple[ScoredRun, ...]:
    """The runs in the order of their seeds, as `read_scored_run` reads them; `RunError` if they make no one record.

    `RunError` too for a name in `unproven` that is no rule.
    """
    runs = [read_scored_run(folder, unproven) for folder in folders]
    known = sorted({finding["rule"] for run in runs for finding in run.verdict["findings"]})
    for rule in unproven:
        if rule not in known:
            raise RunError(f"--unproven {rule}: no such rule; there are {', '.join(known)}")
    require_one_record(runs)
    return tuple(sorted(runs, key=lambda run: run.seed))


def require_one_record(runs: Sequence[ScoredRun]) -> None:
    """Refuse runs of other settings, of one seed twice, or scored on other texts or in other ways; `RunError`."""
    first, *others = runs
    for run in others:
        differing = recipe_differences(first.recipe, run.recipe)
        if differing:
            named = "; ".join(differing[:MOST_NAMED])
            more = f"; {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
            raise RunError(f"{first.folder} and {run.folder} differ in more than the seed: {named}{more}")
        if run.text_digest != first.text_digest:
            raise RunError(
                f"{first.folder} was scored on text {_says_text(first)}, {run.folder} on {_says_text(run)}; "
                "score all runs on one text"
            )
        for name in ("adapt", "plan", "documents_not_lossless", "bytes"):
            if run.score.get(name) != first.score.get(name):
                raise RunError(
                    f"{first.folder} was scored with {name} {first.score.get(name)}, "
                    f"{run.folder} with {run.score.get(name)}"
                )
    seeds = [run.seed for run in runs]
    for run in runs:
        if seeds.count(run.seed) > 1:
            same = ", ".join(str(other.folder) for other in runs if other.seed == run.seed)
            raise RunError(f"{same} have one seed, {run.seed}; a record has each seed once")


def recipe_differences(one: Recipe, other: Recipe) -> list[str]:
    """`section.name: value of one, value of the other` for every setting that differs, the seed aside."""
    mine, theirs = (dict(_settings(dataclasses.asdict(recipe))) for recipe in (one, other))
    return [f"{name}: {mine[name]}, {theirs[name]}" for name in mine if mine[name] != theirs[name] and name != "seed"]


def spread(runs: Sequence[ScoredRun], number: Callable[[ScoredRun], float]) -> Spread:
    """Mean and sample standard deviation (n - 1) of a number over the runs."""
    values = [number(run) for run in runs]
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _settings(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _says_text(run: ScoredRun) -> str:
    return f"{run.score['text'].get('name')} ({run.text_digest[:12]})"


def contest_scores(runs: Sequence[ScoredRun], text: HeldOutText) -> dict[int, ContestScore]:
    """The score of each seed as the contest would print it; `RunError` if `text` is not what was scored."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.predict.contest import contest_bpb
    from paramgolf.predict.score_file import load
    from paramgolf.predict.score_text import encode_documents
    from paramgolf.text.byte_table import contest_byte_table
    from paramgolf.text.byte_tokenizer import ByteTokenizer
    from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer

    found = {}
    for run in runs:
        if text.digest != run.text_digest:
            raise RunError(
                f"{run.folder} was scored on text {_says_text(run)}, this is {text.name} ({text.digest[:12]})"
            )
        tokenizer = open_artifact(run.folder / ARTIFACT).tokenizer
        if not isinstance(tokenizer, SentencePieceTokenizer | ByteTokenizer):
            raise RunError(f"the contest has no byte tables for a {tokenizer.kind} tokenizer; leave --text out")
        tokens = encode_documents(tokenizer, text.documents)
        table = contest_byte_table(tokenizer)
        found[run.seed] = contest_bpb(load(run.folder), tokens, table, tokenizer.boundary_id)
    return found
