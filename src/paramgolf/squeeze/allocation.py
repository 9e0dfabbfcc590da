"""Steps of all tensors together: as many bytes as asked for, and of those the least expected loss.

Rounding with steps s_R costs a tensor `loss(s) = sum over rows and columns of power_R * error²`, and takes `bytes(s)`;
at a minimum of the sum of losses under a sum of bytes all tensors have one slope, -d loss / d bytes (Lagrange). Each
tensor's steps grow by a factor of its own, `2^octaves`, from the steps that it is given. Where rows have powers of
their own, those steps are shaped first: the same argument wants a row's step to be `power^-1/2`, whatever its spread;
halfway there from the steps given was as good or better on a trained model, as powers are estimates. No row's steps
become so fine that its largest weight is cut short: there more bytes would buy a larger error.

Legend: R rows, C columns, P places of the grid of octaves. Errors and entropies are measured on a sample of each
tensor's rows, not taken from the law of fine steps, so coarse steps and rows that grow no finer are in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.squeeze.quantized import Float32, Float64
from paramgolf.squeeze.rows import as_rows

OCTAVES_P = np.arange(-5.0, 6.01, 0.25)
FINEST, COARSEST = 2.0 ** float(OCTAVES_P[0]), 2.0 ** float(OCTAVES_P[-1])
_PLACES = np.arange(OCTAVES_P.size)
_STEP_UP = 1e-9  # octaves of slope at which a long edge is jumped
SAMPLE = 1 << 16  # weights of a tensor that are measured


@dataclass(frozen=True)
class Curve:
    """What a tensor costs along the grid: `bytes_P` and `loss_P`, and where on it each slope lies.

    `slopes` ascend; `places` are the octaves at which the curve of loss over bytes has them.
    """

    bytes_P: Float64
    loss_P: Float64
    slopes: Float64  # log2 of -d loss / d bytes
    places: Float64

    def octaves(self, slope: float) -> float:
        """Octaves of the factor at which the curve's slope has this log2; at the ends of the grid beyond it."""
        return float(np.interp(slope, self.slopes, self.places))

    def bytes(self, octaves: float) -> float:
        """Bytes at a factor."""
        return float(np.interp(octaves, OCTAVES_P, self.bytes_P))

    def loss(self, octaves: float) -> float:
        """Expected loss at a factor, along a logarithm as it grows."""
        return float(np.exp2(np.interp(octaves, OCTAVES_P, np.log2(np.maximum(self.loss_P, 1e-300)))))


@dataclass(frozen=True)
class Allocation:
    """A family of steps with equal slopes, from fine to coarse."""

    base: Mapping[str, Float64]  # steps of factor 1
    least: Mapping[str, Float64]  # steps below which a row's largest weight would be cut short
    curves: Mapping[str, Curve]

    def factors(self, coarseness: float) -> dict[str, float]:
        """Each tensor's factor on its steps; all together they take as many bytes as `coarseness` for all would.

        `coarseness` is `FINEST` to `COARSEST`; more of it makes no factor smaller.
        """
        slope = self._slope(self.predicted_bytes(coarseness))
        return {name: 2.0 ** curve.octaves(slope) for name, curve in self.curves.items()}

    def steps(self, coarseness: float) -> dict[str, Float64]:
        """Each tensor's steps [R], before they are put on the grid that the file stores."""
        factors = self.factors(coarseness)
        return {name: np.maximum(steps_R * factors[name], self.least[name]) for name, steps_R in self.base.items()}

    def predicted_bytes(self, coarseness: float) -> float:
        """Bytes of all integers by their entropies; classes, steps and tables come on top, GPTQ adds about 1 %."""
        octaves = float(np.log2(coarseness))
        return sum(curve.bytes(octaves) for curve in self.curves.values())

    def predicted_loss(self, factors: Mapping[str, float]) -> float:
        """Expected loss, in the unit of the powers, with any factors."""
        return sum(curve.loss(float(np.log2(factors[name]))) for name, curve in self.curves.items())

    def _slope(self, target: float) -> float:
        """The common slope at which the curves take `target` bytes, by halving."""
        low = min(float(curve.slopes[0]) for curve in self.curves.values())
        high = max(float(curve.slopes[-1]) for curve in self.curves.values())
        for _ in range(60):
            middle = (low + high) / 2
            taken = sum(curve.bytes(curve.octaves(middle)) for curve in self.curves.values())
            low, high = (middle, high) if taken > target else (low, middle)
        return high


def allocate(
    weights: Mapping[str, Float32],
    steps: Mapping[str, Float64],
    powers: Mapping[str, float | Float64],
    largest: Mapping[str, int],
) -> Allocation:
    """Curves of all tensors of `steps` [R], which are those of coarseness 1; integers end at ±`largest`.

    `powers` is the expected loss of a unit of squared error in one weight, for a tensor or each row [R], in one unit
    for all tensors (`Sensitivity.power`). The same input gives the same result.
    """
    base = {name: steps_R * row_shape(steps_R, powers[name]) for name, steps_R in steps.items()}
    least = {name: least_steps(weights[name], largest[name]) for name in steps}
    curves = {name: tensor_curve(weights[name], base_R, powers[name], largest[name]) for name, base_R in base.items()}
    return Allocation(base, least, curves)


