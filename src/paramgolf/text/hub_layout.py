"""How the contest's data lie in their dataset repositories (spec pr549.md 1.2, pr2140.md 1.4).

datasets/manifest.json                                              what there is
datasets/datasets/fineweb10B_VARIANT/fineweb_{train,val}_NNNNNN.bin  the shards
datasets/datasets/fineweb10B_VARIANT/fineweb_val_bytes_NNNNNN.bin    with CaseOps: bytes of each validation token
datasets/tokenizers/...                                              as the manifest names them

`caseops-sp<ids>` is the one data set of a repository whose name begins with `fineweb10B_sp<ids>` and holds `caseops`.
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
CASEOPS_REPOSITORY = "romeerp/parameter-golf-caseops-v1"
ROOT = "datasets"
MANIFEST_PATH = f"{ROOT}/manifest.json"
BYTES = "byte260"
MOST_SHARDS = 1_000_000  # of a side: their names have six digits
CASEOPS = "caseops-"
HOSTED = ("fineweb-sp1024", f"fineweb-{BYTES}", f"fineweb-{CASEOPS}sp8192")  # what a misspelt name is compared with
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

    @property
    def caseops(self) -> bool:
        """Whether its text is transformed, and its validation shards have sidecars."""
        return self.variant.startswith(CASEOPS)

    def shard_path(self, side: Side, index: int) -> str:
        """Where a shard lies in the repository."""
        return self.path_of(shard_name(side, index))

    def path_of(self, name: str) -> str:
        """Where a file of the data set lies in the repository."""
        return f"{ROOT}/datasets/{self.name}/{name}"


def shard_name(side: Side, index: int) -> str:
    """The file name of a shard, there and here."""
    return f"fineweb_{side}_{index:06d}.bin"


def variant_of(name: str) -> str:
    """`byte260`, `sp<ids>` or `caseops-sp<ids>`, with or without `fineweb-`; raises `TextError` with a suggestion."""
    variant = name.removeprefix("fineweb-").removeprefix("fineweb10B_")
    if re.fullmatch(rf"{BYTES}|({CASEOPS})?sp[1-9]\d*", variant):
        return variant
    near = difflib.get_close_matches(name, HOSTED, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TextError(f"no data set {name!r}; {hint}known: {', '.join(HOSTED)}, fineweb-sp<ids> of other repositories")


def repository_of(variant: str) -> str:
    """The repository that has a variant, unless the user names another."""
    return CASEOPS_REPOSITORY if variant.startswith(CASEOPS) else REPOSITORY


def read_publication(manifest: bytes, variant: str, repository: str) -> Publication:
    """What a repository's manifest says of a variant; raises `HubError` if it does not have it, or is no manifest."""
    try:
        record = json.loads(manifest)
        sets = {str(entry["name"]): entry for entry in record["datasets"]}
        name = _find(variant, sets, repository)
        entry = sets[name]
        stats = {str(key): value for key, value in entry["stats"].items() if type(value) is int and value >= 0}
        if max(stats["files_train"], stats["files_val"]) > MOST_SHARDS:
            raise ValueError(f"{max(stats['files_train'], stats['files_val']):,} shards, {MOST_SHARDS:,} have a name")
        return Publication(
            name=name,
            variant=variant,
            files_train=stats["files_train"],
            files_val=_files_val(record, stats),
            stats=stats,
            vocab_size=_optional_int(entry, "vocab_size"),
            bos_id=_optional_int(entry, "bos_id"),
            tokenizer_files=() if variant == BYTES else _tokenizer_files(record, entry, name),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        says = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise HubError(f"{repository}: {MANIFEST_PATH} is no manifest of the contest: {says}") from None


def _find(variant: str, sets: dict[str, Any], repository: str) -> str:
    """The name of a variant's data set; raises `HubError` if there is none, or more than one that it may be."""
    if not variant.startswith(CASEOPS):
        name = f"fineweb10B_{variant}"
        if name not in sets:
            raise HubError(_says_missing(name, sets, repository))
        return name
    prefix = f"fineweb10B_{variant.removeprefix(CASEOPS)}"
    names = [name for name in sets if re.fullmatch(rf"{prefix}_\w*", name) and "caseops" in name]
    if not names:
        raise HubError(_says_missing(f"{prefix}_*caseops*", sets, repository))
    if len(names) > 1:
        raise HubError(f"{repository} has {len(names)} data sets for fineweb-{variant}: {', '.join(sorted(names))}")
    return names[0]


def _files_val(record: dict[str, Any], stats: dict[str, int]) -> int:
    """Validation shards. An exporter that counts files may count sidecars too, so the tokens have a say."""
    tokens, size = stats.get("tokens_val"), record.get("shard_size")
    if tokens and type(size) is int and size > 0:
        return min(stats["files_val"], -(-tokens // size))
    return stats["files_val"]


def _tokenizer_files(record: dict[str, Any], entry: dict[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    size, _, rest = name.removeprefix("fineweb10B_sp").partition("_")
    wanted = entry.get("tokenizer_name")
    found: dict[str, Any] = next((one for one in record.get("tokenizers", []) if one.get("name") == wanted), {})
    usual = f"tokenizers/fineweb_{size}_bpe{'_' if rest else ''}{rest}.model"
    kind = "caseops" if rest else "sentencepiece"
    files = [(TOKENIZER_FILES[kind], _inside(found.get("model_path") or found.get("path") or usual))]
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
