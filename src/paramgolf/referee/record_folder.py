"""Somebody's record folder, read and never run: submission.json, logs, and how large the script is."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramgolf.errors import RunError
from paramgolf.predict.score_file import read_record
from paramgolf.referee.record_log import LogFacts, read_log

SCRIPT = "train_gpt.py"
SUBMISSION = "submission.json"
MAX_LOG_BYTES = 32 * 2**20
MAX_SCRIPT_BYTES = 16 * 2**20
MAX_LOGS = 64
_NO_LOGS = ("requirements.txt", "readme.txt", "license.txt")


@dataclass(frozen=True)
class RecordFolder:
    """`files` on the disk with their bytes; `logs` those that print a final score, a time or a size.

    `script_bytes` as the file is, `script_lzma_bytes` after lzma: the two readings of "code size" that were in use.
    """

    path: Path
    files: Mapping[str, int]
    submission: Mapping[str, Any] | None
    problem: str
    logs: tuple[LogFacts, ...]
    script_bytes: int | None
    script_lzma_bytes: int | None

    def submitted(self, name: str) -> float | None:
        """A finite number of submission.json, or None."""
        value = (self.submission or {}).get(name)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        return float(value) if usable and value is not None else None

    def scored_logs(self) -> tuple[LogFacts, ...]:
        """The logs that end in a val_loss and a val_bpb."""
        return tuple(log for log in self.logs if log.val_loss is not None and log.val_bpb is not None)


def looks_like_a_record(folder: Path) -> bool:
    """Whether a folder has what a record folder has."""
    return (folder / SUBMISSION).is_file() or (folder / SCRIPT).is_file() or any(folder.glob("*.log"))


def read_record_folder(folder: Path) -> RecordFolder:
    """Read the folder; damaged or hostile files become `problem` or are left out, never an exception."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    submission, problem = None, ""
    if SUBMISSION in files:
        try:
            submission = read_record(folder / SUBMISSION)
        except RunError as error:
            problem = str(error)
    script = _bytes(folder / SCRIPT, files, MAX_SCRIPT_BYTES)
    return RecordFolder(
        path=folder,
        files=files,
        submission=submission,
        problem=problem,
        logs=_logs(folder, files),
        script_bytes=files.get(SCRIPT),
        script_lzma_bytes=None if script is None else len(lzma.compress(script, preset=9)),
    )


def _logs(folder: Path, files: Mapping[str, int]) -> tuple[LogFacts, ...]:
    names = [n for n in files if n.endswith((".log", ".txt")) and n.lower() not in _NO_LOGS][:MAX_LOGS]
    found = []
    for name in names:
        data = _bytes(folder / name, files, MAX_LOG_BYTES)
        if data is not None:
            found.append(read_log(name, data.decode("utf-8", "replace")))
    return tuple(log for log in found if log.val_bpb is not None or log.train_seconds is not None or log.total_bytes)


def _bytes(path: Path, files: Mapping[str, int], most: int) -> bytes | None:
    if path.name not in files or files[path.name] > most:
        return None
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return None
