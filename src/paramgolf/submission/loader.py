"""The first lines of an exported script: unpack the sources that it holds, then write them out or run them.

The text of this module is copied into every script, so it imports the standard library alone.
"""

from __future__ import annotations

import base64
import importlib
import io
import lzma
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path


def main(recipe: str, payload: str, entry: str, words: Sequence[str]) -> int:
    """Run `entry` with the recipe and the words; `--extract DIR` writes the readable sources instead."""
    if sys.hexversion < 0x030B0000:
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    sources = lzma.decompress(base64.b85decode("".join(payload.split())))
    if words and words[0] == "--extract":
        return extract(sources, recipe, words[1:])
    # One zip, as in a packed model: tracebacks and compiled functions find their sources in it.
    with tempfile.TemporaryDirectory(prefix="train_gpt-") as folder:
        archive = Path(folder, "sources.zip")
        archive.write_bytes(sources)
        sys.path.insert(0, str(archive))
        return int(importlib.import_module(entry).main(recipe, words))


def extract(sources: bytes, recipe: str, words: Sequence[str]) -> int:
    """Write all sources and recipe.json to a new folder; `python DIR --data ...` then does what the script does."""
    if len(words) != 1:
        print("--extract takes one new folder: --extract DIR", file=sys.stderr)
        return 2
    folder = Path(words[0])
    if os.path.lexists(folder):
        print(f"{folder} exists already; choose another folder, or move it away", file=sys.stderr)
        return 2
    try:
        with zipfile.ZipFile(io.BytesIO(sources)) as archive:
            archive.extractall(folder)
            count = len(archive.namelist())
        (folder / "recipe.json").write_text(recipe.strip() + "\n", encoding="utf-8")
    except OSError as error:
        print(f"cannot write {folder}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{folder}: {count} files and recipe.json; run them with: python {folder} --data DATA --out RUN")
    return 0
