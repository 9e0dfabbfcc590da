"""The folder that a fetch fills. Its manifest names, at every moment, exactly the files that are whole.

A first fetch fills `DIR.partial`, which is renamed when all is there; a later one, for more shards, adds to `DIR`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paramgolf.errors import OutputError
from paramgolf.run_folder import partial_path, says_unwritten, write_atomically
from paramgolf.text.manifest import FORMAT, MANIFEST, describe_tokenizer
from paramgolf.text.split import Split
from paramgolf.text.tokenizer import Tokenizer

DAMAGED = ".damaged"


class FetchFolder:
    """`path` is where files go now, `out` where they are in the end. `files` are the manifest's entries by name."""

    def __init__(self, out: Path, repository: str, dataset: str) -> None:
        self.out = out
        self._source: dict[str, Any] = {"repository": repository, "dataset": dataset}
        self.path = partial_path(out) if not out.exists() or _is_empty(out) else out
        known = self._known()
        self._described: dict[str, Any] = {key: known[key] for key in ("tokenizer", "split") if key in known}
        self.files: dict[str, dict[str, Any]] = known.get("files", {})
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(says_unwritten(self.path, 0, error)) from None

    def describe(
        self, source: Mapping[str, Any], tokenizer: Tokenizer | None = None, split: Split | None = None
    ) -> None:
        """Say where the files come from, later of which tokenizer they are and how divided; writes the manifest."""
        self._source |= source
        if tokenizer is not None:
            self._described["tokenizer"] = describe_tokenizer(tokenizer)
        if split is not None:
            self._described["split"] = split.to_json()
        self._write()

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """A file is whole and under its name; writes the manifest."""
        self.files[name] = dict(record)
        self._write()

    def move_aside(self, name: str) -> Path:
        """Take a file that is not what it should be out of the way, and off the manifest; its new path."""
        place = self.path / name
        numbered = (self.path / f"{name}{DAMAGED}{number or ''}" for number in range(1_000_000))
        aside = next(path for path in numbered if not path.exists())
        place.rename(aside)
        self.files.pop(name, None)
        self._write()
        return aside

    def finish(self) -> None:
        """Give the folder its name; raises `OutputError`."""
        if self.path != self.out:
            try:
                self.path.rename(self.out)
            except OSError as error:
                raise OutputError(f"cannot rename {self.path} to {self.out}: {error.strerror}") from None
            self.path = self.out

    def totals(self, side: str) -> dict[str, int]:
        """Sums over the shards of a side, `train` or `val`."""
        records = [record for record in self.files.values() if record.get("side") == side]
        keys = {"documents": "documents", "bytes": "text_bytes", "tokens": "tokens"}
        return {**{key: sum(record[of] for record in records) for key, of in keys.items()}, "shards": len(records)}

    def _known(self) -> dict[str, Any]:
        """The manifest of an earlier fetch of the same data; raises `OutputError` if something else lies there."""
        if not self.path.exists() or _is_empty(self.path):
            return {}
        try:
            record = json.loads((self.path / MANIFEST).read_bytes())
            source = record["source"]
            found = {key: source[key] for key in self._source}
            files = record["files"]
            if record["format"] != FORMAT or any("sha256" not in entry for entry in files.values()):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise OutputError(
                f"{self.path} exists and is no folder that data fetch made; choose another --out, or move it away"
            ) from None
        if found != self._source:
            raise OutputError(
                f"{self.path} holds {found['dataset']} of {found['repository']}, not {self._source['dataset']} of "
                f"{self._source['repository']}; choose another --out, or move it away"
            )
        return {**record, "files": {name: entry for name, entry in files.items() if (self.path / name).is_file()}}

    def _write(self) -> None:
        dataset = self._source["dataset"]
        sides = {
            key: {"name": f"{dataset}-{side}", **self.totals(side)}
            for key, side in (("train", "train"), ("held_out", "val"))
        }
        manifest = {
            "format": FORMAT,
            "version": 1,
            **self._described,
            **sides,
            "source": self._source,
            "files": {name: self.files[name] for name in sorted(self.files)},
        }
        write_atomically(self.path / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None
