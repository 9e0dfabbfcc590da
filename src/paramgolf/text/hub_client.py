"""Files of a public dataset repository over HTTP: what a file is (size, digest, commit) and its bytes from any offset.

The hub answers for `ENDPOINT/datasets/OWNER/NAME/resolve/REVISION/PATH`. Large files (LFS) are redirected to a store;
the redirect itself names their SHA-256 (`X-Linked-Etag`) and size. Small files carry git's blob SHA-1 as `ETag`.

The standard library does it: the hub's own client (huggingface_hub 2.4) discards a partial file when it stops, so a
download that was interrupted would begin again.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.message import Message
from typing import IO, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from paramgolf.errors import TextError
from paramgolf.text.digests import Digest

ENDPOINT = "https://huggingface.co"
ATTEMPTS = 5  # without a single new byte, before a download is given up
_BUSY = (408, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_LONGEST_PAUSE = 60.0
Answer = TypeVar("Answer")


class HubError(TextError):
    """The repository cannot be reached, does not exist, or lacks a file."""


class HubBusy(HubError):
    """The server answered that it cannot serve now, or the line broke: worth another try."""


class HubUnreachable(HubBusy):
    """Nobody answers at all. At the first contact that is the end; in the middle of a download it is one more break."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository. `digest` is None where the server gives none that can be checked."""

    path: str
    size: int
    digest: Digest | None
    commit: str | None


@dataclass(frozen=True)
class Hub:
    """A dataset repository at a revision. `pause` is the first wait in seconds before a busy server is asked again."""

    repository: str
    endpoint: str = ENDPOINT
    revision: str = "main"
    timeout: float = 30.0
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.repository):
            raise HubError(f"--repo {self.repository!r} is no OWNER/NAME")
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise HubError(f"--endpoint {self.endpoint!r} is no http or https address")

    def pinned(self, commit: str | None) -> Hub:
        """The same repository at a commit, so that all files are of one version."""
        return self if commit is None else replace(self, revision=commit)

    def head(self, path: str) -> RemoteFile:
        """What is known of a file; raises `HubError` if there is no such repository, revision or file."""
        return self._patiently(lambda: self._head(path))

    def read(self, file: RemoteFile) -> bytes:
        """All bytes of a small file; raises `HubError`."""

        def once() -> bytes:
            with self.open(file.path) as response:
                try:
                    content: bytes = response.read()
                except (OSError, http.client.HTTPException) as error:
                    raise HubBusy(f"{file.path}: the connection broke: {_reason(error)}") from None
            if len(content) != file.size:
                raise HubBusy(f"{file.path}: expected {file.size:,} bytes, found {len(content):,}")
            return content

        return self._patiently(once)

    def open(self, path: str, offset: int = 0) -> http.client.HTTPResponse:
        """The response with a file's bytes, from `offset` on if the server can (status 206), else all (200)."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        opener = urllib.request.build_opener()
        try:
            response: http.client.HTTPResponse = opener.open(
                urllib.request.Request(self._url(path), headers=headers | _IDENTITY), timeout=self.timeout
            )
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error, path) from None
        return response

    def wait(self, attempt: int) -> None:
        """Wait before attempt number `attempt` (1: the first repetition), each time twice as long."""
        time.sleep(min(self.pause * 2 ** (attempt - 1), _LONGEST_PAUSE))

    def _patiently(self, once: Callable[[], Answer]) -> Answer:
        for attempt in range(1, ATTEMPTS):
            try:
                return once()
            except HubUnreachable:
                raise
            except HubBusy:
                self.wait(attempt)
        return once()

    def _head(self, path: str) -> RemoteFile:
        url = self._url(path)
        etag = commit = None
        for _ in range(_MOST_REDIRECTS):
            status, headers = self._head_once(url, path)
            if urlsplit(url).netloc == urlsplit(self.endpoint).netloc:
                # Beyond the hub, in a store, an ETag is anything.
                commit = _commit(headers.get("X-Repo-Commit")) or commit
                etag = headers.get("X-Linked-Etag") or headers.get("ETag") or etag
            size = headers.get("X-Linked-Size") or (headers.get("Content-Length") if status == 200 else None)
            if size is not None and size.isdecimal():
                return RemoteFile(path, int(size), Digest.of_etag(etag), commit)
            if status not in _REDIRECTS or "Location" not in headers:
                break
            url = urljoin(url, headers["Location"])
        raise HubError(f"{self.endpoint} does not say how large {path} is; is it a hub?")

    def _head_once(self, url: str, path: str) -> tuple[int, Message]:
        request = urllib.request.Request(url, headers=_IDENTITY, method="HEAD")
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as response:
                return int(response.status), response.headers
        except urllib.error.HTTPError as error:
            if error.code in _REDIRECTS:
                error.close()
                return error.code, error.headers
            raise self._explain(error, path) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error, path) from None

    def _url(self, path: str) -> str:
        revision = quote(self.revision, safe="")
        return f"{self.endpoint.rstrip('/')}/datasets/{self.repository}/resolve/{revision}/{quote(path)}"

    def _explain(self, error: Exception, path: str) -> HubError:
        if not isinstance(error, urllib.error.HTTPError):
            cause = getattr(error, "reason", error)
            if isinstance(cause, (http.client.HTTPException, ConnectionResetError, BrokenPipeError)):
                return HubBusy(f"{self.endpoint}: the connection broke: {_reason(error)}; run the command again")
            return HubUnreachable(
                f"cannot reach {self.endpoint}: {_reason(error)}; check the network, or give --endpoint URL"
            )
        error.close()
        says, status = error.headers.get("X-Error-Code"), f"HTTP {error.code}"
        if says == "RevisionNotFound":
            return HubError(f"{self.repository} has no revision {self.revision!r}")
        if says == "EntryNotFound":
            return HubError(f"{self.repository} has no file {path} at revision {self.revision}")
        if error.code in (401, 403, 404):
            where = f"public dataset repository {self.repository} at {self.endpoint}"
            lacks = f" with a file {path}" if says is None and error.code == 404 else ""
            return HubError(f"no {where}{lacks} ({status}); check --repo OWNER/NAME")
        kind = HubBusy if error.code in _BUSY else HubError
        return kind(f"{self.endpoint} answered {status} {error.reason} for {path}; try again later")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the redirect's own headers are wanted."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


_IDENTITY = {"Accept-Encoding": "identity", "User-Agent": "paramgolf"}


def _commit(value: str | None) -> str | None:
    """A commit's hex name; None for anything else, since it becomes part of an address and of a file's name."""
    return value if value is not None and re.fullmatch(r"[0-9a-f]{40}", value) else None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__).strip()
