"""What a verb shows: lines for a person, or one JSON object for a program.

For a person, results go to stdout and progress to stderr. With --json everything but the object goes to stderr, and the
object is the last line of stdout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any


class Output:
    """Where a verb writes; `as_json` says who reads it."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._record: dict[str, Any] | None = None

    def say(self, line: str = "") -> None:
        """One line of the result, for a person."""
        print(line, file=sys.stderr if self.as_json else sys.stdout)

    def note(self, line: str) -> None:
        """One line of progress, on stderr."""
        print(line, file=sys.stderr, flush=True)

    def table(self, rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Aligned columns; those in `right` (by number) are aligned right."""
        if not rows:
            return
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ]
            self.say("  " + "  ".join(cells).rstrip())

    def next(self, *words: str | Path) -> None:
        """Name the next sensible command."""
        self.say(f"next: {shlex.join(map(str, words))}")

    def result(self, record: Mapping[str, Any]) -> None:
        """Keep the object that --json prints last; the last call wins."""
        self._record = dict(record)

    def flush(self) -> None:
        """Print the kept object, if a program reads it."""
        if self.as_json and self._record is not None:
            print(json_line(self._record), flush=True)

    def fail(self, name: str, message: str, status: int) -> int:
        """Say what went wrong and return `status`."""
        print(f"{name}: {message}", file=sys.stderr, flush=True)
        if self.as_json:
            print(json_line({"error": message, "exit_status": status}), flush=True)
        return status

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """With --json, stray prints of anything that runs inside go to stderr."""
        with contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext():
            yield


def json_line(record: Mapping[str, Any]) -> str:
    """One line of strict JSON: what is not a number is null."""
    return json.dumps(plain(record), allow_nan=False)


def plain(value: Any) -> Any:
    """Dataclasses, paths, enums, NumPy scalars and arrays as JSON values; NaN and infinities as null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
