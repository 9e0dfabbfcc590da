"""Text to shards: reads text files, folders, jsonl, jsonl.zst and parquet (field `text`), holds out a share of the
documents by their content (or the first N), and writes both sides as token shards with the tokenizer and a manifest.

With --caseops capitals become operators in front of small letters, and held-out shards get sidecars: the raw bytes that
each token stands for. The same documents are always divided in the same way. Nothing is written over: --out must not
exist.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.arguments import UsageError, count, share
from paramgolf.cli.output import Output
from paramgolf.errors import OutputError

if TYPE_CHECKING:
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.split import Split
    from paramgolf.text.text import HeldOutText, TrainText
    from paramgolf.text.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Inputs, tokenizer, output, and how to divide."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="a text file, container or folder")
    parser.add_argument(
        "--tokenizer",
        metavar="T",
        help="a SentencePiece .model file, 'bytes', or 'train' to train one on the training side (the default with "
        "--caseops)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new folder of shards")
    parser.add_argument(
        "--vocab-size", type=count, metavar="N", help=f"ids of a trained tokenizer (default {DEFAULT_VOCAB_SIZE})"
    )
    parser.add_argument(
        "--caseops", action="store_true", help="capitals as operators in front of small letters (#2140)"
    )
    parser.add_argument(
        "--contest-normalisation",
        action="store_true",
        help="train with NFKC and single spaces, as the contest's models are: documents may not come back exactly",
    )
    divide = parser.add_mutually_exclusive_group()
    divide.add_argument(
        "--held-out", type=share, metavar="SHARE", help="share of the documents to hold out (default 0.08)"
    )
    divide.add_argument(
        "--held-out-first", type=count, metavar="N", help="hold out the first N documents (the contest: 50000)"
    )
    parser.add_argument(
        "--leave-out-copies",
        action="store_true",
        help="with --held-out-first: drop training documents that are held out; with --train-shards: held-out ones "
        "that were trained on",
    )
    parser.add_argument(
        "--train-shards",
        type=Path,
        metavar="DIR",
        help="make the held-out side only, for the training shards of this folder and with its tokenizer",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Read, divide, tokenise, write."""
    from paramgolf.text.documents import survey_documents
    from paramgolf.text.shard_folder import ShardFolder, prepare, prepare_held_out

    _require_agreement(options)
    if os.path.lexists(options.out):  # before the work, not after it
        raise OutputError(f"{options.out} exists already; choose another --out, or move it away")
    data = None if options.train_shards is None else ShardFolder.open(options.train_shards)
    survey = survey_documents(options.inputs)
    output.note(survey.says())
    if data is not None:
        held_out, split = _held_out(options, survey.documents, data, output)
        output.note(f"split: {split.says()}{_hint(options, survey.documents, held_out)}")
        folder = prepare_held_out(held_out, data, options.out, split=split)
    else:
        train, held_out, split = _divide(options, survey.documents)
        output.note(f"split: {split.says()}")
        if options.held_out_first is None and len({document for document in survey.documents if document}) == 1:
            sizes = f"{train.size():,} bytes to learn from and {held_out.size():,} held out"
            output.note(f"one document alone: it is cut into {sizes}")
        folder = prepare(train, held_out, _tokenizer(options, train, output), options.out, split=split)
    _show(folder, split, output)
    return 0


