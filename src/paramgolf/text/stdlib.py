"""The corpus that every machine has: the standard library of the running interpreter."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path

from paramgolf.errors import TextError
from paramgolf.text.text import HeldOutText, TrainText, require_disjoint

HELD_OUT_SHARE = 0.05
LARGEST_SHARE = 0.1  # of the held-out bytes: one generated file of 750 kB would otherwise be most of the score
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


def standard_library() -> tuple[TrainText, HeldOutText]:
    """The library's `.py` files, a file a document, split by file: about 5 % of the bytes are held out.

    Test folders, installed packages, files that are not UTF-8 and second copies of a file are left out. Files are held
    out in the order of the SHA-256 of their path until the share is reached, so the split depends on nothing but the
    library; a file that alone would be over a tenth of the held-out bytes stays in training. Raises `TextError` if this
    interpreter comes without its library's sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = _source_files(root)
    total = sum(len(document) for document in files.values())
    if len(files) < 2 or total == 0:
        raise TextError(f"no library sources in {root}; give a text with --text")
    by_hash = sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest())
    wanted = HELD_OUT_SHARE * total
    held_out, held_out_bytes = set[str](), 0
    for path in by_hash[:-1]:
        if len(files[path]) <= LARGEST_SHARE * wanted and held_out_bytes + len(files[path]) <= wanted:
            held_out.add(path)
            held_out_bytes += len(files[path])
    name = f"python{sysconfig.get_python_version()}-stdlib"
    train_text = TrainText(f"{name}-train", [document for path, document in files.items() if path not in held_out])
    held_out_text = HeldOutText(f"{name}-held-out", [document for path, document in files.items() if path in held_out])
    require_disjoint(train_text, held_out_text)
    return train_text, held_out_text


def _source_files(root: Path) -> dict[str, bytes]:
    """Relative path (with `/`) to content of the files that are used, in the order of the paths."""
    paths: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(folder, name)
            if name.endswith(".py"):
                paths[path.relative_to(root).as_posix()] = path
    files: dict[str, bytes] = {}
    seen = set[bytes]()
    for relative in sorted(paths):
        document = _readable_source(paths[relative])
        if document and document not in seen:
            seen.add(document)
            files[relative] = document
    return files


def _readable_source(path: Path) -> bytes | None:
    try:
        document = path.read_bytes()
        document.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return document
