"""Train a recipe on a folder of shards, squeeze it and pack it into RUN/model.pyz.

Every setting of the recipe has a flag. Stop it with Ctrl-C (or kill it): `train --resume RUN` goes on where it was, to
the same result. Runs on several GPUs or processes under `torchrun --nproc_per_node N -m paramgolf train ...`.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.cli.arguments import UsageError, seconds
from paramgolf.cli.output import Output
from paramgolf.cli.overrides import add_recipe_flags, given_flags, limited, override, word_of
from paramgolf.recipe import Recipe

if TYPE_CHECKING:
    from paramgolf.cli.life import TrainingData
    from paramgolf.ranks import Ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe with its settings, the data, the run; or a run to go on with."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name that `paramgolf recipes` lists")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of shards from `paramgolf data prepare`")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the new run folder (default runs/RECIPE-FINGERPRINT)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped")
    parser.add_argument("--seconds", type=seconds, metavar="N", help="same as --budget.train_seconds N")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights and batches")
    add_recipe_flags(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    """Begin or resume, then train, squeeze, pack."""
    from paramgolf.ranks import open_ranks

    if (options.recipe is None) == (options.resume is None):
        raise UsageError("give either a RECIPE or --resume RUN")
    with open_ranks() as ranks:
        final = _begin(options, ranks) if options.resume is None else _resume(options, ranks)
    if final is not None:
        _show(final, output)
    return 0


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The named recipe with all overrides."""
    from paramgolf.recipes import get_recipe

    return limited(override(get_recipe(options.recipe), options), options.seconds, options.seed)


def _begin(options: argparse.Namespace, ranks: Ranks) -> Path | None:
    from paramgolf.cli.adapt_names import require_adaptation
    from paramgolf.cli.life import require_matrices, require_tokenizer, train_new_run
    from paramgolf.train.batches import sequences_of_rank

    if options.data is None:
        raise UsageError("--data DIR is needed: a folder that `paramgolf data prepare` wrote")
    recipe = recipe_of(options)
    require_adaptation(recipe.score.adapt)
    require_matrices(recipe)
    out = options.out or Path("runs") / f"{recipe.name}-{recipe.fingerprint()}"
    data = _data(options.data)
    require_tokenizer(recipe, data.tokenizer, str(options.data))
    sequences_of_rank(recipe.train, ranks.world)  # a batch that cannot be cut is refused before the run begins
    command = shlex.join(["paramgolf", "train", *_words(options, out)])
    says = f"recipe {recipe.name} {recipe.fingerprint()} on {options.data}{_kept(recipe)}"
    return train_new_run(recipe, data, out, ranks, command, says)


def _kept(recipe: Recipe) -> str:
    """Says which part of the training seconds the progress display does not count, if there is one."""
    from paramgolf.cli.calibrate import training_part

    kept = recipe.budget.train_seconds - training_part(recipe).budget.train_seconds
    return f", {kept:g} of {recipe.budget.train_seconds:g} s are kept for calibration" if kept else ""


def _resume(options: argparse.Namespace, ranks: Ranks) -> Path | None:
    from paramgolf.cli.life import log, require_tokenizer, train_and_pack
    from paramgolf.errors import RunError
    from paramgolf.run_folder import RunFolder

    given = [f"--{name}" for name in ("seconds", "seed", "out") if getattr(options, name) is not None]
    for flag in given + given_flags(options):
        raise UsageError(f"{flag} cannot change a run that has begun; --resume takes --data at most")
    folder = RunFolder.resume(options.resume)
    if folder.finished:
        final = folder.final_path
        raise RunError(f"{final} is finished; score it with: paramgolf score {final}/model.pyz TEXT --out {final}")
    recipe = Recipe.from_json(folder.read_text("recipe.json"))
    environment = folder.read_json("env.json")
    recorded = environment.get("data") if isinstance(environment, dict) else None
    source = options.data or (Path(recorded) if isinstance(recorded, str) else None)
    if source is None:
        raise UsageError(f"{folder.path / 'env.json'} does not say which data; give --data DIR")
    data = _data(source)
    require_tokenizer(recipe, data.tokenizer, str(source))
    if ranks.leads:
        log(folder, f"resumed on {source}")
    return train_and_pack(recipe, data, folder, ranks)


def _data(source: Path) -> TrainingData:
    from paramgolf.cli.life import data_of_folder
    from paramgolf.text.shard_folder import ShardFolder

    return data_of_folder(ShardFolder.open(source), source)


def _words(options: argparse.Namespace, out: Path) -> list[str]:
    """The command's words again, so that a report can say how to repeat the run."""
    words = [options.recipe, "--data", str(options.data), "--out", str(out)]
    for name in ("seconds", "seed"):
        words += [f"--{name}", f"{getattr(options, name):g}"] if getattr(options, name) is not None else []
    for flag in given_flags(options):
        words += [flag, word_of(getattr(options, flag.removeprefix("--")))]
    return words


def _show(final: Path, output: Output) -> None:
    artifact = final / "model.pyz"
    size = artifact.stat().st_size
    output.say(f"{artifact}: {size:,} bytes")
    output.next("paramgolf", "score", artifact, "TEXT", "--out", final)
    output.result({"run": final, "artifact": artifact, "artifact_bytes": size})
