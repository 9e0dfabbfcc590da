"""Squeeze a trained run again, to another budget or with other bits, into a new file; the run itself stays as it is.

The carried text is at most what RUN/model.pyz carries.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from paramgolf.cli.arguments import byte_count
from paramgolf.cli.output import Output
from paramgolf.cli.overrides import add_recipe_flags, override
from paramgolf.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the budget, the new file."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that train has finished")
    parser.add_argument("--budget", type=byte_count, metavar="BYTES", help="largest size (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the new file (default RUN/model-BYTES.pyz)")
    add_recipe_flags(parser, ["squeeze"])


def run(options: argparse.Namespace, output: Output) -> int:
    """Read the trained weights, squeeze, pack, show."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.artifact.pack import pack
    from paramgolf.cli.life import ARTIFACT, averaged_weights, says_packed
    from paramgolf.run_folder import RunFolder
    from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

    folder = RunFolder.resume(options.run)
    recipe = override(Recipe.from_json(folder.read_text("recipe.json")), options)
    budget = recipe.budget.artifact_bytes if options.budget is None else options.budget
    recipe = dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, artifact_bytes=budget))
    packed = open_artifact(folder.path / ARTIFACT)
    weights = averaged_weights(load_checkpoint(folder.path / CHECKPOINT)[0])
    primer = packed.primer if recipe.squeeze.carry_text else ()
    out = options.out or folder.path / f"model-{budget}.pyz"
    report = pack(recipe, packed.tokenizer, weights, primer, out)
    output.say(f"{out}: {says_packed(report)}")
    output.next("paramgolf", "score", out, "TEXT")
    output.result(
        {
            "artifact": out,
            "artifact_bytes": report.bytes,
            "bytes_without_tokenizer": report.bytes_without_tokenizer,
            "budget": budget,
            "coarseness": report.setting.coarseness,
            "fewer_bits": report.setting.fewer_bits,
            "documents_carried": report.setting.documents,
            "documents_dropped": report.documents_dropped,
            "relative_error": report.relative_error,
            "members": report.bytes_by_member,
            "digest": report.digest,
        }
    )
    return 0
