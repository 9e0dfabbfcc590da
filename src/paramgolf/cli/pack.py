"""Squeeze a trained run again, to another budget or with other bits, into a new file or (with --new-run) a run folder
that can be scored and submitted like any other; the run itself stays as it is.

The carried text is at most what RUN/model.pyz carries. GPTQ (--squeeze.quantiser gptq) takes the second moments that
the run kept when it was calibrated. A run without them is calibrated now: on the training text, which needs --data and
counts as training, or with --squeeze.calibration generated on text of the model's own making.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.arguments import UsageError, byte_count
from paramgolf.cli.output import Output
from paramgolf.cli.overrides import add_recipe_flags, override
from paramgolf.errors import OutputError, RunError
from paramgolf.recipe import BudgetRecipe, Recipe

if TYPE_CHECKING:
    from paramgolf.artifact.pack import PackReport
    from paramgolf.cli.calibrate import Calibrated
    from paramgolf.cli.life import TrainingData, Weights
    from paramgolf.clock import Clock
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the budget, the new file."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that train has finished")
    parser.add_argument("--budget", type=byte_count, metavar="BYTES", help="largest size (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the new file (default RUN/model-BYTES.pyz)")
    parser.add_argument("--new-run", type=Path, metavar="RUN2", help="a new run folder instead of a file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the run's training shards, for GPTQ to calibrate on")
    add_recipe_flags(parser, ["squeeze"])


def run(options: argparse.Namespace, output: Output) -> int:
    """Read the trained weights, squeeze, pack, show."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.artifact.pack import pack
    from paramgolf.cli.calibrate import says_calibrated
    from paramgolf.cli.life import ARTIFACT, averaged_weights, require_matrices, says_packed
    from paramgolf.clock import Clock
    from paramgolf.run_folder import RunFolder
    from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

    if options.out is not None and options.new_run is not None:
        raise UsageError(f"--out {options.out} makes a file, --new-run {options.new_run} a folder; give one of them")
    folder = RunFolder.resume(options.run)
    trained_by = Recipe.from_json(folder.read_text("recipe.json"))
    recipe = override(trained_by, options)
    budget = recipe.budget.packed_bytes() if options.budget is None else options.budget
    if options.budget is not None:
        recipe = dataclasses.replace(recipe, budget=_packed_budget(recipe.budget, budget))
    require_matrices(recipe)
    out = options.new_run or options.out or folder.path / f"model-{budget}.pyz"
    if os.path.lexists(out):  # before the work, not after it
        raise OutputError(f"{out} exists already; choose another {'--new-run' if options.new_run else '--out'}")
    packed = open_artifact(folder.path / ARTIFACT)
    tensors, trained = load_checkpoint(folder.path / CHECKPOINT)
    weights = averaged_weights(tensors)
    primer = packed.primer if recipe.squeeze.carry_text else ()
    clock = Clock()
    training = _training_data(options, recipe, packed.tokenizer, trained.data_digest)
    found = None if training is not None else _kept(trained_by, recipe, weights, folder)
    calibrated = found or _calibrated(recipe, packed.tokenizer, weights, training, clock)
    if calibrated is not None:
        output.note(says_calibrated(calibrated))
    if options.new_run is not None:
        model = _Model(recipe, packed.tokenizer, weights, primer, calibrated)
        ledger = [*_ledger_of_training(folder, calibrated=found is not None), *clock.record()]
        report = _new_run(options.new_run, folder, model, ledger)
        out = options.new_run / ARTIFACT
        output.next("paramgolf", "score", out, "TEXT", "--out", options.new_run)
    else:
        measured = (None, None) if calibrated is None else (calibrated.hessians, calibrated.sensitivities)
        report = pack(recipe, packed.tokenizer, weights, primer, out, None, *measured)
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
            "pruned": report.setting.pruned,
            "floored_share": report.floored_share,
            "unmended": list(report.unmended),
            "corrected": list(report.corrected),
            "widened": list(report.widened),
            "step_factors": dict(report.step_factors),
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


