"""Complete runs by name: one module a recipe, each a function that returns a frozen `Recipe`."""

from __future__ import annotations

import difflib

from paramgolf.errors import RecipeError
from paramgolf.recipe import Recipe
from paramgolf.recipes.baseline import baseline
from paramgolf.recipes.pr549 import pr549, pr549_1gpu, pr549_tiny
from paramgolf.recipes.pr1185 import pr1185, pr1185_1gpu, pr1185_tiny
from paramgolf.recipes.pr1430 import pr1430, pr1430_1gpu, pr1430_tiny
from paramgolf.recipes.pr2140 import pr2140, pr2140_1gpu, pr2140_tiny
from paramgolf.recipes.quickstart import quickstart

__all__ = ["RECIPE_NAMES", "get_recipe"]

_BUILDERS = {
    "baseline": baseline,
    "pr1185": pr1185,
    "pr1185_1gpu": pr1185_1gpu,
    "pr1185_tiny": pr1185_tiny,
    "pr1430": pr1430,
    "pr1430_1gpu": pr1430_1gpu,
    "pr1430_tiny": pr1430_tiny,
    "pr549": pr549,
    "pr549_1gpu": pr549_1gpu,
    "pr549_tiny": pr549_tiny,
    "pr2140": pr2140,
    "pr2140_1gpu": pr2140_1gpu,
    "pr2140_tiny": pr2140_tiny,
    "quickstart": quickstart,
}
RECIPE_NAMES = tuple(sorted(_BUILDERS))


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises `RecipeError` that suggests the nearest name and lists all."""
    builder = _BUILDERS.get(name)
    if builder is None:
        near = difflib.get_close_matches(name, RECIPE_NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"no recipe {name!r}; {hint}recipes: {', '.join(RECIPE_NAMES)}")
    return builder()
