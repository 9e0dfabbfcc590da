"""Text from the model: it goes on from the prompt, token by token, until --tokens or the end of a document."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paramgolf.cli.arguments import count, temperature
from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The artifact, and how to draw."""
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a model.pyz")
    parser.add_argument("--prompt", default="", metavar="P", help="what it goes on from (default: a new document)")
    parser.add_argument("--tokens", type=count, default=200, metavar="N", help="at most so many (default 200)")
    parser.add_argument(
        "--temperature", type=temperature, default=0.8, metavar="X", help="0 takes the likeliest (default 0.8)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default 0)"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Draw and print; the prompt comes first, as given."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.predict.sample import sample

    prompt = options.prompt.encode("utf-8", "surrogateescape")
    artifact = open_artifact(options.artifact)
    written = sample(artifact, prompt, options.tokens, options.temperature, options.seed)
    text = written.decode("utf-8", "replace")
    output.say(prompt.decode("utf-8", "replace") + text)
    # stderr: the text alone is what a pipe wants.
    print(f"next: paramgolf score {options.artifact} TEXT", file=sys.stderr)
    output.result(
        {"prompt": prompt.decode("utf-8", "replace"), "text": text, "bytes": len(written), "seed": options.seed}
    )
    return 0
