"""The life of a run in steps that `train`, `pack` and `quickstart` share: describe, train, squeeze, pack, prove."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.recipe import Recipe

if TYPE_CHECKING:
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.text import TrainText
    from paramgolf.text.tokenizer import Tokenizer
    from paramgolf.train.distributed import Ranks

LOG = "log.txt"
LARGEST_HASHED = (
    50_000_000  # tokens; beyond them documents are not hashed, and an overlap with held-out text would not show
)


@dataclass(frozen=True)
class TrainingData:
    """What training reads: `shards` of ids, their tokenizer, and what is known of the text they came from.

    `text` is what env.json says of it; `hashes` uint64 [D] of its documents, None if nobody computed them.
    """

    tokenizer: Tokenizer
    shards: Sequence[Any] = field(repr=False)
    text: dict[str, Any]
    source: str
    hashes: Any = field(default=None, repr=False)


def data_of_folder(folder: ShardFolder, source: Path) -> TrainingData:
    """Training data from a folder of shards."""
    shards = folder.train_shards()
    record = folder.manifest.get("train", {})
    text = {
        "name": record.get("name", folder.path.name),
        "digest": record.get("text_digest", ""),
        "documents": record.get("documents"),
        "bytes": record.get("bytes"),
    }
    tokens = sum(len(shard) for shard in shards)
    hashes = _hashes_of_shards(folder, shards) if folder.lossless and tokens <= LARGEST_HASHED else None
    return TrainingData(folder.tokenizer, shards, text, str(source.resolve()), hashes)


def data_of_text(train: TrainText, tokenizer: Tokenizer, source: str) -> TrainingData:
    """Training data straight from a text: one stream, each document after a boundary token, as in shards."""
    from paramgolf.predict.score_text import document_hashes, text_record

    boundary = np.array([tokenizer.boundary_id], dtype=np.int32)
    parts = [part for document in train.documents for part in (boundary, tokenizer.encode(document))]
    return TrainingData(
        tokenizer, [np.concatenate(parts)], dict(text_record(train)), source, document_hashes(train.documents)
    )


def require_tokenizer(recipe: Recipe, tokenizer: Tokenizer, source: str) -> None:
    """Refuse data of another tokenizer than the recipe's, with the flags that make them agree."""
    wanted, found = recipe.tokenizer, tokenizer
    # The byte tokenizer has one size, whatever the recipe says.
    if wanted.kind == found.kind and (found.kind == "bytes" or wanted.vocab_size == found.vocab_size):
        return
    raise RecipeError(
        f"recipe {recipe.name} wants tokenizer {wanted.kind} of {wanted.vocab_size} ids, {source} has {found.kind} of "
        f"{found.vocab_size};\nadd --tokenizer.kind {found.kind} --tokenizer.vocab_size {found.vocab_size}, or prepare "
        "the data with the recipe's"
    )


def write_recipe(run: RunFolder, recipe: Recipe) -> None:
    """recipe.json, byte for byte what the fingerprint is of."""
    run.write_text("recipe.json", recipe.to_json() + "\n")


def write_env(run: RunFolder, data: TrainingData, ranks: Ranks, commands: Sequence[str]) -> None:
    """env.json (machine, versions, what was trained on, the commands to do it again) and the documents' hashes."""
    from paramgolf.cli.environment import describe_installation, describe_machine, describe_torch
    from paramgolf.predict.score_file import write_hashes

    record = {
        **describe_installation(),
        **describe_machine(),
        **describe_torch(),
        "device": str(ranks.device),
        "ranks": ranks.world,
        "train_text": data.text,
        "tokenizer_digest": data.tokenizer.digest,
        "data": data.source,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commands": list(commands),
    }
    run.write_json("env.json", record)
    if data.hashes is not None:
        write_hashes(data.hashes, run)


def log(run: RunFolder, line: str) -> None:
    """One line on stderr and in the run's log.txt, with the time of day in the log."""
    print(line, file=sys.stderr, flush=True)
    run.append_line(LOG, f"{time.strftime('%H:%M:%S')} {line}")


def _hashes_of_shards(folder: ShardFolder, shards: Sequence[Any]) -> Any:
    from paramgolf.predict.score_text import document_hashes

    stream = np.concatenate(shards).astype(np.int32)
    starts = np.flatnonzero(stream == folder.tokenizer.boundary_id)
    pieces = np.split(stream, starts)
    documents = [folder.tokenizer.decode(piece) for piece in pieces if len(piece)]
    return document_hashes(documents)
