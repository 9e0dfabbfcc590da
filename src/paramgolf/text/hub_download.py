"""One file of the hub into a partial file beside its place, going on where an earlier attempt stopped."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from paramgolf.errors import OutputError
from paramgolf.run_folder import says_unwritten
from paramgolf.text.hub_client import ATTEMPTS, Hub, HubBusy, HubError, RemoteFile

PART = ".part"
_AT_ONCE = 1 << 20
Progress = Callable[[int], None]


def part_of(place: Path, file: RemoteFile) -> Path:
    """The partial file's name: it names the version too, so that two versions are never joined."""
    version = file.digest.hex if file.digest is not None else file.commit or "unknown"
    return place.with_name(f"{place.name}.{version[:16]}{PART}")


def download(hub: Hub, file: RemoteFile, part: Path, progress: Progress) -> int:
    """Make `part` hold `file.size` bytes of `file`, and return how many of them were there before.

    A connection that breaks is taken up again where it broke, as long as each attempt brings something; `progress` is
    told how many bytes are there. The digest is not looked at. Raises `HubError`, and `OutputError` for a full disk or
    if another process writes the same file. Whatever arrived stays in `part`.
    """
    with _opened(part, file.size) as out:
        have = out.seek(0, 2)
        if have > file.size or (file.digest is None and file.commit is None):
            have = out.truncate(0)  # no version is known, so nothing says that this is a beginning of the file
        resumed, idle = have, 0
        while have < file.size:
            before = have
            try:
                have = _receive(hub, file, part, out, have, progress)
                trouble = HubBusy(f"{file.path}: the connection ended after {have:,} of {file.size:,} bytes")
            except HubBusy as busy:
                have, trouble = out.seek(0, 2), busy
            idle = 0 if have > before else idle + 1
            if idle == ATTEMPTS:
                raise HubError(f"{trouble}; run the command again to go on")
            if have < file.size:
                hub.wait(idle + 1)
        os.fsync(out.fileno())
        return resumed


def _receive(hub: Hub, file: RemoteFile, part: Path, out: BinaryIO, have: int, progress: Progress) -> int:
    """Append what one connection gives; the size of `out` then. Raises `HubBusy` when it breaks."""
    with hub.open(file.path, have) as response:
        start = _start_of(response, have, file)
        if start == 0 and have:
            have = out.truncate(0)
        out.seek(have)
        while have < file.size:
            try:
                chunk = response.read(min(_AT_ONCE, file.size - have))
            except (OSError, http.client.HTTPException) as error:
                raise HubBusy(f"{file.path}: the connection broke: {error or type(error).__name__}") from None
            if not chunk:
                break
            try:
                _write_all(out, chunk)
            except OSError as error:
                raise OutputError(says_unwritten(part, file.size - have, error)) from None
            have += len(chunk)
            progress(have)
    return have


def _write_all(out: BinaryIO, chunk: bytes) -> None:
    # An unbuffered write may take a part only, near the end of a disk for one.
    rest = memoryview(chunk)
    while rest:
        rest = rest[out.write(rest) :]


def _start_of(response: http.client.HTTPResponse, have: int, file: RemoteFile) -> int:
    """From which byte on the server sends; raises `HubError` if that is neither what was asked nor the beginning."""
    if response.status != 206:
        return 0
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
    if match is None or int(match[1]) != have or match[2] not in ("*", str(file.size)):
        raise HubError(f"{file.path}: asked for bytes {have}- of {file.size}, the server sends {given!r}")
    return have


@contextlib.contextmanager
def _opened(part: Path, size: int) -> Iterator[BinaryIO]:
    """The partial file, for this process alone."""
    try:
        out = part.open("ab+", buffering=0)
    except OSError as error:
        raise OutputError(says_unwritten(part, size, error)) from None
    with out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{part} is being written by another process; wait for it, or stop it") from None
        yield out
