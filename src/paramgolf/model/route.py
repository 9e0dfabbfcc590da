"""In which order a token passes the blocks: the one place that knows of loops, skips and lanes.

A *visit* is one run of a block. With looped layers the same block is visited several times; what joins two visits (a
U-Net skip) counts visits, not layers. Source: spec pr549.md 2.6, spec pr2140.md 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

from paramgolf.recipe import ModelRecipe


class Visit(NamedTuple):
    """One run of the block `layer`.

    `keeps`: a later visit joins its output. `joins`: the row of the skip weights with which the last kept stream that
    is left enters before this block, -1 for none. `parallel`: attention and MLP read a lane each.
    """

    layer: int
    keeps: bool
    joins: int
    parallel: bool


def route(recipe: ModelRecipe, *, looping: bool = True) -> tuple[Visit, ...]:
    """All visits in order; without `looping` each layer once, as training begins (`train.loop_from`).

    With `unet` the first half of the visits (rounded down) keep, the others join, last kept first, until none is left.
    """
    layers = _layers(recipe, looping=looping)
    kept = len(layers) // 2 if recipe.unet else 0
    first_parallel = recipe.layers - recipe.parallel_layers
    return tuple(
        Visit(layer, at < kept, at - kept if kept <= at < 2 * kept else -1, layer >= first_parallel)
        for at, layer in enumerate(layers)
    )


def _layers(recipe: ModelRecipe, *, looping: bool) -> list[int]:
    looped = list(recipe.looped_layers)
    if not (looped and looping):
        return list(range(recipe.layers))
    return [*range(looped[0]), *(looped * recipe.loops), *range(looped[-1] + 1, recipe.layers)]
