"""The matrices of a model rounded by GPTQ, again and again with other steps: what can be kept is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from paramgolf.errors import RecipeError
from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.gptq import Factor, factorise
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at, gptq_at_steps, nearest_at_steps
from paramgolf.squeeze.hessian import Hessians, require_columns
from paramgolf.squeeze.percentile import PercentileSteps
from paramgolf.squeeze.quantize import Scheme, Steps, find_steps, quantize_at
from paramgolf.squeeze.quantized import Float32, Float64, Quantized
from paramgolf.squeeze.wide_groups import Groups, choose_groups, group_scores, input_rms

T = TypeVar("T")
_MOST_THREADS = 8


class MatrixRounder:
    """GPTQ of named matrices. A matrix whose Hessian no damping mends is rounded to nearest and listed in `unmended`.

    `visits` says how often the block of a name is run, where that is more than once. With `recipe.wide_groups` the best
    groups of columns keep more bits (`groups`, by name); none are taken from what is unmended. Raises `RecipeError`
    where a matrix has no Hessian, or one that is none of its columns.
    """

    def __init__(
        self,
        weights: Mapping[str, Float32],
        hessians: Hessians,
        recipe: SqueezeRecipe,
        visits: Mapping[str, int] | None = None,
    ) -> None:
        missing = [name for name in weights if name not in hessians]
        if missing:
            raise RecipeError(f"no Hessian for {', '.join(missing[:4])}; calibrate this very model")
        for name, weight in weights.items():
            require_columns(hessians[name], weight.shape[-1], name)
        self._weights = weights
        # Matrices that share a Hessian share its factor.
        owners = {id(hessians[name]): name for name in [*weights][::-1]}

        def factor_of(key: int) -> Factor | None:
            name = owners[key]
            return factorise(hessians[name], recipe.damping, recipe.column_order, name)

        made = _in_threads(factor_of, owners)
        self.factors: dict[str, Factor | None] = {name: made[id(hessians[name])] for name in weights}
        self.unmended = tuple(name for name, factor in self.factors.items() if factor is None)
        self.groups = self._choose(hessians, recipe, visits or {})
        self._steps: dict[tuple[str, int], Steps] = {}

    def _choose(self, hessians: Hessians, recipe: SqueezeRecipe, visits: Mapping[str, int]) -> dict[str, Groups]:
        if not recipe.wide_groups:
            return {}
        size = recipe.wide_columns
        mended = [name for name, factor in self.factors.items() if factor is not None]
        rms = {name: input_rms(hessians[name], visits.get(name, 1)) for name in mended}
        scores = {name: group_scores(self._weights[name], rms[name], size) for name in mended}
        return choose_groups(scores, recipe.wide_groups, size)

    def steps(self, schemes: Mapping[str, Scheme]) -> dict[str, Steps]:
        """The steps of each matrix before its scheme's coarseness."""
        keys = {name: (name, schemes[name].bits) for name in self._weights}
        new = [name for name, key in keys.items() if key not in self._steps]
        found = _in_threads(lambda name: self._find(name, schemes[name]), new)
        self._steps |= {keys[name]: steps for name, steps in found.items()}
        return {name: self._steps[key] for name, key in keys.items()}

    def quantise(self, schemes: Mapping[str, Scheme]) -> dict[str, Quantized]:
        """All matrices, each as its scheme says."""
        steps = self.steps(schemes)
        return _in_threads(lambda name: self._round(name, steps[name], schemes[name]), steps)

    def quantise_at_steps(self, steps: Mapping[str, Float64], schemes: Mapping[str, Scheme]) -> dict[str, Quantized]:
        """All matrices with the given steps [R], as `gptq_at_steps` rounds; what is unmended to nearest."""

        def round_at(name: str) -> Quantized:
            weight, factor = self._weights[name], self.factors[name]
            if factor is None:
                return nearest_at_steps(weight, steps[name])
            return gptq_at_steps(weight, steps[name], factor, schemes[name], self.groups.get(name))

        return _in_threads(round_at, self._weights)

    def _find(self, name: str, scheme: Scheme) -> Steps:
        weight, factor = self._weights[name], self.factors[name]
        return find_steps(weight, scheme) if factor is None else find_gptq_steps(weight, factor, scheme)

    def _round(self, name: str, steps: Steps, scheme: Scheme) -> Quantized:
        weight, factor = self._weights[name], self.factors[name]
        if factor is None or isinstance(steps, PercentileSteps):
            return quantize_at(weight, steps, scheme)
        return gptq_at(weight, steps, factor, scheme, self.groups.get(name))


K = TypeVar("K", str, int)


def _in_threads(work: Callable[[K], T], keys: Iterable[K]) -> dict[K, T]:
    """The results by key: NumPy lets go of the interpreter in its products, so matrices go side by side."""
    keys = list(keys)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(keys, pool.map(work, keys), strict=True))
