"""Scored runs side by side: what the seeds of one recipe come to, and whether one is better than another.

Runs that differ in nothing but the seed make a group; every group is compared with the first one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paramgolf.clock import entries_of
from paramgolf.errors import ParamgolfError, RunError
from paramgolf.predict.score import Score
from paramgolf.predict.score_file import BITS_FILE, SCORE_FILE, load, read_json, read_record
from paramgolf.recipe import Recipe
from paramgolf.referee.paired import Paired, paired_scores
from paramgolf.referee.rules_ledger import training_phases
from paramgolf.referee.statistics import CONTEST_MARGIN, Sample, Welch, interval, sample_of, welch
from paramgolf.run_folder import partial_path

ARTIFACT = "model.pyz"


@dataclass(frozen=True)
class Run:
    """One scored run. `seed` and `recipe` are unknown in a folder that only `score --out` wrote; so may the rest be."""

    folder: Path
    score: Score = field(repr=False)
    recipe: Recipe | None
    artifact_bytes: int | None
    train_seconds: float | None
    legal: bool | None

    @property
    def kind(self) -> tuple[str, ...]:
        """What runs of one group share: all settings but the seed, the adaptation, the order, and the text."""
        scored = self.score.adapt, self.score.plan.order, self.score.text_digest
        if self.recipe is None:
            return f"folder {self.folder.resolve()}", *scored
        return replace(self.recipe, seed=0).fingerprint(), *scored


@dataclass(frozen=True)
class Group:
    """The runs of one kind, in the order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def bpb(self) -> Sample:
        return sample_of([run.score.bpb for run in self.runs])

    @property
    def nats_per_token(self) -> Sample:
        return sample_of([run.score.nats_per_token for run in self.runs])

    @property
    def text(self) -> str:
        return f"{self.runs[0].score.text_name} ({self.runs[0].score.text_digest[:12]})"

    def record(self) -> dict[str, Any]:
        """The numbers as JSON values; bytes and seconds are the largest and the mean of the runs."""
        bpb, bounds = self.bpb, interval(self.bpb)
        trained = [run.train_seconds for run in self.runs if run.train_seconds is not None]
        return {
            "name": self.name,
            "runs": [run.folder for run in self.runs],
            "seeds": [None if run.recipe is None else run.recipe.seed for run in self.runs],
            "text": {"name": self.runs[0].score.text_name, "digest": self.runs[0].score.text_digest},
            "adapt": self.runs[0].score.adapt,
            "order": self.runs[0].score.plan.order,
            "bpb": [run.score.bpb for run in self.runs],
            "mean": bpb.mean,
            "sd": bpb.deviation,
            "interval": bounds,
            "nats_per_token": self.nats_per_token.mean,
            "bytes": max((run.artifact_bytes for run in self.runs if run.artifact_bytes is not None), default=None),
            "train_seconds": sum(trained) / len(trained) if trained else None,
            "score_seconds": sum(run.score.seconds for run in self.runs) / len(self.runs),
            "legal": None if any(run.legal is None for run in self.runs) else all(run.legal for run in self.runs),
        }


