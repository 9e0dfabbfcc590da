"""The matrices of a model rounded by GPTQ, again and again with other steps: what can be kept is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from paramgolf.errors import RecipeError
from paramgolf.recipe import SqueezeRecipe
from paramgolf.squeeze.gptq import Factor, factorise
from paramgolf.squeeze.gptq_steps import find_gptq_steps, gptq_at
from paramgolf.squeeze.hessian import Hessians, require_columns
from paramgolf.squeeze.quantize import Scheme, find_steps, quantize_at
from paramgolf.squeeze.quantized import Float32, Quantized

T = TypeVar("T")
_Rounding = Callable[[Scheme], Quantized]
_MOST_THREADS = 8


class MatrixRounder:
    """GPTQ of named matrices. A matrix whose Hessian no damping mends is rounded to nearest and listed in `unmended`.

    Raises `RecipeError` where a matrix has no Hessian, or one that is none of its columns.
    """

    def __init__(self, weights: Mapping[str, Float32], hessians: Hessians, recipe: SqueezeRecipe) -> None:
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
        self._factors: dict[str, Factor | None] = {name: made[id(hessians[name])] for name in weights}
        self.unmended = tuple(name for name, factor in self._factors.items() if factor is None)
        self._roundings: dict[int, dict[str, _Rounding]] = {}

    def quantise(self, schemes: Mapping[str, Scheme]) -> dict[str, Quantized]:
        """All matrices; their schemes have one number of bits."""
        names = list(self._weights)
        (bits,) = {schemes[name].bits for name in names}
        if bits not in self._roundings:
            self._roundings[bits] = _in_threads(lambda name: self._prepare(name, schemes[name]), names)
        roundings = self._roundings[bits]
        return _in_threads(lambda name: roundings[name](schemes[name]), names)

    def _prepare(self, name: str, scheme: Scheme) -> _Rounding:
        """Find the steps of one matrix; what is left to do for a scheme that differs in coarseness."""
        weight, factor = self._weights[name], self._factors[name]
        if factor is None:
            steps = find_steps(weight, scheme)
            return lambda coarser: quantize_at(weight, steps, coarser)
        steps_R = find_gptq_steps(weight, factor, scheme)
        return lambda coarser: gptq_at(weight, steps_R, factor, coarser)


K = TypeVar("K", str, int)


def _in_threads(work: Callable[[K], T], keys: Iterable[K]) -> dict[K, T]:
    """The results by key: NumPy lets go of the interpreter in its products, so matrices go side by side."""
    keys = list(keys)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(keys, pool.map(work, keys), strict=True))
