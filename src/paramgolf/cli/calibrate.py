"""Calibration of a run: what GPTQ must know of the matrices' inputs, in the time and from the text of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from paramgolf.errors import RecipeError, RunError
from paramgolf.recipe import Recipe

if TYPE_CHECKING:
    from paramgolf.cli.life import TrainingData, Weights
    from paramgolf.clock import Clock, Phase
    from paramgolf.ranks import Ranks
    from paramgolf.run_folder import RunFolder
    from paramgolf.squeeze.hessian import Hessians
    from paramgolf.text.tokenizer import Tokenizer
    from paramgolf.train.calibration import Calibration

RECORD = "calibration.json"
TEMPERATURE = 0.8  # of generated text, as in PR #1019
ON_CLOCK, OFF_CLOCK = "calibrate", "second moments of own text"
# Only what reads training data is training: text of the model's own making is drawn off the clock, as in PR #1019.


@dataclass(frozen=True)
class Calibrated:
    """The Hessians of a run's matrices, and what calibration.json says of them."""

    hessians: Hessians
    record: Mapping[str, Any]


def training_part(recipe: Recipe) -> Recipe:
    """The recipe with the seconds of training that calibration on the training text leaves.

    Raises `RecipeError` if it leaves none.
    """
    squeeze, seconds = recipe.squeeze, recipe.budget.train_seconds
    if squeeze.quantiser != "gptq" or squeeze.calibration != "train":
        return recipe
    if squeeze.calibration_seconds >= seconds:
        raise RecipeError(
            f"squeeze.calibration_seconds={squeeze.calibration_seconds:g} leave nothing of "
            f"budget.train_seconds={seconds:g} to train in; give fewer, or use --squeeze.calibration generated"
        )
    return replace(recipe, budget=replace(recipe.budget, train_seconds=seconds - squeeze.calibration_seconds))


def calibrate(
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: Weights,
    data: TrainingData | None,
    clock: Clock,
    ranks: Ranks,
) -> Calibrated | None:
    """The Hessians that the recipe's quantiser needs, None if it needs none; every rank calls it.

    `data` is the training data, which text of the model's own making does without.
    """
    squeeze = recipe.squeeze
    if squeeze.quantiser != "gptq":
        return None
    about: dict[str, Any]
    if squeeze.calibration == "generated":
        with clock.phase(OFF_CLOCK, on_clock=False) as phase:
            made = _on_own_text(recipe, tokenizer, weights, ranks)
            seconds = phase.seconds()
        about = {"text": None, "temperature": TEMPERATURE}
    elif data is None:
        raise RunError(
            "calibration on training text needs the run's training data; give --data DIR, or use "
            "--squeeze.calibration generated"
        )
    else:
        with clock.phase(ON_CLOCK, on_clock=True, limit=squeeze.calibration_seconds) as phase:
            made = _on_training_text(recipe, weights, data, ranks, phase)
            seconds = phase.seconds()
        about = {"text": {name: data.text.get(name) for name in ("name", "digest", "documents")}}
    read = {"sequences": made.sequences, "tokens": made.tokens, "seconds": seconds, "seed": recipe.seed}
    return Calibrated(made.hessians, {"source": squeeze.calibration, **about, **read})


def _on_own_text(recipe: Recipe, tokenizer: Tokenizer, weights: Weights, ranks: Ranks) -> Calibration:
    from paramgolf.train.calibration import calibration_model, collect_hessians
    from paramgolf.train.own_text import OwnText

    model = calibration_model(recipe, tokenizer.vocab_size, weights, tokenizer.boundary_id, ranks.device)
    source = OwnText(model, recipe.train.sequence, recipe.seed, TEMPERATURE, ranks.rank)
    names, sequences = _names(recipe, weights), recipe.squeeze.calibration_sequences
    apart = tokenizer.boundary_id if recipe.train.packed else None
    return collect_hessians(model, names, source, sequences, ranks, separate_at=apart)


