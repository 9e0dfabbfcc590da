"""What a step trains with: how far the clock is decides, and all ranks see one clock (rank 0's)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from paramgolf.recipe import OptimRecipe, Recipe, TrainRecipe


@dataclass(frozen=True)
class StepSettings:
    """Factor 0..1 on all learning rates, Muon's momentum, and what the loss consists of.

    `quantise_bits` are those that the matrices are rounded to (0: not), `crown` whether the penalty on rounding counts,
    `distils` whether the averaged weights teach (as soon as there is an average that can). `context` is the most tokens
    that see each other (0: a sequence), `looping` whether looped layers run more than once. `rewarm` is the share of
    `lr_scale` that counts: below one in the first steps of a new context.
    """

    lr_scale: float
    momentum: float
    quantise_bits: int = 0
    crown: bool = False
    distils: bool = False
    context: int = 0
    looping: bool = True
    rewarm: float = 1.0

    def rate(self) -> float:
        """The factor on all learning rates of this step."""
        return self.lr_scale * self.rewarm


class Stage(NamedTuple):
    """Which of the recipe's contexts a run has come to, and the first step (from 0) that was made with it."""

    number: int = 0
    since: int = 0


def settings_of(recipe: Recipe, step: int, seconds: float, stage: Stage | None = None) -> StepSettings:
    """Of the step after `step` done ones, begun when `seconds` of the training budget were used.

    `stage` is what `stage_at` gave for this step; without one, as if the clock's stage had begun long ago.
    """
    fraction = seconds / recipe.budget.train_seconds
    scale = lr_scale(recipe.optim, step, seconds, recipe.budget.train_seconds)
    index = context_index(recipe.train, fraction) if stage is None else stage.number
    settings = _settings_at(recipe, scale, muon_momentum(recipe.optim, step, fraction))
    settings = replace(settings, context=recipe.train.stages()[index], looping=loops(recipe, fraction))
    return settings if stage is None else replace(settings, rewarm=rewarm_scale(recipe.train, step, stage))


def stage_at(recipe: Recipe, step: int, seconds: float, before: Stage) -> Stage:
    """The stage of the step after `step` done ones, where that of the step before was `before`."""
    index = context_index(recipe.train, seconds / recipe.budget.train_seconds)
    return Stage(index, step) if index > before.number else before


def context_index(recipe: TrainRecipe, fraction: float) -> int:
    """Which of the contexts is the one when `fraction` of the time budget is used: the first that has not ended.

    A stage ends after its share of the clock: at the very share it still holds (spec pr2140.md 3.2).
    """
    return sum(fraction > until for until in recipe.contexts_until)


def rewarm_scale(recipe: TrainRecipe, step: int, stage: Stage) -> float:
    """k / n for the k-th step with a new context, up to one; the first context needs none (spec pr2140.md 3.2)."""
    if not (stage.number and recipe.rewarm_steps):
        return 1.0
    return min(1.0, (step - stage.since + 1) / recipe.rewarm_steps)


def loops(recipe: Recipe, fraction: float) -> bool:
    """Whether looped layers run more than once; always so in a model without any, whose form never changes."""
    return not recipe.model.looped_layers or fraction >= recipe.train.loop_from


def lr_scale(recipe: OptimRecipe, step: int, seconds: float, limit: float) -> float:
    """The warm-down that the recipe chose, a share of the clock or the published number of steps, and its floor."""
    if recipe.warmdown_steps:
        scale = warmdown_scale_by_steps(step, seconds, limit, recipe.warmdown_steps)
    else:
        scale = warmdown_scale(seconds / limit, recipe.warmdown)
    return max(scale, recipe.least_lr)


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

    Forms change where the rate's scale falls below a threshold, and where the clock changes context or looping; all
    pairs of the two are listed. One that distils is preceded by the same without: it serves as long as the average is
    too young to teach.
    """
    momentum = muon_momentum(recipe.optim, 0, 0.0)
    thresholds = {1.0, recipe.optim.qat_below, recipe.train.crown_below, recipe.train.distill_below} - {0.0}
    reached = sorted((each for each in thresholds if each > recipe.optim.least_lr), reverse=True)
    found: dict[StepSettings, None] = {}
    for context, looping in _clock_forms(recipe):
        for scale in (1.0, *(math.nextafter(threshold, 0.0) for threshold in reached)):
            stage = replace(_settings_at(recipe, scale, momentum), lr_scale=1.0, context=context, looping=looping)
            found |= {replace(stage, distils=False): None, stage: None}
    return tuple(found)


def _clock_forms(recipe: Recipe) -> dict[tuple[int, bool], None]:
    """Each pair of context and looping that the clock comes to, in its order."""
    ends = [math.nextafter(until, 1.0) for until in recipe.train.contexts_until]
    contexts, fractions = recipe.train.stages(), sorted({0.0, *ends, recipe.train.loop_from})
    return {(contexts[context_index(recipe.train, at)], loops(recipe, at)): None for at in fractions}


def _settings_at(recipe: Recipe, scale: float, momentum: float) -> StepSettings:
    """What depends on the scale of the rates."""
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
