"""The contest's published shards, with their tokenizer, into a folder that training and scoring open.

Every file is downloaded under another name, checked against the hub's digest where there is one, a shard against its
own header and its tokenizer always, and only then given its name. What was checked is in the folder's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paramgolf.errors import ShardError, TokenizerError
from paramgolf.text.byte_table import contest_byte_table
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.hub_client import Hub, HubError
from paramgolf.text.hub_files import MADE_HERE, UNCHECKED, Examine, HubFiles, Reporter, require_digest
from paramgolf.text.hub_folder import FetchFolder
from paramgolf.text.hub_layout import BYTES, MANIFEST_PATH, Publication, Side, read_publication, shard_name
from paramgolf.text.manifest import TOKENIZER_FILES
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer
from paramgolf.text.shard_facts import KnownTokenizer, shard_facts
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.shards import read_shard
from paramgolf.text.sidecar import check_entries, sidecar_path
from paramgolf.text.split import Split
from paramgolf.text.validation import Denominator, plain_denominator, sidecar_denominator, validation_tokens

CONTEST_SEQUENCE = 2048
HUB_MANIFEST = "hub_manifest.json"


@dataclass(frozen=True)
class Fetched:
    """What is in the folder now: per side `documents`, `bytes`, `tokens` and `shards`.

    `checked` counts files by what they were checked against; `validation` is the contest's plain denominator: at
    sequence 2048, None where the held-out shards hold no such sequence; with CaseOps that of the sidecars, all targets.
    """

    folder: ShardFolder
    dataset: str
    commit: str | None
    train: dict[str, int]
    held_out: dict[str, int]
    file_bytes: int
    downloaded: int
    checked: dict[str, int]
    validation: Denominator | None


def fetch(hub: Hub, variant: str, shards: int, out: Path, reporter: Reporter) -> Fetched:
    """The tokenizer, all validation shards and the first `shards` training shards of `variant` in the folder `out`.

    Goes on where an earlier call stopped, and fetches nothing that is there and right; a file that is there and wrong
    is moved aside. Raises `HubError` (no network, no such repository, data set or file, fewer shards than asked),
    `ShardError` (a wrong digest, size, header or id), `TokenizerError` (another vocabulary than the manifest says) and
    `OutputError` (a folder of something else, a full disk).
    """
    if shards < 1:
        raise ValueError(f"shards={shards} must be positive")
    listing = hub.head(MANIFEST_PATH)
    hub = hub.pinned(listing.commit)
    manifest = hub.read(listing)
    if listing.digest is not None:
        require_digest(MANIFEST_PATH, listing.digest, listing.digest.of_same_kind(manifest))
    publication = read_publication(manifest, variant, hub.repository)
    if shards > publication.files_train:
        raise HubError(
            f"{shards} training shards were asked for, {hub.repository} has {publication.files_train} of "
            f"{publication.name}; give --shards {publication.files_train} or fewer"
        )
    folder = FetchFolder(out, hub.repository, publication.name)
    files = HubFiles(hub, folder, reporter)
    folder.describe({"endpoint": hub.endpoint, "commit": listing.commit, "stats": publication.stats})
    files.keep(HUB_MANIFEST, manifest, listing.digest.kind if listing.digest else UNCHECKED)
    tokenizer = _bring_tokenizer(files, publication)
    folder.describe({}, tokenizer)
    _bring_shards(files, publication, tokenizer, shards)
    _require_stats(folder, publication)
    if folder.totals("train")["shards"] > shards:
        reporter.note(f"{out} has {folder.totals('train')['shards']} training shards, {shards} were asked for")
    folder.finish()
    return _fetched(files, publication, tokenizer, listing.commit)


def _bring_tokenizer(files: HubFiles, publication: Publication) -> KnownTokenizer:
    """The tokenizer, held against what the manifest says of it."""
    if publication.variant == BYTES:
        tokenizer: KnownTokenizer = ByteTokenizer()
        files.keep(TOKENIZER_FILES["bytes"], tokenizer.to_bytes(), MADE_HERE)
    else:
        for name, path in publication.tokenizer_files:
            files.bring(name, files.hub.head(path), lambda _: {})
        kind = CaseOpsTokenizer if publication.caseops else SentencePieceTokenizer
        model = files.folder.path / TOKENIZER_FILES[kind.kind]
        try:
            tokenizer = kind(model.read_bytes())
        except TokenizerError as error:
            raise TokenizerError(f"{model}: {error}") from None
    for what, expected, found in (
        ("ids", publication.vocab_size, tokenizer.vocab_size),
        ("as BOS", publication.bos_id, tokenizer.boundary_id),
    ):
        if expected is not None and expected != found:
            raise TokenizerError(
                f"tokenizer and shards do not belong together: {publication.name} was made with {expected} {what}, its "
                f"tokenizer in {files.hub.repository} has {found}"
            )
    return tokenizer


def _bring_shards(files: HubFiles, publication: Publication, tokenizer: KnownTokenizer, count: int) -> None:
    """All validation shards, each with its sidecar where there are such, then training shards in their order."""
    files.reporter.note(f"{publication.name} of {files.hub.repository}: {publication.files_val + count} shards")
    wanted = _wanted(files.folder, publication, tokenizer, count)
    remotes = [files.hub.head(publication.path_of(name)) for name, _ in wanted]
    files.require_space((name, remote) for (name, _), remote in zip(wanted, remotes))
    for (name, examine), remote in zip(wanted, remotes):
        files.bring(name, remote, examine)
    # Every publication of the contest holds out the first documents (spec pr549.md 1.2, pr2140.md 1.4).
    files.folder.describe({}, split=Split("first", files.folder.totals("val")["documents"]))


def _wanted(
    folder: FetchFolder, publication: Publication, tokenizer: KnownTokenizer, count: int
) -> list[tuple[str, Examine]]:
    """Names of the files, and how each is looked into."""
    wanted: list[tuple[str, Examine]] = []
    sides: tuple[tuple[Side, int], ...] = (("val", publication.files_val), ("train", count))
    for side, number in sides:
        for index in range(number):
            name = shard_name(side, index)
            wanted.append((name, partial(_examine, side, index, tokenizer)))
            if side == "val" and publication.caseops:
                shard = folder.path / name
                wanted.append((sidecar_path(shard).name, partial(_examine_sidecar, shard, tokenizer)))
    return wanted


def _examine(side: Side, index: int, tokenizer: KnownTokenizer, path: Path) -> dict[str, Any]:
    facts = shard_facts(path, tokenizer, begins_stream=index == 0)
    return {"side": side, "tokens": facts.tokens, "documents": facts.documents, "text_bytes": facts.text_bytes}


def _examine_sidecar(shard: Path, tokenizer: KnownTokenizer, path: Path) -> dict[str, Any]:
    entries = read_shard(path)
    check_entries(entries, sidecar_path(shard).name, shard, tokenizer.boundary_id)
    return {"sidecar_bytes": int(entries.sum(dtype=np.int64))}


def _require_stats(folder: FetchFolder, publication: Publication) -> None:
    """Raise `ShardError` where the sums of a side that is complete are not the manifest's."""
    for side, files in (("val", publication.files_val), ("train", publication.files_train)):
        totals = folder.totals(side)
        for what, name in (("tokens", "tokens"), ("documents", "docs")):
            expected = publication.stats.get(f"{name}_{side}")
            if totals["shards"] == files and expected not in (None, totals[what]):
                raise ShardError(
                    f"the {files} {side} shards of {publication.name} hold {totals[what]:,} {what}, its manifest says "
                    f"{expected:,}; they stay in {folder.path}"
                )


def _fetched(files: HubFiles, publication: Publication, tokenizer: KnownTokenizer, commit: str | None) -> Fetched:
    folder = ShardFolder.open(files.folder.out, check_ids=False)
    train, held_out = files.folder.totals("train"), files.folder.totals("val")
    validation = None
    if isinstance(tokenizer, CaseOpsTokenizer):
        validation = sidecar_denominator(np.concatenate(folder.held_out_sidecars()))
    elif held_out["tokens"] > CONTEST_SEQUENCE:
        tokens = validation_tokens(folder.held_out_shards(), CONTEST_SEQUENCE)
        validation = plain_denominator(tokens, contest_byte_table(tokenizer))
    return Fetched(
        folder=folder,
        dataset=publication.name,
        commit=commit,
        train=train,
        held_out=held_out,
        file_bytes=sum(record["bytes"] for record in files.folder.files.values()),
        downloaded=files.downloaded,
        checked=dict(files.checked),
        validation=validation,
    )
