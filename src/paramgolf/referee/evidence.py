"""What the referee may look at: the files of a run folder or an artifact, read as if a stranger had written them.

Nothing is executed, unpickled or imported from there, and torch is not needed. A file that cannot be read becomes a
`problem` with its reason, never an exception: the rules decide what that means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from paramgolf.clock import Entry, entries_of
from paramgolf.errors import ParamgolfError
from paramgolf.predict.audit_record import Audit
from paramgolf.predict.plan import Plan
from paramgolf.predict.score_file import HASHES_FILE, plan_of, read_arrays, read_hashes, read_json, read_record
from paramgolf.recipe import Recipe
from paramgolf.referee.artifact_facts import ArtifactFacts, artifact_facts

Arrays = dict[str, npt.NDArray[Any]]
Record = dict[str, Any]
T = TypeVar("T")

RUN_FILES = (
    "recipe.json",
    "env.json",
    "log.txt",
    "metrics.jsonl",
    "ledger.json",
    "model.pyz",
    "score.json",
    "bits.npz",
)
CALIBRATION_FILE = "calibration.json"  # of runs whose weights were calibrated


@dataclass(frozen=True)
class Evidence:
    """A run as its files tell it. None means missing or unreadable; `problems` says which and why, by file name."""

    path: Path
    files: Mapping[str, int]  # file name -> bytes on the disk
    problems: Mapping[str, str]
    recipe: Recipe | None = None
    environment: Record | None = None
    ledger: tuple[Entry, ...] | None = None
    score: Record | None = None
    audit: Audit | None = None
    arrays: Arrays | None = field(default=None, repr=False)
    plan: Plan | None = field(default=None, repr=False)
    train_hashes: npt.NDArray[np.uint64] | None = field(default=None, repr=False)
    artifact: ArtifactFacts | None = None
    calibration: Record | None = None

    def trouble(self, *names: str) -> str:
        """Why files cannot be used: the damage of the first damaged one, else which are missing, else ""."""
        for name in names:
            if name in self.problems:
                return self.problems[name]
        missing = [name for name in names if name not in self.files]
        return f"{', '.join(missing)} is missing" if missing else ""

    def artifact_path(self) -> Path | None:
        """Where the artifact lies, if there is one."""
        if "model.pyz" not in self.files:
            return None
        return self.path if self.path.is_file() else self.path / "model.pyz"

    def text_digest(self) -> str:
        """Digest of the held-out text as score.json says it; "" if it does not."""
        text = (self.score or {}).get("text")
        return str(text.get("digest") or "") if isinstance(text, dict) else ""


def run_evidence(folder: Path) -> Evidence:
    """Read the folder of a run; any file may be missing or hostile."""
    reader = _Reader(folder)
    score = reader.read("score.json", read_record)
    arrays = reader.read("bits.npz", read_arrays)
    return Evidence(
        path=folder,
        files=reader.files,
        recipe=reader.read("recipe.json", _recipe),
        environment=reader.read("env.json", read_record),
        ledger=reader.read("ledger.json", _ledger),
        score=score,
        audit=None if score is None or score.get("audit") is None else reader.read("score.json", _audit),
        arrays=arrays,
        plan=None if arrays is None else reader.read("bits.npz", lambda _: plan_of(arrays)),
        train_hashes=reader.read(HASHES_FILE, read_hashes),
        artifact=reader.read("model.pyz", artifact_facts),
        calibration=reader.read(CALIBRATION_FILE, read_record),
        problems=reader.problems,
    )


def artifact_evidence(path: Path) -> Evidence:
    """Evidence of a lone artifact, whatever its name."""
    problems: dict[str, str] = {}
    facts = None
    try:
        facts = artifact_facts(path)
    except ParamgolfError as error:
        problems["model.pyz"] = str(error)
    return Evidence(path=path, files={"model.pyz": path.stat().st_size}, problems=problems, artifact=facts)


class _Reader:
    """Reads files one by one and remembers what went wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
        self.problems: dict[str, str] = {}

    def read(self, name: str, how: Callable[[Path], T]) -> T | None:
        if name not in self.files:
            return None
        try:
            return how(self.folder / name)
        except ParamgolfError as error:
            self.problems.setdefault(name, str(error))
        except (OSError, MemoryError) as error:
            self.problems.setdefault(name, f"{name} cannot be read: {error}")
        return None


def _recipe(path: Path) -> Recipe:
    return Recipe.from_json(json.dumps(read_json(path)))


def _ledger(path: Path) -> tuple[Entry, ...]:
    return tuple(entries_of(read_json(path)))


def _audit(path: Path) -> Audit:
    return Audit.from_record(read_record(path).get("audit"))
