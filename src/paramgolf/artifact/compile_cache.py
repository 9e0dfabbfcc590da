"""Lets numba keep what it compiles from sources inside an artifact.

`@njit(cache=True)` looks for a place beside the source file; a source within a zip has none, and numba then refuses to
go on (its own answer for zips wants a name that ends in `.zip`). The compiled code goes to the user's cache folder,
filed under the digest of all sources of the artifact, because a compiled function holds what it calls in other modules:
two artifacts share it exactly when all their sources are equal. If that folder cannot be written it lives in a
temporary one until the process ends: slower, never an error.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import sys
import tempfile
import zipfile
import zipimport
from pathlib import Path
from typing import Any

MODULE = "paramgolf"


def cache_compiled_sources() -> None:
    """Call before the first module with compiled functions is imported; without effect for an installed package."""
    if not isinstance(sys.modules[MODULE].__loader__, zipimport.zipimporter):
        return
    from numba.core.caching import CacheImpl

    if ZipSourceLocator not in CacheImpl._locator_classes:
        CacheImpl._locator_classes.append(ZipSourceLocator)


class ZipSourceLocator:
    """What numba asks for the place and the freshness of one function's compiled code (its `_CacheLocator`)."""

    def __init__(self, line: int, digest: str) -> None:
        self._line = line
        self._digest = digest

    @classmethod
    def from_function(cls, function: Any, path: str) -> ZipSourceLocator | None:
        """The locator of a function whose source is a member of a zip, else None."""
        loader = function.__globals__.get("__loader__")
        if not isinstance(loader, zipimport.zipimporter):
            return None
        return cls(function.__code__.co_firstlineno, _digest_sources(loader.archive))

    def ensure_cache_path(self) -> None:
        """The folder exists once its path is known."""

    def get_cache_path(self) -> str:
        """The folder that holds the compiled code."""
        folder = _cache_root() / self._digest[:32]
        folder.mkdir(exist_ok=True)
        return str(folder)

    def get_source_stamp(self) -> str:
        """Compiled code is fresh as long as this stays."""
        return self._digest

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return str(self._line)


@functools.cache
def _digest_sources(archive: str) -> str:
    """SHA-256 (hex) of all Python sources in a zip, with their names."""
    hasher = hashlib.sha256()
    with zipfile.ZipFile(archive) as members:
        for name in sorted(name for name in members.namelist() if name.endswith(".py")):
            hasher.update(f"{name}\0".encode() + hashlib.sha256(members.read(name)).digest())
    return hasher.hexdigest()


@functools.cache
def _cache_root() -> Path:
    """A folder of the user that can be written, else a temporary one."""
    try:
        root = Path.home() / ".cache" / MODULE / "compiled"
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
        return root
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        temporary = tempfile.mkdtemp(prefix=f"{MODULE}-compiled-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)
