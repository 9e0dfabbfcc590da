"""Text to shards: reads text files, folders, jsonl, jsonl.zst and parquet (field `text`), holds out a share of the
documents by their content, and writes both sides as token shards with the tokenizer and a manifest.

The same documents are always divided in the same way. Nothing is written over: --out must not exist.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.cli.arguments import UsageError, count, share
from paramgolf.cli.output import Output
from paramgolf.errors import OutputError

if TYPE_CHECKING:
    from paramgolf.text.text import TrainText
    from paramgolf.text.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Inputs, tokenizer, output, and how to divide."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="a text file, container or folder")
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="T",
        help="a SentencePiece .model file, 'bytes', or 'train' to train one on the training side",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new folder of shards")
    parser.add_argument(
        "--vocab-size", type=count, metavar="N", help=f"ids of a trained tokenizer (default {DEFAULT_VOCAB_SIZE})"
    )
    parser.add_argument(
        "--held-out", type=share, metavar="SHARE", help="share of the documents to hold out (default 0.08)"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Read, divide, tokenise, write."""
    from paramgolf.text.documents import survey_documents
    from paramgolf.text.shard_folder import prepare
    from paramgolf.text.split import DEFAULT_HELD_OUT_SHARE, split_documents

    if options.vocab_size is not None and options.tokenizer != "train":
        raise UsageError(
            f"--vocab-size {options.vocab_size} is for --tokenizer train, this is --tokenizer {options.tokenizer}"
        )
    if os.path.lexists(options.out):  # before the work, not after it
        raise OutputError(f"{options.out} exists already; choose another --out, or move it away")
    survey = survey_documents(options.inputs)
    output.note(survey.says())
    held_out_share = options.held_out or DEFAULT_HELD_OUT_SHARE
    train, held_out = split_documents(survey.documents, options.inputs[0].stem, held_out_share)
    tokenizer = _tokenizer(options.tokenizer, options.vocab_size or DEFAULT_VOCAB_SIZE, train, output)
    folder = prepare(train, held_out, tokenizer, options.out)
    sides = {side: folder.manifest[side] for side in ("train", "held_out")}
    for side, record in sides.items():
        output.say(
            f"{side.replace('_', '-')}: {record['documents']:,} documents, {record['bytes']:,} bytes, "
            f"{record['tokens']:,} tokens in {record['shards']} shards"
        )
    differ = sum(record["documents_that_differ"] for record in sides.values())
    if differ:
        total = sum(record["documents"] for record in sides.values())
        output.say(f"not lossless: {differ:,} of {total:,} documents do not come back from their tokens")
    output.next("paramgolf", "train", "baseline", "--data", options.out)
    output.result({"out": options.out, "vocab_size": tokenizer.vocab_size, "lossless": folder.lossless, **sides})
    return 0


def _tokenizer(name: str, vocab_size: int, train: TrainText, output: Output) -> Tokenizer:
    if name != "train":
        from paramgolf.text.tokenizer import load_tokenizer

        return load_tokenizer(name)
    from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece

    output.note(f"training a tokenizer of {vocab_size} ids on {train.size():,} bytes")
    return train_sentencepiece(train, vocab_size)
