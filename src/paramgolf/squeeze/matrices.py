"""Which tensors are matrices of attention and MLP, whose ±1 may be pruned, and which ones GPTQ rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from paramgolf.model.arithmetic import MATRICES
from paramgolf.model.route import route
from paramgolf.recipe import ModelRecipe, SqueezeRecipe

HEAD = "embedding.weight"  # tied: looked up, and multiplied with the states after the last norm


def matrix_names(names: Iterable[str]) -> list[str]:
    """Of all tensors' names, those of the matrices of attention and MLP, in their order."""
    return [name for name in names if name.startswith("blocks.") and name.removesuffix(".weight").endswith(MATRICES)]


def rounded_names(names: Iterable[str], recipe: SqueezeRecipe) -> list[str]:
    """Of all tensors' names, those that GPTQ rounds and that need a Hessian, in their order.

    The matrices; with clip "sigma" the tied embedding too, by its use as the head (spec pr2140.md 4.1). #1430 leaves it
    to plain rounding.
    """
    names = list(names)
    rounded = {*matrix_names(names), *([HEAD] if recipe.clip == "sigma" else [])}
    return [name for name in names if name in rounded]


def visits_of(names: Iterable[str], recipe: ModelRecipe) -> dict[str, int]:
    """How often a token passes each matrix: as often as its block runs; the head once."""
    runs = Counter(visit.layer for visit in route(recipe))
    return {name: runs[int(name.split(".")[1])] if name.startswith("blocks.") else 1 for name in names}
