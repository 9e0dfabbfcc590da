"""What is in a folder of shards: its tokenizer, documents, bytes and tokens of both sides, how they were divided, the
raw bytes that sidecars charge to tokens (CaseOps), and whether every file is what the manifest says. A folder of the
contest's own shards needs --tokenizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of shards")
    parser.add_argument("--tokenizer", metavar="T", help="a .model file or 'bytes', if the folder has none of its own")


def run(options: argparse.Namespace, output: Output) -> int:
    """Open, validate, verify, describe."""
    from paramgolf.cli.data_prepare import recipe_words
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.split import Split
    from paramgolf.text.tokenizer import load_tokenizer

    given = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    folder = ShardFolder.open(options.folder, given)
    folder.verify()
    tokenizer = folder.tokenizer
    sides = {"train": _side(folder, "train"), "held_out": _side(folder, "held_out")}
    way = "lossless" if tokenizer.lossless else "normalises, so documents may not come back"
    output.say(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} ids, {way}, digest {tokenizer.digest[:12]}")
    for side, record in sides.items():
        parts = [
            f"{record[key]:,} {key}" for key in ("documents", "bytes", "tokens", "shards") if record[key] is not None
        ]
        output.say(f"{side.replace('_', '-')}: {', '.join(parts)}")
    split = Split.of_manifest(folder.manifest)
    if split is not None:
        output.say(f"split: {split.says()}")
    sidecars = _sidecars(folder)
    if sidecars is not None:
        output.say(
            f"sidecars: {sidecars['files']}, {sidecars['bytes']:,} bytes are charged to {sidecars['tokens']:,} tokens"
        )
    files = folder.manifest.get("files", {})
    output.say(f"verified: the digests of {len(files)} files" if files else "no manifest: digests cannot be verified")
    if folder.train_files:
        output.next("paramgolf", "train", *recipe_words(tokenizer), "--data", options.folder)
    output.result(
        {
            "path": folder.path,
            "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "digest": tokenizer.digest},
            "lossless": folder.lossless if folder.manifest else None,
            "verified_files": len(files),
            "split": None if split is None else split.to_json(),
            "sidecars": sidecars,
            **sides,
        }
    )
    return 0


def _sidecars(folder: Any) -> dict[str, int] | None:
    """Files, entries and bytes of the sidecars; None if the folder has none."""
    if not folder.sidecar_files:
        return None
    entries = folder.held_out_sidecars()
    return {
        "files": len(entries),
        "tokens": sum(len(part) for part in entries),
        "bytes": sum(int(part.sum(dtype="int64")) for part in entries),
    }


def _side(folder: Any, side: str) -> dict[str, Any]:
    """Counts from the manifest; of a folder without one, those that its shards tell."""
    from paramgolf.text.shards import read_shard

    files = folder.train_files if side == "train" else folder.held_out_files
    record = folder.manifest.get(side, {})
    tokens = sum(len(read_shard(file)) for file in files)
    known = {key: record.get(key) for key in ("name", "documents", "bytes", "documents_that_differ")}
    return {**known, "tokens": tokens, "shards": len(files)}
