"""What errors of a weight cost in nats a token: the inputs' side and the gradients' side of the loss's curvature.

A row that is off by `e` moves its output by `e x`. To second order the divergence of the changed model from itself is
`1/2 E[g²] e E[x xᵀ] eᵀ` a token, `g` the gradient of the loss at that output with targets drawn from the model itself
(the diagonal of K-FAC: Martens and Grosse 2015). GPTQ knows `E[x xᵀ]` alone, which compares errors within a matrix;
`E[g²]` makes matrices, and rows of one, comparable. Legend: R rows, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.squeeze.gptq import Factor
from paramgolf.squeeze.quantized import Float64

LEAST_SHARE = 0.003  # of the mean power: rows that were hardly seen are not taken to be free


@dataclass(frozen=True)
class Sensitivity:
    """Of one tensor's rows, float64 [R]: `outputs_R` the mean square of the gradient at each output of the product,
    `lookups_R` that of the gradient at each number looked up, summed over its looks and divided by the tokens read.

    Either is noughts where the tensor is not used in that way.
    """

    outputs_R: Float64
    lookups_R: Float64

    def power(self, inputs: Factor | npt.NDArray[np.floating] | None, sequence: int) -> Float64:
        """Expected divergence in nats a token for a unit of squared error in one weight of each row [R].

        `inputs` are the second moments [C, C] summed over a `sequence` of so many tokens, or their factor if GPTQ
        rounds with it; None for tables that are only looked up. No row counts for less than `LEAST_SHARE` of the mean.
        """
        moment = 0.0 if inputs is None else rounding_power(inputs) / sequence
        power_R: Float64 = (self.outputs_R * moment + self.lookups_R) / 2
        return np.asarray(np.maximum(power_R, LEAST_SHARE * power_R.mean()))


def rounding_power(inputs: Factor | npt.NDArray[np.floating]) -> float:
    """What a unit of squared error of a weight costs at the layer's output: a mean over the columns.

    After plain rounding errors are independent, and the second moments [C, C] of the inputs count by their diagonal.
    After GPTQ later columns have made up for all that they could, and its factor counts by its pivots.
    """
    if isinstance(inputs, Factor):
        return float(np.square(1 / np.diagonal(inputs.lower_CC)).mean())
    return float(np.diagonal(inputs).astype(np.float64).mean())