def _require_agreement(options: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, with their values."""
    if options.train_shards is not None:
        given = ("tokenizer", "vocab_size", "caseops", "contest_normalisation")
        extra = [f"--{name.replace('_', '-')}" for name in given if getattr(options, name)]
        if extra:
            raise UsageError(f"{' '.join(extra)} with --train-shards {options.train_shards}: it has its tokenizer")
    elif options.tokenizer is None:
        if not options.caseops:
            raise UsageError("--tokenizer is needed: a .model file, 'bytes', or 'train'")
        options.tokenizer = "train"
    if options.vocab_size is not None and options.tokenizer != "train":
        raise UsageError(
            f"--vocab-size {options.vocab_size} is for --tokenizer train, this is --tokenizer {options.tokenizer}"
        )
    if options.caseops and options.tokenizer == "bytes":
        raise UsageError("--caseops is for SentencePiece, this is --tokenizer bytes")
    if options.contest_normalisation and not (options.caseops and options.tokenizer == "train"):
        raise UsageError("--contest-normalisation is for --caseops with --tokenizer train")
    if options.leave_out_copies and options.held_out_first is None and options.train_shards is None:
        raise UsageError("--leave-out-copies is for --held-out-first; a split by content holds copies together")


def _divide(options: argparse.Namespace, documents: list[bytes]) -> tuple[TrainText, HeldOutText, Split]:
    from paramgolf.text.split import DEFAULT_HELD_OUT_SHARE, Split, split_documents, split_first

    name, first = options.inputs[0].stem, options.held_out_first
    if first is not None:
        sides = split_first(documents, name, first, leave_out_copies=options.leave_out_copies)
        return *sides, Split("first", first)
    held_out_share = options.held_out or DEFAULT_HELD_OUT_SHARE
    return *split_documents(documents, name, held_out_share), Split("content", held_out_share)


def _held_out(
    options: argparse.Namespace, documents: list[bytes], data: ShardFolder, output: Output
) -> tuple[HeldOutText, Split]:
    """The held-out side alone; without a flag it is divided as `data` was, and a text of no more documents than were
    held out there is held out whole."""
    from paramgolf.text.split import Split
    from paramgolf.text.text import HeldOutText
    from paramgolf.text.unseen import seen_documents

    own, first = Split.of_manifest(data.manifest), options.held_out_first
    flagged = first is not None or options.held_out is not None
    if first == len(documents):  # nothing need be left to learn from
        held_out, split = HeldOutText(f"{options.inputs[0].stem}-held-out", documents), Split("first", first)
    elif flagged or own is None:
        _, held_out, split = _divide(options, documents)
    else:
        held_out, split = HeldOutText(f"{options.inputs[0].stem}-held-out", _as_divided(documents, own)), own
    if options.leave_out_copies:
        seen = seen_documents(held_out, data.tokenizer, data.train_shards())
        output.note(f"left out: {len(seen):,} of {len(held_out.documents):,} documents are in the training shards")
        kept = [document for index, document in enumerate(held_out.documents) if index not in seen]
        held_out = HeldOutText(held_out.name, kept)
    return held_out, split


def _hint(options: argparse.Namespace, documents: list[bytes], held_out: HeldOutText) -> str:
    """How to hold out all of the text, where nobody asked for a part of it."""
    asked = options.held_out_first is not None or options.held_out is not None or options.leave_out_copies
    if asked or len(held_out.documents) == len(documents):
        return ""
    return f", {len(held_out.documents):,} of {len(documents):,} documents; --held-out-first {len(documents)} takes all"


def _as_divided(documents: list[bytes], split: Split) -> list[bytes]:
    """The documents that a split holds out; all, where it holds out as many as there are."""
    from paramgolf.text.split import split_documents

    if split.rule == "first":
        return documents[: int(split.held_out)]
    return list(split_documents(documents, "text", split.held_out)[1].documents)


def _tokenizer(options: argparse.Namespace, train: TrainText, output: Output) -> Tokenizer:
    if options.tokenizer != "train":
        from paramgolf.text.tokenizer import load_tokenizer, require_caseops

        tokenizer = load_tokenizer(options.tokenizer)
        if tokenizer.kind == "caseops" and not options.caseops:
            output.note(f"{options.tokenizer} is a CaseOps model: taken as with --caseops")
        return require_caseops(tokenizer, options.tokenizer) if options.caseops else tokenizer
    from paramgolf.text.caseops_training import train_contest_caseops
    from paramgolf.text.train_tokenizer import train_tokenizer

    vocab_size = options.vocab_size or DEFAULT_VOCAB_SIZE
    output.note(f"training a tokenizer of {vocab_size} ids on {train.size():,} bytes")
    if options.contest_normalisation:
        return train_contest_caseops(train, vocab_size)
    return train_tokenizer(train, "caseops" if options.caseops else "sentencepiece", vocab_size)


def _show(folder: ShardFolder, split: Split, output: Output) -> None:
    sides: dict[str, Any] = {side: folder.manifest[side] for side in ("train", "held_out") if side in folder.manifest}
    for side, record in sides.items():
        output.say(
            f"{side.replace('_', '-')}: {record['documents']:,} documents, {record['bytes']:,} bytes, "
            f"{record['tokens']:,} tokens in {record['shards']} shards"
        )
    charged = sides["held_out"].get("sidecar_bytes")
    if charged is not None:
        output.say(f"sidecars: {charged:,} of {sides['held_out']['bytes']:,} held-out bytes are charged to tokens")
    differ = sum(record["documents_that_differ"] for record in sides.values())
    if differ:
        total = sum(record["documents"] for record in sides.values())
        output.say(f"not lossless: {differ:,} of {total:,} documents do not come back from their tokens")
    misplaced = sum(record.get("documents_decoded_tolerantly", 0) for record in sides.values())
    if misplaced:
        output.say(f"tolerant decoding: normalisation moved operators of {misplaced:,} documents off their words")
    if "train" in sides:
        output.next("paramgolf", "train", *recipe_words(folder.tokenizer), "--data", folder.path)
    output.result(
        {
            "out": folder.path,
            "vocab_size": folder.tokenizer.vocab_size,
            "tokenizer": folder.tokenizer.kind,
            "lossless": folder.lossless,
            "split": split.to_json(),
            **sides,
        }
    )


def recipe_words(tokenizer: Tokenizer) -> list[str]:
    """A recipe that takes the tokenizer, and the flag that makes its vocabulary fit."""
    if tokenizer.kind != "caseops":
        return ["baseline"]
    from paramgolf.recipes import get_recipe

    same = get_recipe("pr2140_tiny").tokenizer.vocab_size == tokenizer.vocab_size
    return ["pr2140_tiny", *([] if same else ["--tokenizer.vocab_size", str(tokenizer.vocab_size)])]
