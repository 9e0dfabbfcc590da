"""The contest's published shards: their tokenizer, all validation shards and the first N training shards, as a folder
that `train --data` and `score` read. What was interrupted goes on; what is there and right is not fetched again.

Every file is checked against the hub's digest where the hub gives one, every shard against its header and its
tokenizer; what was checked against what is in the folder's manifest.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.cli.arguments import count
from paramgolf.cli.output import Output

if TYPE_CHECKING:
    from paramgolf.text.hub import Fetched
    from paramgolf.text.tokenizer import Tokenizer

_EVERY = 5.0  # seconds between two lines about one file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, how much, where to, where from."""
    parser.add_argument(
        "dataset", metavar="DATASET", help="fineweb-sp1024, fineweb-byte260, fineweb-caseops-sp8192, or sp<ids>"
    )
    parser.add_argument("--shards", required=True, type=count, metavar="N", help="training shards; the record used 80")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder (default data/DATASET)")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="dataset repository (default: the contest's)")
    parser.add_argument("--revision", default="main", metavar="REV", help="branch, tag or commit (default main)")
    parser.add_argument("--endpoint", metavar="URL", help="the hub or a mirror of it (default: the public hub)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Fetch, check, describe."""
    from paramgolf.text.hub import fetch
    from paramgolf.text.hub_client import ENDPOINT, Hub
    from paramgolf.text.hub_layout import repository_of, variant_of

    variant = variant_of(options.dataset)
    out = options.out or Path("data") / f"fineweb-{variant}"
    hub = Hub(options.repo or repository_of(variant), options.endpoint or ENDPOINT, options.revision)
    try:
        fetched = fetch(hub, variant, options.shards, out, _Lines(output))
    except KeyboardInterrupt:
        output.note("stopped; the same command goes on from here")
        raise
    _show(fetched, output)
    return 0


class _Lines:
    """Progress as lines on stderr: one when a file is whole, and one every few seconds before that."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._name = ""
        self._begun = self._shown = 0.0
        self._first = 0

    def note(self, line: str) -> None:
        self._output.note(line)

    def progress(self, name: str, have: int, size: int) -> None:
        now = time.monotonic()
        if name != self._name:
            self._name, self._begun, self._shown, self._first = name, now, now, have
        if have < size and now - self._shown < _EVERY:
            return
        self._shown = now
        # The clock starts with the first part: a file that came in one has no speed.
        speed = f", {(have - self._first) / max(now - self._begun, 1e-6) / 1e6:.1f} MB/s" if have > self._first else ""
        self._output.note(f"{name}: {have:,} of {size:,} bytes{speed}")


def _show(fetched: Fetched, output: Output) -> None:
    tokenizer, checked = fetched.folder.tokenizer, fetched.checked
    for side, record in (("train", fetched.train), ("held-out", fetched.held_out)):
        output.say(
            f"{side}: {record['documents']:,} documents, {record['bytes']:,} bytes, {record['tokens']:,} tokens in "
            f"{record['shards']} shards"
        )
    if fetched.validation is not None:
        output.say(
            f"the contest's denominator: {fetched.validation.targets:,} targets, {fetched.validation.bytes:,} bytes"
        )
    output.say(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} ids, digest {tokenizer.digest[:12]}")
    output.say("checked: " + ", ".join(f"{number} files by {how}" for how, number in sorted(checked.items())))
    recipe = "pr2140" if tokenizer.kind == "caseops" else "pr549"
    flags = _tokenizer_flags(recipe, tokenizer)
    command = ["paramgolf", "train", recipe, "--data", str(fetched.folder.path), *flags]
    output.next(*command)
    output.result(
        {
            "folder": fetched.folder.path,
            "dataset": fetched.dataset,
            "commit": fetched.commit,
            "shards": fetched.train["shards"],
            "tokens": fetched.train["tokens"],
            "bytes": fetched.file_bytes,
            "downloaded_bytes": fetched.downloaded,
            "verified": checked,
            "train": fetched.train,
            "held_out": fetched.held_out,
            "validation": fetched.validation,
            "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "digest": tokenizer.digest},
            "next": command,
        }
    )


def _tokenizer_flags(recipe: str, found: Tokenizer) -> list[str]:
    """What makes the recipe's tokenizer that of the shards."""
    from paramgolf.recipes import get_recipe

    wanted = get_recipe(recipe).tokenizer
    flags = [] if wanted.kind == found.kind else ["--tokenizer.kind", found.kind]
    same_size = wanted.vocab_size == found.vocab_size
    return flags if same_size else [*flags, "--tokenizer.vocab_size", str(found.vocab_size)]
