"""Writing a shard folder's files: one stream of ids for each side, cut into shards."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from paramgolf.text.caseops import is_stream
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.manifest import FORMAT, MANIFEST, TOKENIZER_FILES, describe_tokenizer, file_digest
from paramgolf.text.shards import HEADER_BYTES, Uint16, shard_header, shard_ids
from paramgolf.text.sidecar import sidecar_entries
from paramgolf.text.split import Split
from paramgolf.text.text import HeldOutText, Text, TrainText
from paramgolf.text.tokenizer import TokenIds, Tokenizer


def write_folder(
    train: TrainText | None,
    held_out: HeldOutText,
    tokenizer: Tokenizer,
    folder: Path,
    most: int,
    split: Split | None = None,
) -> None:
    """Write shards of at most `most` tokens, the tokenizer and the manifest into an empty folder.

    Without `train` there is a held-out side only. Held-out shards of a CaseOps tokenizer get their sidecars.
    """
    sides = {} if train is None else {"train": _write_side(train, tokenizer, folder, "train", most)}
    sides["held_out"] = _write_side(held_out, tokenizer, folder, "val", most)
    (folder / TOKENIZER_FILES[tokenizer.kind]).write_bytes(tokenizer.to_bytes())
    manifest = {
        "format": FORMAT,
        "version": 1,
        "tokenizer": describe_tokenizer(tokenizer),
        **({} if split is None else {"split": split.to_json()}),
        **sides,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in sorted(folder.iterdir())
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _write_side(text: Text, tokenizer: Tokenizer, folder: Path, side: str, most: int) -> dict[str, object]:
    """Write the shards of one text; returns its entry in the manifest."""
    with contextlib.ExitStack() as files:
        shards = files.enter_context(ShardWriter(folder, f"paramgolf_{side}", most))
        differ = 0
        counted: CountedSide | None = None
        if isinstance(tokenizer, CaseOpsTokenizer):
            sidecar = (
                files.enter_context(ShardWriter(folder, f"paramgolf_{side}_bytes", most)) if side == "val" else None
            )
            counted = CountedSide(tokenizer, sidecar, text.name)
        for document in text.documents:
            ids = tokenizer.encode(document) if counted is None else counted.encode(document)
            differ += tokenizer.decode(ids) != document
            shards.append(shard_ids(np.concatenate([[tokenizer.boundary_id], ids]), text.name))
    return {
        "name": text.name,
        "text_digest": text.digest,
        "documents": len(text.documents),
        "documents_that_differ": differ,
        "bytes": text.size(),
        "tokens": shards.tokens,
        "shards": shards.shards,
        **({} if counted is None else counted.says()),
    }


class CountedSide:
    """One text through a CaseOps tokenizer, with the raw bytes of its tokens into a sidecar, if it gets one."""

    def __init__(self, tokenizer: CaseOpsTokenizer, sidecar: ShardWriter | None, name: str) -> None:
        self._tokenizer, self._sidecar, self._name = tokenizer, sidecar, name
        self._documents = self._bytes = self._misplaced = 0

    def encode(self, document: bytes) -> TokenIds:
        """`encode` of the next document; its bytes go to the sidecar. Raises `ShardError` if they do not fit."""
        if self._sidecar is None:
            ids = self._tokenizer.encode(document)
        else:
            ids, counts = self._tokenizer.encode_counted(document)
            where = f"{self._name}, document {self._documents}"
            self._sidecar.append(sidecar_entries(np.concatenate([[0], counts]), where))
            self._bytes += int(counts.sum())
        self._misplaced += not (self._tokenizer.lossless or is_stream(self._tokenizer.stream(ids)))
        self._documents += 1
        return ids

    def says(self) -> dict[str, object]:
        """What the manifest adds: documents that only the tolerant decoder reads, and bytes in the sidecar."""
        sidecar = {} if self._sidecar is None else {"sidecar_bytes": self._bytes}
        return {"documents_decoded_tolerantly": self._misplaced, **sidecar}


class ShardWriter:
    """Writes one stream of ids into shards `PREFIX_%06d.bin` of at most `most` tokens; a context manager."""

    def __init__(self, folder: Path, prefix: str, most: int) -> None:
        self._folder, self._prefix, self._most = folder, prefix, most
        self._file: BinaryIO | None = None
        self._room = 0
        self.tokens = 0
        self.shards = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def append(self, ids: Uint16) -> None:
        """Add ids to the stream; opens shards as needed."""
        while len(ids):
            if self._room == 0:
                self._next()
            assert self._file is not None
            part, ids = ids[: self._room], ids[self._room :]
            self._file.write(part.tobytes())
            self._room -= len(part)
            self.tokens += len(part)

    def _next(self) -> None:
        self._close()
        self._file = (self._folder / f"{self._prefix}_{self.shards:06d}.bin").open("xb")
        self._file.write(shard_header(0))
        self.shards += 1
        self._room = self._most

    def _close(self) -> None:
        """Put the count into the header, now that it is known."""
        if self._file is None:
            return
        with self._file as file:
            self._file = None
            file.seek(0, os.SEEK_END)
            tokens = (file.tell() - HEADER_BYTES) // 2
            file.seek(0)
            file.write(shard_header(tokens))
