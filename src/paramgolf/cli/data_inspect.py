"""What is in a folder of shards: its tokenizer, documents, bytes and tokens of both sides, and whether every file is
what the manifest says. A folder of the contest's own shards needs --tokenizer.
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
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.tokenizer import load_tokenizer

    given = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    folder = ShardFolder.open(options.folder, given)
    folder.verify()
    tokenizer = folder.tokenizer
    sides = {"train": _side(folder, "train"), "held_out": _side(folder, "held_out")}
    output.say(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} ids, digest {tokenizer.digest[:12]}")
    for side, record in sides.items():
        parts = [
            f"{record[key]:,} {key}" for key in ("documents", "bytes", "tokens", "shards") if record[key] is not None
        ]
        output.say(f"{side.replace('_', '-')}: {', '.join(parts)}")
    files = folder.manifest.get("files", {})
    output.say(f"verified: the digests of {len(files)} files" if files else "no manifest: digests cannot be verified")
    output.next("paramgolf", "train", "baseline", "--data", options.folder)
    output.result(
        {
            "path": folder.path,
            "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "digest": tokenizer.digest},
            "lossless": folder.lossless if folder.manifest else None,
            "verified_files": len(files),
            **sides,
        }
    )
    return 0


def _side(folder: Any, side: str) -> dict[str, Any]:
    """Counts from the manifest; of a folder without one, those that its shards tell."""
    from paramgolf.text.shards import read_shard

    files = folder.train_files if side == "train" else folder.held_out_files
    record = folder.manifest.get(side, {})
    tokens = sum(len(read_shard(file)) for file in files)
    known = {key: record.get(key) for key in ("name", "documents", "bytes", "documents_that_differ")}
    return {**known, "tokens": tokens, "shards": len(files)}