def _on_training_text(recipe: Recipe, weights: Weights, data: TrainingData, ranks: Ranks, phase: Phase) -> Calibration:
    from paramgolf.text.windows import TrainingWindows
    from paramgolf.train.calibration import calibration_model, collect_hessians

    model = calibration_model(recipe, data.tokenizer.vocab_size, weights, data.tokenizer.boundary_id, ranks.device)
    # Windows from everywhere in the text, whatever order training read it in.
    windows = TrainingWindows(data.shards, recipe.train.sequence, recipe.seed, ranks.rank, ranks.world)
    names, sequences = _names(recipe, weights), recipe.squeeze.calibration_sequences
    apart = data.tokenizer.boundary_id if recipe.train.packed else None
    return collect_hessians(model, names, windows, sequences, ranks, phase, apart)


def _names(recipe: Recipe, weights: Weights) -> list[str]:
    from paramgolf.squeeze.matrices import rounded_names

    return rounded_names(weights, recipe.squeeze)


def keep(calibrated: Calibrated, weights: Weights, run: RunFolder) -> None:
    """Put the Hessians and the record of them into a run folder."""
    from paramgolf.squeeze.hessian import HESSIANS, HessianRecord, save_hessians, weights_digest

    record = HessianRecord(weights_digest(weights), int(calibrated.record["sequences"]))
    save_hessians(run.path / HESSIANS, calibrated.hessians, record)
    run.write_json(RECORD, dict(calibrated.record))


def kept_before_resume(recipe: Recipe, weights: Weights, run: RunFolder, clock: Clock) -> Calibrated | None:
    """What an earlier attempt to pack this very run kept, its phase put into the clock's ledger; else None.

    One rank calls it. Whatever is missing or damaged means that the run is calibrated again.
    """
    from paramgolf.clock import entries_of

    if recipe.squeeze.quantiser != "gptq":
        return None
    try:
        found = kept(recipe, weights, run)
        if found is None:
            return None
        before = [entry for entry in entries_of(run.read_json("ledger.json")) if entry.name in (ON_CLOCK, OFF_CLOCK)]
    except RunError:
        return None
    clock.ledger.extend(before)
    return found if before else None


def kept(recipe: Recipe, weights: Weights, run: RunFolder) -> Calibrated | None:
    """What a run was calibrated with, None if it never was, on another kind of text than the recipe says, or not of all
    that the recipe has rounded.

    Raises `RunError` if a file is damaged, or the Hessians are those of other weights.
    """
    from paramgolf.squeeze.hessian import HESSIANS, load_hessians, weights_digest

    if not (run.path / HESSIANS).exists():
        return None
    record = run.read_json(RECORD)
    if not isinstance(record, dict):
        raise RunError(f"{run.path / RECORD} should hold an object, found {type(record).__name__}")
    if record.get("source") != recipe.squeeze.calibration:
        return None
    counted = [record.get(name) for name in ("sequences", "tokens", "seconds")]
    if not all(isinstance(number, int | float) for number in counted):
        raise RunError(f"{run.path / RECORD} lacks sequences, tokens or seconds; move it away to calibrate again")
    hessians, about = load_hessians(run.path / HESSIANS)
    mine = weights_digest(weights)
    if about.weights != mine:
        raise RunError(
            f"{run.path / HESSIANS} belongs to weights {about.weights}, the run's are {mine}; move it away to "
            "calibrate again"
        )
    if not set(_names(recipe, weights)) <= set(hessians):
        return None
    return Calibrated(hessians, record)


def says_calibrated(calibrated: Calibrated) -> str:
    """One line: on what, how much, how long."""
    record = calibrated.record
    source = "text of the model's own making" if record["source"] == "generated" else "training text"
    return f"calibrated on {record['tokens']:,} tokens of {source} in {record['seconds']:.1f} s"