@dataclass(frozen=True)
class Comparison:
    """`new` against `old`. A test that could not be done is None, and `notes` says why.

    `welch` is over seeds in bits per byte; `margin` the same in nats a token against the contest's 0.005; `paired` is
    over documents.
    """

    new: Group
    old: Group
    welch: Welch | None
    margin: Welch | None
    paired: Paired | None
    notes: tuple[str, ...]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the order given; `RunError` for one given twice, one without a score, or one that is damaged."""
    seen: dict[Path, Path] = {}
    for folder in folders:
        known = seen.setdefault(folder.resolve(), folder)
        if known is not folder:
            raise RunError(f"{folder} is given twice; a run is no second sample of itself")
    return [_read(folder) for folder in folders]


def groups_of(runs: Iterable[Run]) -> tuple[Group, ...]:
    """The runs by kind, in order of first mention. A seed counts once: later runs of it stand alone."""
    kinds: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    groups = []
    for members in kinds.values():
        first: dict[int, Run] = {}
        again = [run for run in members if first.setdefault(_seed(run), run) is not run]
        groups.append(Group(_name(members[0]), tuple(sorted(first.values(), key=_seed))))
        groups += [Group(_name(run), (run,)) for run in again]
    return _told_apart(groups)


def compare(new: Group, old: Group) -> Comparison:
    """Every test that the two groups allow; what they do not allow is said in `notes`."""
    notes, between, margin, over_documents = [], None, None, None
    one, other = new.runs[0].score, old.runs[0].score
    same_text = one.text_digest == other.text_digest
    if not same_text:
        notes.append(f"other texts, {new.text} and {old.text}: nothing can be compared; score both on one text")
    elif min(len(new.runs), len(old.runs)) < 2:
        notes.append("no Welch test: it needs two seeds on each side")
    else:
        between = welch([run.score.bpb for run in new.runs], [run.score.bpb for run in old.runs])
        if one.tokens == other.tokens:
            nats = [[run.score.nats_per_token for run in group.runs] for group in (new, old)]
            margin = welch(nats[0], nats[1], margin=CONTEST_MARGIN)
        else:
            notes.append(f"no test against 0.005 nats a token: {one.tokens:,} and {other.tokens:,} tokens")
    if same_text:
        try:
            over_documents = paired_scores([run.score for run in new.runs], [run.score for run in old.runs])
        except RunError as error:
            notes.append(f"not paired: {error}")
    if new.runs[0].kind == old.runs[0].kind:
        seeds = sorted({_seed(run) for run in new.runs} & {_seed(run) for run in old.runs})
        notes += [f"seed {seed} appears twice in runs of one recipe: no second sample of it" for seed in seeds]
    for group in (new, old):
        notes += [f"{run.folder} is NOT legal by its verdict.json" for run in group.runs if run.legal is False]
    return Comparison(new, old, between, margin, over_documents, tuple(notes))


def _read(folder: Path) -> Run:
    if not folder.is_dir():
        if partial_path(folder).is_dir():
            raise RunError(f"{folder} is unfinished; go on with: paramgolf train --resume {folder}")
        raise RunError(f"no run folder {folder}; give folders that train wrote and score --out completed")
    missing = [name for name in (SCORE_FILE, BITS_FILE) if not (folder / name).is_file()]
    if missing:
        model = folder / ARTIFACT if (folder / ARTIFACT).is_file() else "MODEL.pyz"
        raise RunError(
            f"{folder} has no {' and no '.join(missing)}: it was not scored; "
            f"first: paramgolf score {model} TEXT --out {folder}"
        )
    recipe, artifact, verdict = folder / "recipe.json", folder / ARTIFACT, folder / "verdict.json"
    return Run(
        folder=folder,
        score=load(folder),
        recipe=_recipe(recipe) if recipe.is_file() else None,
        artifact_bytes=artifact.stat().st_size if artifact.is_file() else None,
        train_seconds=_train_seconds(folder / "ledger.json"),
        legal=(read_record(verdict).get("legal") is True) if verdict.is_file() else None,
    )


def _recipe(path: Path) -> Recipe:
    record = read_record(path)
    try:
        return Recipe.from_json(json.dumps(record))
    except ParamgolfError as error:
        raise RunError(f"{path}: {error}") from None


def _train_seconds(path: Path) -> float | None:
    """Seconds of training with its calibration, None where no phase is called so."""
    if not path.is_file():
        return None
    entries = read_json(path)
    try:
        found = training_phases(entries_of(entries))
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    return sum(float(entry.seconds) for entry in found) if found else None


def _name(run: Run) -> str:
    called = run.folder.name if run.recipe is None else run.recipe.name
    also = [word for word in (run.score.adapt, run.score.plan.order) if word not in ("", "none", "stream")]
    return ", ".join([called, *also])


def _seed(run: Run) -> int:
    return 0 if run.recipe is None else run.recipe.seed


def _told_apart(groups: list[Group]) -> tuple[Group, ...]:
    """Groups of one name get their first folder's name as well."""
    names = [group.name for group in groups]
    return tuple(
        Group(f"{group.name} [{group.runs[0].folder.name}]", group.runs) if names.count(group.name) > 1 else group
        for group in groups
    )
