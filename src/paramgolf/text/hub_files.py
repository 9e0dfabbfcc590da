"""Single files of the hub into a fetch's folder: each downloaded beside its place, checked, and only then put there."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from paramgolf.errors import OutputError, ShardError
from paramgolf.run_folder import write_atomically
from paramgolf.text.digests import Digest, file_digests
from paramgolf.text.hub_client import Hub, RemoteFile
from paramgolf.text.hub_download import PART, download, part_of
from paramgolf.text.hub_folder import FetchFolder

UNCHECKED = "size only"
MADE_HERE = "made here"
Examine = Callable[[Path], dict[str, Any]]


class Reporter(Protocol):
    """Who is told how it goes; `size` and `have` are bytes of the file `name`."""

    def note(self, line: str) -> None: ...

    def progress(self, name: str, have: int, size: int) -> None: ...


@dataclass
class HubFiles:
    """`downloaded` bytes so far; `checked` counts files by what they were checked against."""

    hub: Hub
    folder: FetchFolder
    reporter: Reporter
    downloaded: int = 0
    checked: Counter[str] = field(default_factory=Counter)

    def keep(self, name: str, content: bytes, checked: str) -> None:
        """Put a small file that is here already into the folder."""
        write_atomically(self.folder.path / name, content)
        self._add(name, len(content), hashlib.sha256(content).hexdigest(), checked, {})

    def bring(self, name: str, remote: RemoteFile, examine: Examine) -> None:
        """Have the file in the folder, by downloading it unless it is there and right.

        `examine` looks into a file whose digest is right, raises `ShardError` for a bad one, and gives what the
        manifest says of it. A bad download is removed, a bad file that was there is moved aside.
        """
        if self._is_there(name, remote, examine):
            return
        place = self.folder.path / name
        part = part_of(place, remote)
        for stale in self.folder.path.glob(f"{name}.*{PART}"):
            if stale != part:
                stale.unlink()
        resumed = download(self.hub, remote, part, partial(self._progress, name, remote.size))
        self.downloaded += remote.size - resumed
        sha256, record = self._examined(name, part, remote, examine)
        part.rename(place)
        self._add(name, remote.size, sha256, _kind(remote), record)

    def require_space(self, files: Iterable[tuple[str, RemoteFile]]) -> None:
        """Raise `OutputError` before the first byte if the disk cannot take what is missing of `files`."""
        missing = sum(remote.size - self._present(name, remote) for name, remote in files)
        free = shutil.disk_usage(self.folder.path).free
        if missing > free:
            raise OutputError(
                f"disk full: {self.folder.out} needs {missing:,} bytes more, {free:,} bytes free; free some space, "
                "fetch fewer shards, or choose another --out"
            )

    def _examined(self, name: str, part: Path, remote: RemoteFile, examine: Examine) -> tuple[str, dict[str, Any]]:
        """SHA-256 and record of a download that is right; a bad one is removed, and its `ShardError` says so."""
        advice = "removed, run the command again"
        try:
            sha256 = _check(part, name, remote)
            if remote.digest is not None:
                advice = "removed; it is what the repository holds"
            return sha256, examine(part)
        except ShardError as error:
            part.unlink()
            raise ShardError(f"{error}; {advice}") from None

    def _present(self, name: str, remote: RemoteFile) -> int:
        place = self.folder.path / name
        sizes = [path.stat().st_size for path in (place, part_of(place, remote)) if path.is_file()]
        return min(remote.size, max(sizes, default=0))

    def _is_there(self, name: str, remote: RemoteFile, examine: Examine) -> bool:
        place = self.folder.path / name
        if not place.exists():
            return False
        try:
            sha256 = _check(place, name, remote)
            known = self.folder.files.get(name, {}).get("sha256", sha256)
            require_digest(name, Digest("sha256", known), Digest("sha256", sha256))
            record = examine(place)
        except ShardError as error:
            aside = self.folder.move_aside(name)
            self.reporter.note(f"{error}; moved to {aside.name}, fetching it again")
            return False
        self._add(name, remote.size, sha256, _kind(remote), record)
        return True

    def _add(self, name: str, size: int, sha256: str, checked: str, record: dict[str, Any]) -> None:
        self.checked[checked] += 1
        self.folder.add(name, {"bytes": size, "sha256": sha256, "checked": checked, **record})

    def _progress(self, name: str, size: int, have: int) -> None:
        self.reporter.progress(name, have, size)


def _check(path: Path, name: str, remote: RemoteFile) -> str:
    """Compare size and digest with the hub's; the file's SHA-256. Raises `ShardError`."""
    size = path.stat().st_size
    if size != remote.size:
        raise ShardError(f"{name}: expected {remote.size:,} bytes, found {size:,}")
    found = file_digests(path, "sha256", *([remote.digest.kind] if remote.digest else []))
    if remote.digest is not None:
        require_digest(name, remote.digest, found[remote.digest.kind])
    return found["sha256"].hex


def _kind(remote: RemoteFile) -> str:
    return UNCHECKED if remote.digest is None else remote.digest.kind


def require_digest(name: str, expected: Digest, found: Digest) -> None:
    """Raise `ShardError` with both digests if they differ."""
    if found != expected:
        raise ShardError(f"{name}: expected {expected.kind} {expected.hex}, found {found.hex}")
