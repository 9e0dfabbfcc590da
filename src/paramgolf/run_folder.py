"""The folder of a run: built under `PATH.partial`, renamed when it is complete, never written over.

Every file arrives whole: written beside its place, flushed to the disk, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from pathlib import Path

from paramgolf.errors import OutputError, RunError

LOG = "log.txt"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """A folder that is being written (`path`) and the name it will have (`final_path`)."""

    def __init__(self, final_path: Path, *, finished: bool) -> None:
        self.final_path = final_path
        self.finished = finished
        self._made: list[Path] = []  # folders above it that were made for it, innermost first

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Begin a new run. Raises `OutputError` if `path` or its partial folder exists, or cannot be made."""
        final = Path(path)
        partial = partial_path(final)
        if os.path.lexists(final):
            raise OutputError(f"{final} exists already; choose another --out, or move it away")
        if os.path.lexists(partial):
            raise OutputError(
                f"{partial} is an unfinished run; continue it with train --resume {final}, or move it away"
            )
        try:
            made = [folder for folder in partial.parents if not folder.exists()]
            partial.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"cannot create {partial}: {error.strerror}; choose another --out") from None
        run = cls(final, finished=False)
        run._made = made
        return run

    @classmethod
    def resume(cls, path: str | Path) -> RunFolder:
        """Find the run `path`, unfinished (`path.partial`, also when that is given) or finished; else `RunError`."""
        given = Path(path)
        final = given.with_name(given.name.removesuffix(".partial"))
        for folder, finished in ((partial_path(final), False), (final, True)):
            if folder.is_dir():
                return cls(final, finished=finished)
        raise RunError(f"no run at {final} or {partial_path(final)}; give the folder that train --out named")

    @property
    def path(self) -> Path:
        """Where the files are now."""
        return self.final_path if self.finished else partial_path(self.final_path)

    def finish(self) -> Path:
        """Give the folder its final name and return it; `OutputError` if that name was taken meanwhile."""
        if not self.finished:
            if os.path.lexists(self.final_path):
                raise OutputError(
                    f"{self.final_path} appeared meanwhile; the finished run is in {self.path}, move it yourself"
                )
            try:
                self.path.rename(self.final_path)
            except OSError as error:
                raise OutputError(f"cannot rename {self.path} to {self.final_path}: {error.strerror}") from None
            _flush_folder(self.final_path.parent)
            self.finished = True
        return self.final_path

    def discard(self) -> None:
        """Remove an unfinished run in which nothing was made yet, and the empty folders that were made for it."""
        if not self.finished:
            shutil.rmtree(self.path)
            with contextlib.suppress(OSError):  # someone else put something there
                for folder in self._made:
                    folder.rmdir()

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write one file whole; the older version stays if that fails. Returns its present path."""
        return write_atomically(self.path / name, data)

    def write_text(self, name: str, text: str) -> Path:
        """`write_bytes` of UTF-8."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, record: object) -> Path:
        """`write_text` of readable JSON; numbers that JSON cannot hold (NaN, infinity) raise ValueError."""
        return self.write_text(name, json.dumps(record, indent=1, allow_nan=False) + "\n")

    def append_line(self, name: str, line: str) -> None:
        """Add one line to a log. A kill can cost the last line, never an earlier one."""
        path = self.path / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line.rstrip("\n") + "\n")
        except OSError as error:
            raise OutputError(says_unwritten(path, len(line), error)) from None

    def log(self, line: str) -> None:
        """Add one line to the run's log.txt, with the time of day."""
        self.append_line(LOG, f"{time.strftime('%H:%M:%S')} {line}")

    def read_text(self, name: str) -> str:
        """Read one file; `RunError` that names it if it is not there or no UTF-8."""
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RunError(f"{self.path} has no {name}; is this the folder of a run?") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"cannot read {path}: {error}") from None

    def read_json(self, name: str) -> object:
        """Read one JSON file; `RunError` that names it if it is missing or damaged."""
        try:
            return json.loads(self.read_text(name))
        except ValueError as error:
            raise RunError(f"{self.path / name} is not JSON: {error}") from None


def partial_path(path: Path) -> Path:
    """Where a run called `path` lives until it is finished."""
    return path.with_name(path.name + ".partial")


def write_atomically(path: Path, data: bytes) -> Path:
    """Put `data` at `path` whole or not at all, and on the disk; `OutputError` with the values if it does not fit."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(says_unwritten(path, len(data), error)) from None
    _flush_folder(path.parent)
    return path


def says_unwritten(path: Path, size: int, error: OSError, *, at_most: bool = False) -> str:
    """Why `size` bytes (or that many at most) could not be put at `path`, and what to do about it, in one line."""
    needs = f"{'up to ' if at_most else ''}{size:,} bytes"
    if error.errno not in _FULL:
        return f"cannot write {path} ({needs}): {error.strerror}"
    try:
        status = os.statvfs(path.parent)
        free = f"{status.f_bavail * status.f_frsize:,} bytes free"
    except OSError:
        free = "no space left"
    return f"disk full: {path} needs {needs}, {free}; free some space or choose another --out"


def _flush_folder(folder: Path) -> None:
    # A rename is durable only once the folder itself is on the disk; some file systems refuse, which is no loss.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
