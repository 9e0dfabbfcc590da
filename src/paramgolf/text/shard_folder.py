"""A folder of shards, its tokenizer and its manifest: written once, opened by training and scoring."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.errors import OutputError, ShardError, TextError, TokenizerError
from paramgolf.run_folder import says_unwritten
from paramgolf.text.manifest import (
    HELD_OUT_GLOB,
    TOKENIZER_FILES,
    TRAIN_GLOB,
    describe_tokenizer,
    file_digest,
    read_manifest,
)
from paramgolf.text.shard_documents import documents_of
from paramgolf.text.shard_writer import write_folder
from paramgolf.text.shards import MOST_TOKENS, Uint16, read_shard
from paramgolf.text.sidecar import check_sidecars, is_sidecar, read_sidecar
from paramgolf.text.split import Split, require_same_split
from paramgolf.text.text import HeldOutText, TrainText, require_disjoint, require_train_text
from paramgolf.text.tokenizer import Tokenizer, tokenizer_from_bytes
from paramgolf.text.unseen import require_unseen

SHARD_TOKENS = 100_000_000
CONTEST_BOS = 1


@dataclass(frozen=True)
class ShardFolder:
    """Shards of one tokenizer, opened with `open`. `manifest` is empty for a folder that has none (the contest's)."""

    path: Path
    tokenizer: Tokenizer
    manifest: dict[str, Any]
    train_files: tuple[Path, ...]
    held_out_files: tuple[Path, ...]
    sidecar_files: tuple[Path, ...] = ()

    @staticmethod
    def open(path: Path, tokenizer: Tokenizer | None = None, check_ids: bool = True) -> ShardFolder:
        """Open and validate a folder; shards are taken in the order of their names.

        `tokenizer` is needed when the folder has none of its own. Headers and sizes of all shards are checked always,
        ids against the vocabulary unless `check_ids` is off (it reads every shard once). Raises `TextError` if the
        folder or its shards are missing, `ShardError`, and `TokenizerError` if the tokenizer is missing or another one.
        """
        path = Path(path)
        manifest = read_manifest(path)
        tokenizer = _find_tokenizer(path, manifest, tokenizer)
        train_files, held_out_files = shard_files(path)
        for shard in (*train_files, *held_out_files):
            read_shard(shard, tokenizer.vocab_size if check_ids else None)
        sidecar_files = find_sidecars(path)
        check_sidecars(held_out_files, sidecar_files, tokenizer.boundary_id)
        return ShardFolder(path, tokenizer, manifest, train_files, held_out_files, sidecar_files)

    def train_shards(self) -> list[Uint16]:
        """Memory maps uint16 of the training shards; raises `TextError` if there are none."""
        if not self.train_files:
            raise TextError(f"{self.path} has no training shard ({TRAIN_GLOB})")
        return [read_shard(shard) for shard in self.train_files]

    def held_out_shards(self) -> list[Uint16]:
        """Memory maps uint16 of the held-out shards; raises `TextError` if there are none."""
        if not self.held_out_files:
            raise TextError(f"{self.path} has no held-out shard ({HELD_OUT_GLOB})")
        return [read_shard(shard) for shard in self.held_out_files]

    def held_out_sidecars(self) -> list[Uint16]:
        """Bytes uint16 that each held-out token stands for, shard by shard; raises `TextError` if there are none."""
        if not self.sidecar_files:
            raise TextError(f"{self.path} has no sidecars of its held-out shards (*_val_bytes_*.bin)")
        return [read_sidecar(shard) for shard in self.held_out_files]

    def held_out_documents(self) -> list[npt.NDArray[np.int32]]:
        """Ids int32 of each held-out document, without its BOS; raises `TextError` if there are no held-out shards.

        Tokens before the first BOS, which only a folder of other making has, are a document too.
        """
        return list(documents_of(self.held_out_shards(), self.tokenizer.boundary_id))

    def held_out_text(self) -> HeldOutText:
        """The held-out documents as the tokenizer decodes them: the raw text if the tokenizer is lossless."""
        name = self.manifest.get("held_out", {}).get("name", f"{self.path.name}-held-out")
        return HeldOutText(str(name), [self.tokenizer.decode(ids) for ids in self.held_out_documents()])

    @property
    def lossless(self) -> bool:
        """Whether the manifest says that every document comes back; False where nothing is known."""
        sides = [self.manifest[side] for side in ("train", "held_out") if side in self.manifest]
        return bool(sides) and all(side.get("documents_that_differ") == 0 for side in sides)

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest; raise `ShardError` naming the first that differs."""
        for name, record in self.manifest.get("files", {}).items():
            try:
                found = file_digest(self.path / name)
            except OSError as error:
                raise ShardError(f"cannot read {self.path / name}: {error.strerror}") from None
            if found != record["sha256"]:
                raise ShardError(f"{self.path / name}: expected SHA-256 {record['sha256']}, found {found}")


def shard_files(path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Training and held-out shards of a folder by name; raise `TextError` if it has neither."""
    if not path.is_dir():
        raise TextError(f"no such folder of shards: {path}")
    train, held_out = (
        tuple(sorted(file for file in path.glob(glob) if not is_sidecar(file.name)))
        for glob in (TRAIN_GLOB, HELD_OUT_GLOB)
    )
    if not train and not held_out:
        raise TextError(f"no shards in {path}: expected {TRAIN_GLOB} and {HELD_OUT_GLOB}; see 'paramgolf data prepare'")
    return train, held_out


def find_sidecars(path: Path) -> tuple[Path, ...]:
    """Sidecars of the held-out shards of a folder, by name."""
    return tuple(sorted(file for file in path.glob(HELD_OUT_GLOB) if is_sidecar(file.name)))


def prepare(
    train: TrainText,
    held_out: HeldOutText,
    tokenizer: Tokenizer,
    out: Path,
    shard_tokens: int = SHARD_TOKENS,
    split: Split | None = None,
) -> ShardFolder:
    """Write shards, tokenizer and manifest to the new folder `out`, and open it.

    The stream is, for every document, BOS and then `tokenizer.encode` of it (which is exact if the tokenizer is
    lossless). A document may straddle two shards of its side. The manifest names the `split`. Work is done in `out` +
    `.partial`, which is renamed at the end and removed on any failure. Raises `OutputError` if `out` exists or cannot
    be written (a full disk), `LeakError` if a held-out document is in the training text, `TokenizerError` for a
    vocabulary beyond uint16, `ShardError` if a sidecar cannot hold a token's bytes.
    """
    require_train_text(train, "preparing training shards")
    require_disjoint(train, held_out)
    _write_new(train, held_out, tokenizer, out, shard_tokens, split)
    return ShardFolder.open(out)


def prepare_held_out(
    held_out: HeldOutText, data: ShardFolder, out: Path, shard_tokens: int = SHARD_TOKENS, split: Split | None = None
) -> ShardFolder:
    """Held-out shards alone, for the training shards of `data` and with their tokenizer, in the new folder `out`.

    Raises `LeakError` if `data` was divided by the same rule with another number, or if a held-out document is among
    its training documents (compared by the hash of their tokens); else as `prepare`.
    """
    if split is not None:
        require_same_split(data.manifest, split, str(data.path))
    require_unseen(held_out, data.tokenizer, data.train_shards(), str(data.path))
    _write_new(None, held_out, data.tokenizer, out, shard_tokens, split)
    return ShardFolder.open(out)


def _write_new(
    train: TrainText | None,
    held_out: HeldOutText,
    tokenizer: Tokenizer,
    out: Path,
    shard_tokens: int,
    split: Split | None,
) -> None:
    """Write a folder that did not exist before."""
    if tokenizer.vocab_size > 65536:
        raise TokenizerError(f"shards hold 16-bit ids; this vocabulary has {tokenizer.vocab_size}")
    if not 1 <= shard_tokens <= MOST_TOKENS:
        raise OutputError(f"shard_tokens={shard_tokens} is outside 1..{MOST_TOKENS}")
    out = Path(out)
    partial = out.with_name(f"{out.name}.partial")
    for path in (out, partial):
        if path.exists() or path.is_symlink():
            raise OutputError(f"{path} exists; choose another folder or remove it")
    try:
        partial.mkdir(parents=True)
        try:
            write_folder(train, held_out, tokenizer, partial, shard_tokens, split)
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        # Bytes as one id each are the most that the shards can take.
        most = 2 * ((0 if train is None else train.size()) + held_out.size())
        raise OutputError(says_unwritten(out, most, error, at_most=True)) from None


def inspect(path: Path) -> dict[str, Any]:
    """What is in a folder of shards, as plain values for JSON; every shard is read once.

    Works without a manifest and without a tokenizer (documents are then counted by the contest's BOS, id 1). Raises
    `TextError` if there are no shards, `ShardError` for a damaged one.
    """
    path = Path(path)
    manifest = read_manifest(path)
    train_files, held_out_files = shard_files(path)
    tokenizer = _find_tokenizer(path, manifest, None) if _own_tokenizer(path) else None
    return {
        "path": str(path),
        "tokenizer": None if tokenizer is None else describe_tokenizer(tokenizer),
        "train": _describe_side(train_files, tokenizer) | manifest.get("train", {}),
        "held_out": _describe_side(held_out_files, tokenizer) | manifest.get("held_out", {}),
        "has_manifest": bool(manifest),
    }


def _describe_side(files: tuple[Path, ...], tokenizer: Tokenizer | None) -> dict[str, Any]:
    boundary_id = CONTEST_BOS if tokenizer is None else tokenizer.boundary_id
    shards = [read_shard(file, None if tokenizer is None else tokenizer.vocab_size) for file in files]
    return {
        "shards": len(files),
        "tokens": sum(len(shard) for shard in shards),
        "documents": sum(int(np.count_nonzero(shard == boundary_id)) for shard in shards),
        "largest_id": max((int(shard.max()) for shard in shards if len(shard)), default=0),
        "files": [
            {"name": file.name, "tokens": len(shard), "bytes": file.stat().st_size}
            for file, shard in zip(files, shards)
        ],
    }


def _own_tokenizer(path: Path) -> tuple[str, Path] | None:
    return next(((kind, path / name) for kind, name in TOKENIZER_FILES.items() if (path / name).is_file()), None)


def _find_tokenizer(path: Path, manifest: dict[str, Any], given: Tokenizer | None) -> Tokenizer:
    own = _own_tokenizer(path)
    if given is None:
        if not path.is_dir():
            raise TextError(f"no such folder of shards: {path}")
        if own is None:
            raise TokenizerError(f"{path} has no tokenizer of its own; name the one it was made with (a .model file)")
        try:
            given = tokenizer_from_bytes(own[0], own[1].read_bytes())
        except TokenizerError as error:
            raise TokenizerError(f"{own[1]}: {error}") from None
    recorded = manifest.get("tokenizer", {}).get("digest")
    if recorded is not None and recorded != given.digest:
        raise TokenizerError(
            f"{path} was made with tokenizer {recorded[:12]}, this one is {given.digest[:12]} "
            f"({given.vocab_size} ids); use the folder's own"
        )
    return given