def _kept(trained_by: Recipe, recipe: Recipe, weights: Weights, folder: RunFolder) -> Calibrated | None:
    """What the run was calibrated with, if GPTQ needs it and the recipe asks for what the run's own asked for."""
    from paramgolf.cli.calibrate import kept

    if recipe.squeeze.quantiser != "gptq":
        return None
    found = kept(recipe, weights, folder)
    asked, had = recipe.squeeze, trained_by.squeeze
    names = ["calibration_sequences"] + (["calibration_seconds"] if asked.calibration == "train" else [])
    other = [name for name in names if getattr(asked, name) != getattr(had, name)]
    if found is None or not other:
        return found
    if asked.calibration == "generated":
        return None  # own text is there for the drawing
    name = other[0]
    raise RunError(
        f"--squeeze.{name} {getattr(asked, name):g}: {folder.path} was calibrated with {getattr(had, name):g}; leave "
        "the flag away to use what it kept, or give --data DIR to calibrate again"
    )


def _calibrated(
    recipe: Recipe, tokenizer: Tokenizer, weights: Weights, data: TrainingData | None, clock: Clock
) -> Calibrated | None:
    """What GPTQ needs, collected now."""
    from paramgolf.cli.calibrate import calibrate
    from paramgolf.ranks import Ranks, pick_device

    if recipe.squeeze.quantiser != "gptq":
        return None
    return calibrate(recipe, tokenizer, weights, data, clock, Ranks(device=pick_device(0)))


def _training_data(
    options: argparse.Namespace, recipe: Recipe, tokenizer: Tokenizer, trained_on: str
) -> TrainingData | None:
    """The shards that --data names, if they are the very ones that the run was trained on."""
    from paramgolf.cli.life import data_of_folder
    from paramgolf.errors import LeakError
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.train.data_digest import data_digest

    if options.data is None:
        return None
    if recipe.squeeze.quantiser != "gptq" or recipe.squeeze.calibration != "train":
        raise UsageError(f"--data {options.data} is for --squeeze.quantiser gptq --squeeze.calibration train")
    data = data_of_folder(ShardFolder.open(options.data, tokenizer), options.data)
    found = data_digest(data.shards, data.tokenizer.digest, str(data.text.get("digest", "")))
    if found != trained_on:
        raise LeakError(
            f"{options.data} holds data {found[:16]}, the run was trained on {trained_on[:16] or 'nobody knows what'}; "
            "calibration takes the training data alone"
        )
    return data


# What a run knows of its training, which squeezing it again does not change.
_OF_TRAINING = ("env.json", "train_documents.npy", "log.txt", "metrics.jsonl")


@dataclasses.dataclass(frozen=True)
class _Model:
    """What goes into the new file."""

    recipe: Recipe
    tokenizer: Tokenizer
    weights: Weights
    primer: Sequence[Any]
    calibrated: Calibrated | None


def _new_run(path: Path, trained: RunFolder, model: _Model, ledger: Sequence[Mapping[str, Any]]) -> PackReport:
    """A run folder with the same training and another model.pyz; the checkpoint stays in the old one."""
    from paramgolf.cli.calibrate import keep
    from paramgolf.cli.life import log, pack_run, write_recipe
    from paramgolf.run_folder import RunFolder

    run = RunFolder.create(path)
    try:
        write_recipe(run, model.recipe)
        for name in _OF_TRAINING:
            if (trained.path / name).exists():
                shutil.copyfile(trained.path / name, run.path / name)
        run.write_json("ledger.json", list(ledger))
        log(run, f"squeezed again from the weights of {trained.final_path}")
        if model.calibrated is not None:
            keep(model.calibrated, model.weights, run)
        report = pack_run(model.recipe, model.tokenizer, model.weights, model.primer, run, model.calibrated)
        run.finish()
    except BaseException:
        run.discard()
        raise
    return report


def _ledger_of_training(trained: RunFolder, *, calibrated: bool) -> list[dict[str, Any]]:
    """The phases of the old run without its evaluation, which was of another model.pyz.

    Its calibration goes along if it `calibrated` the new file too: what was not used took none of its time.
    """
    from paramgolf.cli.calibrate import OFF_CLOCK, ON_CLOCK
    from paramgolf.clock import entries_of
    from paramgolf.referee.rules_ledger import evaluates

    unused = () if calibrated else (ON_CLOCK, OFF_CLOCK)
    entries = entries_of(trained.read_json("ledger.json"))
    return [dataclasses.asdict(entry) for entry in entries if not evaluates(entry) and entry.name not in unused]
