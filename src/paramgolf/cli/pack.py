"""Squeeze a trained run again, to another budget or with other bits, into a new file or (with --new-run) a run folder
that can be scored and submitted like any other; the run itself stays as it is.

The carried text is at most what RUN/model.pyz carries.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.arguments import UsageError, byte_count
from paramgolf.cli.output import Output
from paramgolf.cli.overrides import add_recipe_flags, override
from paramgolf.recipe import BudgetRecipe, Recipe

if TYPE_CHECKING:
    from paramgolf.artifact.pack import PackReport
    from paramgolf.cli.life import Weights
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the budget, the new file."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that train has finished")
    parser.add_argument("--budget", type=byte_count, metavar="BYTES", help="largest size (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the new file (default RUN/model-BYTES.pyz)")
    parser.add_argument("--new-run", type=Path, metavar="RUN2", help="a new run folder instead of a file")
    add_recipe_flags(parser, ["squeeze"])


def run(options: argparse.Namespace, output: Output) -> int:
    """Read the trained weights, squeeze, pack, show."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.artifact.pack import pack
    from paramgolf.cli.life import ARTIFACT, averaged_weights, says_packed
    from paramgolf.run_folder import RunFolder
    from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

    if options.out is not None and options.new_run is not None:
        raise UsageError(f"--out {options.out} makes a file, --new-run {options.new_run} a folder; give one of them")
    folder = RunFolder.resume(options.run)
    recipe = override(Recipe.from_json(folder.read_text("recipe.json")), options)
    budget = recipe.budget.packed_bytes() if options.budget is None else options.budget
    if options.budget is not None:
        recipe = dataclasses.replace(recipe, budget=_packed_budget(recipe.budget, budget))
    packed = open_artifact(folder.path / ARTIFACT)
    weights = averaged_weights(load_checkpoint(folder.path / CHECKPOINT)[0])
    primer = packed.primer if recipe.squeeze.carry_text else ()
    if options.new_run is not None:
        report = _new_run(options.new_run, folder, recipe, packed.tokenizer, weights, primer)
        out = options.new_run / ARTIFACT
        output.next("paramgolf", "score", out, "TEXT", "--out", options.new_run)
    else:
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


def _packed_budget(budget: BudgetRecipe, packed_bytes: int) -> BudgetRecipe:
    """The budget with room for so many packed bytes: what is left of the old cap stays reserved."""
    cap = max(budget.artifact_bytes, packed_bytes)
    return dataclasses.replace(budget, artifact_bytes=cap, reserved_bytes=cap - packed_bytes)


# What a run knows of its training, which squeezing it again does not change.
_OF_TRAINING = ("env.json", "train_documents.npy", "log.txt", "metrics.jsonl")


def _new_run(
    path: Path, trained: RunFolder, recipe: Recipe, tokenizer: Tokenizer, weights: Weights, primer: Sequence[Any]
) -> PackReport:
    """A run folder with the same training and another model.pyz; the checkpoint stays in the old one."""
    from paramgolf.cli.life import log, pack_run, write_recipe
    from paramgolf.run_folder import RunFolder

    run = RunFolder.create(path)
    try:
        write_recipe(run, recipe)
        for name in _OF_TRAINING:
            if (trained.path / name).exists():
                shutil.copyfile(trained.path / name, run.path / name)
        run.write_json("ledger.json", _ledger_of_training(trained))
        log(run, f"squeezed again from the weights of {trained.final_path}")
        report = pack_run(recipe, tokenizer, weights, primer, run)
        run.finish()
    except BaseException:
        run.discard()
        raise
    return report


def _ledger_of_training(trained: RunFolder) -> list[dict[str, Any]]:
    """The phases of the old run without its evaluation, which was of another model.pyz."""
    from paramgolf.clock import entries_of
    from paramgolf.referee.rules_ledger import evaluates

    entries = entries_of(trained.read_json("ledger.json"))
    return [dataclasses.asdict(entry) for entry in entries if not evaluates(entry)]
