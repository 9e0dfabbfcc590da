"""A model whose tensors' steps are allocated together: which ones, from which steps on, at which price of an error.

The number that a fit changes is one coarseness; each row of each tensor follows from it (allocation.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.squeeze.allocation import COARSEST, FINEST, Allocation, allocate
from paramgolf.squeeze.gptq_steps import WIDEST, nearest_at_steps
from paramgolf.squeeze.landing import Range
from paramgolf.squeeze.matrix_rounder import MatrixRounder
from paramgolf.squeeze.percentile import PercentileSteps
from paramgolf.squeeze.quantize import Scheme, Steps, find_steps
from paramgolf.squeeze.quantized import Float32, Float64, Quantized
from paramgolf.squeeze.sensitivity import Sensitivity

LARGEST = (1 << (WIDEST - 1)) - 1


class FreeSteps:
    """Quantised tensors as a function of a coarseness, 1 being the bytes of the `schemes`' own steps.

    Every tensor of integers has a part in it but gates, which keep their scheme. `sequence` is the tokens of a sequence
    of the calibration. Raises `RecipeError` where a tensor has no sensitivity, or one of another number of rows.
    """

    def __init__(
        self,
        weights: Mapping[str, Float32],
        schemes: Mapping[str, Scheme],
        rounder: MatrixRounder,
        sensitivities: Mapping[str, Sensitivity],
        sequence: int,
    ) -> None:
        self._weights, self._schemes, self._rounder = weights, schemes, rounder
        names = free_names(schemes)
        for name in names:
            if name not in sensitivities or len(sensitivities[name].outputs_R) != len(weights[name]):
                raise RecipeError(f"no sensitivity for the rows of {name}; calibrate this very model")
        found: dict[str, Steps] = {
            name: find_steps(weights[name], schemes[name]) for name in names if name not in rounder.factors
        }
        steps = {name: _sizes(found) for name, found in (found | rounder.steps(schemes)).items()}
        powers = {name: sensitivities[name].power(rounder.factors.get(name), sequence) for name in names}
        self.allocation: Allocation = allocate(weights, steps, powers, dict.fromkeys(names, LARGEST))

    def range(self) -> Range:
        """The coarseness that a fit may choose, and the bytes that it is expected to take."""
        return Range(self.allocation.predicted_bytes, FINEST, COARSEST)

    def quantise(self, coarseness: float) -> dict[str, Quantized]:
        """All tensors that have a part in the allocation."""
        steps = self.allocation.steps(coarseness)
        rounded = self._rounder.quantise_at_steps(steps, self._schemes)
        nearest = {
            name: nearest_at_steps(self._weights[name], steps_R)
            for name, steps_R in steps.items()
            if name not in rounded
        }
        return rounded | nearest


def free_names(schemes: Mapping[str, Scheme]) -> list[str]:
    """Of tensors with their schemes, those whose steps can be allocated: integers, but for gates."""
    return [name for name, scheme in schemes.items() if not scheme.raw() and scheme.clip != "largest"]


def _sizes(steps: Steps) -> Float64:
    return steps.steps.astype(np.float64) if isinstance(steps, PercentileSteps) else steps
