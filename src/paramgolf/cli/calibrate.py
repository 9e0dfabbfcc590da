"""Calibration of a run: what GPTQ must know of the matrices' inputs, in the time and from the text of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from paramgolf.errors import RecipeError, RunError
from paramgolf.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from paramgolf.cli.life import TrainingData, Weights
    from paramgolf.clock import Clock, Phase
    from paramgolf.model.gpt import GPT
    from paramgolf.ranks import Ranks
    from paramgolf.run_folder import RunFolder
    from paramgolf.squeeze.hessian import HessianRecord, Hessians
    from paramgolf.squeeze.sensitivity import Sensitivity
    from paramgolf.text.tokenizer import Tokenizer
    from paramgolf.train.calibration import Calibration, Source

RECORD = "calibration.json"
TEMPERATURE = 0.8  # of generated text, as in PR #1019
GRADIENT_COST = 8  # times a pass for moments, at most: a backward pass, and logits of the whole vocabulary
ON_CLOCK, OFF_CLOCK = "calibrate", "second moments of own text"
# Only what reads training data is training: text of the model's own making is drawn off the clock, as in PR #1019.


@dataclass(frozen=True)
class Calibrated:
    """The Hessians of a run's matrices, what calibration.json says of them, and sensitivities for steps to allocate."""

    hessians: Hessians
    record: Mapping[str, Any]
    sensitivities: Mapping[str, Sensitivity] | None = None


@dataclass(frozen=True)
class _Collected:
    """What a pass over a source found, and on how many sequences it took gradients."""

    moments: Calibration
    sensitivities: Mapping[str, Sensitivity] | None
    gradient_sequences: int


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
    moments = made.moments
    read = {"sequences": moments.sequences, "tokens": moments.tokens, "seconds": seconds, "seed": recipe.seed}
    if made.sensitivities is not None:
        read["gradient_sequences"] = made.gradient_sequences
    record = {"source": squeeze.calibration, **about, **read}
    return Calibrated(moments.hessians, record, made.sensitivities)


def _on_own_text(recipe: Recipe, tokenizer: Tokenizer, weights: Weights, ranks: Ranks) -> _Collected:
    from paramgolf.train.calibration import calibration_model
    from paramgolf.train.own_text import OwnText

    model = calibration_model(recipe, tokenizer.vocab_size, weights, tokenizer.boundary_id, ranks.device)
    source = OwnText(model, recipe.train.sequence, recipe.seed, TEMPERATURE, ranks.rank)
    return _collect(recipe, weights, model, source, ranks, None, tokenizer.boundary_id)


def _on_training_text(recipe: Recipe, weights: Weights, data: TrainingData, ranks: Ranks, phase: Phase) -> _Collected:
    from paramgolf.text.windows import TrainingWindows
    from paramgolf.train.calibration import calibration_model

    boundary = data.tokenizer.boundary_id
    model = calibration_model(recipe, data.tokenizer.vocab_size, weights, boundary, ranks.device)
    # Windows from everywhere in the text, whatever order training read it in.
    windows = TrainingWindows(data.shards, recipe.train.sequence, recipe.seed, ranks.rank, ranks.world)
    return _collect(recipe, weights, model, windows, ranks, phase, boundary)


def _collect(
    recipe: Recipe, weights: Weights, model: GPT, source: Source, ranks: Ranks, phase: Phase | None, boundary: int
) -> _Collected:
    """Second moments; where steps are allocated, gradients too, for which half of a phase's time is kept."""
    from paramgolf.train.calibration import collect_hessians
    from paramgolf.train.output_gradients import collect_sensitivities

    squeeze, free = recipe.squeeze, recipe.squeeze.allocation == "free"
    apart = boundary if recipe.train.packed else None
    share = 0.5 if free else 1.0
    names = _names(recipe, weights)
    moments = collect_hessians(model, names, source, squeeze.calibration_sequences, ranks, phase, apart, share)
    if not free:
        return _Collected(moments, None, 0)
    sequences = _gradient_sequences(moments, phase, ranks)
    found = collect_sensitivities(model, _free_names(recipe, weights), source, sequences, recipe.seed, ranks, apart)
    return _Collected(moments, found, sequences)


def _gradient_sequences(moments: Calibration, phase: Phase | None, ranks: Ranks) -> int:
    """A quarter of those that the moments took; under a limit no more than fit into half of the time left."""
    most = max(1, moments.sequences // 4)
    if phase is None or phase.limit is None:
        return most
    used = phase.seconds()
    each = max(used, 1e-9) / (moments.sequences / ranks.world) * GRADIENT_COST
    return min(most, max(1, int((phase.limit - used) / 2 / each)) * ranks.world)


def _names(recipe: Recipe, weights: Weights) -> list[str]:
    from paramgolf.squeeze.matrices import rounded_names

    return rounded_names(weights, recipe.squeeze)


def _free_names(recipe: Recipe, weights: Weights) -> list[str]:
    from paramgolf.squeeze.free_steps import free_names
    from paramgolf.squeeze.schemes import assign_schemes, default_schemes

    return free_names(assign_schemes(weights, default_schemes(recipe.squeeze)))


def keep(calibrated: Calibrated, weights: Weights, run: RunFolder) -> None:
    """Put the Hessians, sensitivities if there are any, and the record of them into a run folder."""
    from paramgolf.squeeze.hessian import HESSIANS, HessianRecord, save_hessians, weights_digest
    from paramgolf.squeeze.sensitivity_file import SENSITIVITIES, save_sensitivities

    record = HessianRecord(weights_digest(weights), int(calibrated.record["sequences"]))
    save_hessians(run.path / HESSIANS, calibrated.hessians, record)
    if calibrated.sensitivities is not None:
        save_sensitivities(run.path / SENSITIVITIES, calibrated.sensitivities, record)
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
    from paramgolf.squeeze.hessian import HESSIANS, load_hessians
    from paramgolf.squeeze.sensitivity_file import SENSITIVITIES, load_sensitivities

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
    _require_own(run.path / HESSIANS, about, weights)
    if not set(_names(recipe, weights)) <= set(hessians):
        return None
    if recipe.squeeze.allocation != "free":
        return Calibrated(hessians, record)
    if not (run.path / SENSITIVITIES).exists():
        return None
    sensitivities, about = load_sensitivities(run.path / SENSITIVITIES)
    _require_own(run.path / SENSITIVITIES, about, weights)
    return (
        Calibrated(hessians, record, sensitivities) if set(_free_names(recipe, weights)) <= set(sensitivities) else None
    )


def _require_own(path: Path, about: HessianRecord, weights: Weights) -> None:
    from paramgolf.squeeze.hessian import weights_digest

    mine = weights_digest(weights)
    if about.weights != mine:
        raise RunError(
            f"{path} belongs to weights {about.weights}, the run's are {mine}; move it away to calibrate again"
        )


def says_calibrated(calibrated: Calibrated) -> str:
    """One line: on what, how much, how long."""
    record = calibrated.record
    source = "text of the model's own making" if record["source"] == "generated" else "training text"
    return f"calibrated on {record['tokens']:,} tokens of {source} in {record['seconds']:.1f} s"
