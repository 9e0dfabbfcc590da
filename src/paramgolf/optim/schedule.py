"""What a step trains with: how far the clock is decides, and all ranks see one clock (rank 0's)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paramgolf.recipe import OptimRecipe, Recipe


@dataclass(frozen=True)
class StepSettings:
    """Factor 0..1 on all learning rates, Muon's momentum, and what the loss consists of.

    `quantise_bits` are those that the matrices are rounded to (0: not), `crown` whether the penalty on rounding counts,
    `distils` whether the averaged weights teach (as soon as there is an average that can).
    """

    lr_scale: float
    momentum: float
    quantise_bits: int = 0
    crown: bool = False
    distils: bool = False


def settings_of(recipe: Recipe, step: int, seconds: float) -> StepSettings:
    """Of the step after `step` done ones, begun when `seconds` of the training budget were used."""
    limit = recipe.budget.train_seconds
    scale = lr_scale(recipe.optim, step, seconds, limit)
    return _settings_at(recipe, scale, muon_momentum(recipe.optim, step, seconds / limit))


def lr_scale(recipe: OptimRecipe, step: int, seconds: float, limit: float) -> float:
    """The warm-down that the recipe chose: a share of the clock, or the published number of steps."""
    if recipe.warmdown_steps:
        return warmdown_scale_by_steps(step, seconds, limit, recipe.warmdown_steps)
    return warmdown_scale(seconds / limit, recipe.warmdown)


def warmdown_scale(fraction: float, warmdown: float) -> float:
    """Factor 0..1 on all learning rates when `fraction` of the time budget is used.

    One until the last `warmdown` share of the budget, then a straight line to zero at its end. It depends on the clock
    alone, so a slow machine cools down as fully as a fast one.
    """
    left = 1.0 - min(1.0, max(0.0, fraction))
    return 1.0 if left >= warmdown else left / warmdown


def warmdown_scale_by_steps(step: int, seconds: float, limit: float, warmdown_steps: int) -> float:
    """The published rule: one until the time left is that of `warmdown_steps` average steps, then a line to zero.

    With steps of one length it is `warmdown_scale` with the share `warmdown_steps * seconds of a step / limit`. Source:
    spec pr549.md 3.8.
    """
    left = max(0.0, limit - seconds)
    needed = warmdown_steps * seconds / max(1, step)
    return left / max(needed, 1e-12) if left <= needed else 1.0


def muon_momentum(recipe: OptimRecipe, step: int, fraction: float) -> float:
    """Muon's momentum: a straight line from its start to its final value over the warm-up, if there is one.

    The warm-up is a share of the clock, or a number of steps as published (spec pr549.md 3.3).
    """
    if recipe.momentum_warmup_steps:
        share = min(1.0, step / recipe.momentum_warmup_steps)
    elif recipe.momentum_warmup:
        share = min(1.0, max(0.0, fraction) / recipe.momentum_warmup)
    else:
        share = 1.0
    return recipe.muon_momentum_start + share * (recipe.muon_momentum - recipe.muon_momentum_start)


def quantise_bits(recipe: Recipe, scale: float) -> int:
    """Bits that the blocks' matrices are rounded to while they are used, 0 until `scale` is below `qat_below`.

    Late quantisation-aware training: the last steps see the matrices as the artifact will hold them. The published one
    was inert (spec pr549.md 3.11, 7-A1): its flag was read once, when the model was compiled, and it reached only two
    small projections that are stored unrounded. Here the banks themselves are rounded, in a graph of their own that
    warm-up compiles off the clock.
    """
    return recipe.squeeze.matrix_bits if scale < recipe.optim.qat_below else 0


def stages(recipe: Recipe) -> tuple[StepSettings, ...]:
    """One setting for each form of the loss that a run can come to use, the first form first; rates as at the start.

    Forms change where the rate's scale falls below a threshold. One that distils is preceded by the same without: it
    serves as long as the average is too young to teach.
    """
    momentum = muon_momentum(recipe.optim, 0, 0.0)
    thresholds = {1.0, recipe.optim.qat_below, recipe.train.crown_below, recipe.train.distill_below} - {0.0}
    found: dict[StepSettings, None] = {}
    for scale in (1.0, *(math.nextafter(threshold, 0.0) for threshold in sorted(thresholds, reverse=True))):
        stage = replace(_settings_at(recipe, scale, momentum), lr_scale=1.0)
        found |= {replace(stage, distils=False): None, stage: None}
    return tuple(found)


def _settings_at(recipe: Recipe, scale: float, momentum: float) -> StepSettings:
    train = recipe.train
    return StepSettings(
        scale,
        momentum,
        quantise_bits(recipe, scale),
        crown=train.crown_weight > 0 and scale < train.crown_below,
        distils=train.distill_weight > 0 and scale < train.distill_below,
    )


def takes_snapshot(recipe: OptimRecipe, steps_done: int, scale: float) -> bool:
    """Whether the weights after `steps_done` steps, the last one taken at `scale`, enter the average.

    Every step for "ema"; for "swa" every `swa_every` steps once the scale is below `swa_below` (spec pr549.md 3.10 k,
    where the snapshots were made and then forgotten).
    """
    if recipe.average == "ema":
        return True
    return scale < recipe.swa_below and steps_done % recipe.swa_every == 0
