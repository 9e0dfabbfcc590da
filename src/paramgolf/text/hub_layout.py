"""How the contest's data lie in their dataset repository (spec pr549.md 1.2).

datasets/manifest.json                                              what there is
datasets/datasets/fineweb10B_VARIANT/fineweb_{train,val}_NNNNNN.bin  the shards
datasets/tokenizers/...                                              as the manifest names them
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from paramgolf.errors import TextError
from paramgolf.text.hub_client import HubError
from paramgolf.text.manifest import TOKENIZER_FILES

REPOSITORY = "willdepueoai/parameter-golf"
ROOT = "datasets"
MANIFEST_PATH = f"{ROOT}/manifest.json"
BYTES = "byte260"
MOST_SHARDS = 1_000_000  # of a side: their names have six digits
HOSTED = ("fineweb-sp1024", f"fineweb-{BYTES}")  # what a misspelt name is compared with
Side = Literal["train", "val"]


@dataclass(frozen=True)
class Publication:
    """One data set of a repository's manifest; a number that the manifest does not give is None."""

    name: str
    variant: str
    files_train: int
    files_val: int
    stats: dict[str, int]
    vocab_size: int | None
    bos_id: int | None
    tokenizer_files: tuple[tuple[str, str], ...]  # (name in the folder, path in the repository)

    def shard_path(self, side: Side, index: int) -> str:
        """Where a shard lies in the repository."""
        return f"{ROOT}/datasets/{self.name}/{shard_name(side, index)}"


def shard_name(side: Side, index: int) -> str:
    """The file name of a shard, there and here."""
    return f"fineweb_{side}_{index:06d}.bin"


def variant_of(name: str) -> str:
    """`byte260` or `sp<digits>`, with or without `fineweb-` before it; raises `TextError` with a suggestion."""
    variant = name.removeprefix("fineweb-").removeprefix("fineweb10B_")
    if re.fullmatch(rf"{BYTES}|sp[1-9]\d*", variant):
        return variant
    near = difflib.get_close_matches(name, HOSTED, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TextError(f"no data set {name!r}; {hint}known: {', '.join(HOSTED)}, fineweb-sp<ids> of other repositories")


def read_publication(manifest: bytes, variant: str, repository: str) -> Publication:
    """What a repository's manifest says of a variant; raises `HubError` if it does not have it, or is no manifest."""
    try:
        record = json.loads(manifest)
        sets = {str(entry["name"]): entry for entry in record["datasets"]}
        name = f"fineweb10B_{variant}"
        if name not in sets:
            raise HubError(_says_missing(name, sets, repository))
        entry = sets[name]
        stats = {str(key): value for key, value in entry["stats"].items() if type(value) is int and value >= 0}
        if max(stats["files_train"], stats["files_val"]) > MOST_SHARDS:
            raise ValueError(f"{max(stats['files_train'], stats['files_val']):,} shards, {MOST_SHARDS:,} have a name")
        return Publication(
            name=name,
            variant=variant,
            files_train=stats["files_train"],
            files_val=stats["files_val"],
            stats=stats,
            vocab_size=_optional_int(entry, "vocab_size"),
            bos_id=_optional_int(entry, "bos_id"),
            tokenizer_files=() if variant == BYTES else _tokenizer_files(record, entry, variant),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        says = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise HubError(f"{repository}: {MANIFEST_PATH} is no manifest of the contest: {says}") from None


def _tokenizer_files(record: dict[str, Any], entry: dict[str, Any], variant: str) -> tuple[tuple[str, str], ...]:
    wanted = entry.get("tokenizer_name")
    found: dict[str, Any] = next((one for one in record.get("tokenizers", []) if one.get("name") == wanted), {})
    model = found.get("model_path") or found.get("path") or f"tokenizers/fineweb_{variant.removeprefix('sp')}_bpe.model"
    files = [(TOKENIZER_FILES["sentencepiece"], _inside(model))]
    if found.get("vocab_path"):
        files.append(("tokenizer.vocab", _inside(found["vocab_path"])))
    return tuple(files)


def _inside(path: str) -> str:
    """A path of the manifest as one of the repository; raises `ValueError` if it leads out of it."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(f"the path {path!r} leads out of the repository")
    return str(PurePosixPath(ROOT, *parts))


def _optional_int(entry: dict[str, Any], key: str) -> int | None:
    value = entry.get(key)
    return value if type(value) is int else None


def _says_missing(name: str, sets: dict[str, Any], repository: str) -> str:
    shown = sorted(known for known in sets if known.isprintable())  # nothing that moves a terminal's cursor
    near = difflib.get_close_matches(name, shown, n=1, cutoff=0.5)
    hint = f"did you mean {near[0].replace('fineweb10B_', 'fineweb-')}? " if near else ""
    return f"{repository} has no data set {name}; {hint}it has: {', '.join(shown) or 'none'}"