def row_shape(steps_R: Float64, power: float | Float64) -> Float64:
    """Factors [R] on steps, halfway to steps of `power^-1/2`, that keep their mean square; 1 where power is one number.

    A step of 0 stays 0.
    """
    power_R = np.broadcast_to(np.asarray(power, dtype=np.float64), steps_R.shape)
    used_R = (steps_R > 0) & (power_R > 0)
    if np.ndim(power) == 0 or not used_R.any():
        return np.ones(steps_R.shape)
    shape_R = np.ones(steps_R.shape)
    shape_R[used_R] = np.sqrt(power_R[used_R] ** -0.5 / steps_R[used_R])
    shaped_R = (steps_R * shape_R)[used_R]
    shape_R[used_R] *= np.sqrt(np.square(steps_R[used_R]).mean() / np.square(shaped_R).mean())
    return shape_R


def least_steps(weight: npt.NDArray[np.floating], largest: int) -> Float64:
    """The steps [R] with which each row's largest magnitude becomes ±`largest`."""
    peaks_R: Float64 = np.abs(as_rows(weight)).max(axis=1, initial=0.0).astype(np.float64)
    return peaks_R / largest


def tensor_curve(weight: npt.NDArray[np.floating], steps_R: Float64, power: float | Float64, largest: int) -> Curve:
    """Bytes by entropy and loss by squared error of a tensor with steps `steps_R * 2^octaves`, along the grid.

    Steps are no finer than `least_steps`.
    """
    weight_RC = as_rows(weight)
    rows = _sampled_rows(weight_RC.shape)
    scale = weight_RC.size / (len(rows) * weight_RC.shape[1])
    power_R1 = np.broadcast_to(np.asarray(power, dtype=np.float64), (len(weight_RC),))[rows][:, None]
    sample_RC, base_R, least_R = weight_RC[rows], steps_R[rows], least_steps(weight_RC[rows], largest)
    bytes_P, loss_P = np.zeros(OCTAVES_P.size), np.zeros(OCTAVES_P.size)
    for place, octaves in enumerate(OCTAVES_P):
        sized_R = np.maximum(base_R * 2.0**octaves, least_R)
        sized_R1 = np.where(sized_R > 0, sized_R, 1.0)[:, None]
        integers_RC = np.clip(np.rint(sample_RC / sized_R1), -largest, largest)
        errors_RC = sample_RC - integers_RC * sized_R1
        bytes_P[place] = scale * integers_RC.size * _entropy(integers_RC) / 8
        loss_P[place] = scale * float((np.square(errors_RC) * power_R1).sum())
    return Curve(bytes_P, loss_P, *_slopes(bytes_P, loss_P))


def _sampled_rows(shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Every so manyth row, so that about `SAMPLE` weights are looked at."""
    count = min(shape[0], max(1, SAMPLE // shape[1]))
    rows: npt.NDArray[np.int64] = np.arange(count) * shape[0] // count
    return rows


def _entropy(integers_RC: Float64) -> float:
    counts = np.bincount((integers_RC - integers_RC.min()).astype(np.int64).ravel())
    share = counts[counts > 0] / integers_RC.size
    return float(-(share * np.log2(share)).sum())


def _slopes(bytes_P: Float64, loss_P: Float64) -> tuple[Float64, Float64]:
    """log2 of the slopes of the lower convex hull of loss over bytes, ascending, and the octaves that have them."""
    hull = _hull(bytes_P, loss_P)
    if len(hull) < 2:  # nothing to gain by finer steps: a tensor of noughts, or one that costs no loss
        return np.zeros(1), OCTAVES_P[hull[:1]]
    slopes = np.log2(np.diff(loss_P[hull]) / -np.diff(bytes_P[hull]))
    edges = [(float(slopes[0]) - 1, float(OCTAVES_P[hull[0]]))]
    for slope, fine, coarse in zip(slopes, hull, hull[1:]):
        # Between neighbours of the grid the curve goes on bending; a longer edge spans places best for nothing.
        ends = [(fine + coarse) / 2] if coarse == fine + 1 else [fine, coarse]
        edges += [
            (float(slope) + k * _STEP_UP, float(np.interp(end, _PLACES, OCTAVES_P))) for k, end in enumerate(ends)
        ]
    edges.append((float(slopes[-1]) + 1, float(OCTAVES_P[hull[-1]])))
    return np.array([slope for slope, _ in edges]), np.array([place for _, place in edges])


def _hull(bytes_P: Float64, loss_P: Float64) -> list[int]:
    """Places of the grid on the lower convex hull, from fine to coarse: fewer bytes, more loss, ever steeper."""
    hull: list[int] = []
    for place in np.lexsort((loss_P, bytes_P)):  # from coarse to fine
        # Where steps grow no finer, bytes and loss differ by noise, which must not turn the order of places around.
        if hull and (loss_P[place] >= loss_P[hull[-1]] or place > hull[-1]):
            continue
        while len(hull) >= 2 and _slope(hull[-2], hull[-1], bytes_P, loss_P) <= _slope(
            hull[-1], place, bytes_P, loss_P
        ):
            hull.pop()
        hull.append(int(place))
    return hull[::-1]


def _slope(coarse: int, fine: int, bytes_P: Float64, loss_P: Float64) -> float:
    return float((loss_P[coarse] - loss_P[fine]) / (bytes_P[fine] - bytes_P[coarse]))
