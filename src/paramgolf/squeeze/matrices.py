"""Which tensors are the matrices of attention and MLP: those that GPTQ rounds, and whose ±1 may be pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paramgolf.model.arithmetic import TABLES
from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.quantize import Scheme
from paramgolf.squeeze.schemes import assign_schemes, default_schemes


def matrix_names(names: Iterable[str], recipe: SqueezeRecipe) -> list[str]:
    """Of all tensors' names, those of the matrices, in their order."""
    return matrices_of(assign_schemes(names, default_schemes(recipe)))


def matrices_of(schemes: Mapping[str, Scheme]) -> list[str]:
    """Of tensors with their schemes, those that are stored as integers and are no tables, which are looked up."""
    return [name for name, scheme in schemes.items() if not scheme.raw() and name not in TABLES]
