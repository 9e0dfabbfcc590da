"""Full GPTQ: round a matrix column by column, and let the columns still to come make up for each column's error.

Legend: R rows, C columns, N rows of all candidates (P candidate steps for each row, one after the other), B columns of
a block. With the Hessian H and `H⁻¹ = Uᵀ U`, U upper triangular, column j becomes `q = clip(round(w_j / step))`, its
error is `e = (w_j - q step) / U_jj`, and every later column k moves by `-e U_jk`. The sum of `e²` over a row is then
`d H dᵀ` of its final error d: `d = e U`, and `U H Uᵀ` is the identity. Rows are independent once their steps are given.
Source: Frantar et al. 2022; spec pr1430.md 3.3. NumPy in float64: whole products go to BLAS, rows lie along the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.squeeze.hessian import checked_hessian
from paramgolf.squeeze.quantized import Float32, Float64, Int8

Int64 = npt.NDArray[np.int64]
Order = Literal["activation", "natural"]
BLOCK = 128
MORE_DAMPING = (0.0, 0.05, 0.1, 0.5, 1.0)  # shares of the mean second moment, tried one after the other
LEAST_PIVOT = 1e-10  # of the mean second moment: below it what is left of a column is rounding noise


@dataclass(frozen=True)
class Factor:
    """A Hessian made ready: `order_C` in which columns are rounded, and `lower_CC`, Uᵀ of the columns so ordered.

    `damping` is the share of the mean second moment that was added to each in the end; `unused_C` says which columns,
    in their own order, had inputs of nothing but 0.
    """

    order_C: Int64
    lower_CC: Float64
    damping: float
    unused_C: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WideGrid:
    """Columns (by number) that are rounded to integers within ±`largest` times steps [R] of their own."""

    columns_W: Int64
    steps_R: Float32 | Float64
    largest: int


@dataclass(frozen=True)
class _Grid:
    """What a column is rounded to: integers within ±`largest` times the steps [N]."""

    steps_N: Float64
    largest: int


@dataclass(frozen=True)
class Rounded:
    """Integers int8 [R, C], and what the error of each row costs under the damped Hessian, [R]."""

    values_RC: Int8
    loss_R: Float64


def factorise(
    hessian: Float32 | Float64, damping: float = 0.01, order: Order = "activation", name: str = ""
) -> Factor | None:
    """Damp, order and factorise a Hessian [C, C]; None where no damping of the ladder makes it positive definite.

    `damping` is a share of the mean of the diagonal (published: 0.005, added twice). A column whose input was never
    anything but 0 counts for itself alone: it is rounded to nearest, and moves no other. "activation" rounds columns of
    the largest second moment first; equal ones keep their order. Raises `RecipeError`, with the matrix's `name`, for
    what is no Hessian.
    """
    exact_CC = checked_hessian(hessian, name)
    if not damping >= 0:
        raise RecipeError(f"a damping of {damping} must not be negative")
    diagonal_C = np.diagonal(exact_CC).copy()
    mean = float(diagonal_C.mean())
    if mean <= 0:
        mean = 1.0
    unused_C = diagonal_C == 0
    diagonal_C[unused_C] = mean
    order_C = np.argsort(-diagonal_C, kind="stable") if order == "activation" else np.arange(diagonal_C.size)
    exact_CC = exact_CC[np.ix_(order_C, order_C)]
    for more in MORE_DAMPING:
        np.fill_diagonal(exact_CC, diagonal_C[order_C] + (damping + more) * mean)
        lower_CC = _inverse_root(exact_CC, LEAST_PIVOT * mean)
        if lower_CC is not None:
            return Factor(order_C, lower_CC, damping + more, unused_C)
    return None


def _inverse_root(hessian_CC: Float64, least: float) -> Float64 | None:
    """Uᵀ with `H⁻¹ = Uᵀ U`, or None. H read backwards is `M Mᵀ`, so H is `T Tᵀ` with T upper, and U is T's inverse."""
    try:
        upper_CC = np.linalg.cholesky(hessian_CC[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        return None
    if not (np.square(np.diagonal(upper_CC)) > least).all():
        return None
    lower_CC = np.linalg.inv(upper_CC.T)  # of a triangle: above it stands rounding at most, which nothing reads
    return np.ascontiguousarray(lower_CC)


def gptq(
    weight_RC: Float32 | Float64,
    factor: Factor,
    steps_R: Float32 | Float64,
    largest: int,
    wide: WideGrid | None = None,
) -> Rounded:
    """Round each row to integers within ±`largest` times its step; a step of 0 gives a row of noughts.

    `wide` columns are rounded to their own grid, and so is their error, for which the others make up.
    """
    values_PRC, loss_PR = gptq_candidates(weight_RC, factor, steps_R.astype(np.float64)[None, :], largest, wide=wide)
    return Rounded(values_PRC[0], loss_PR[0])


def gptq_candidates(
    weight_RC: Float32 | Float64,
    factor: Factor,
    steps_PR: Float32 | Float64,
    largest: int,
    block: int = BLOCK,
    wide: WideGrid | None = None,
) -> tuple[Int8, Float64]:
    """The same for several steps of each row at once: integers [P, R, C] and losses [P, R].

    `block` columns are moved at once for what lies behind them; it changes the speed alone.
    """
    rows, columns = weight_RC.shape
    if factor.lower_CC.shape != (columns, columns):
        raise RecipeError(
            f"a Hessian of {len(factor.lower_CC)} columns for a matrix of shape {weight_RC.shape}; they should agree"
        )
    candidates = steps_PR.shape[0]
    ordered_CR = weight_RC.astype(np.float64).T[factor.order_C]
    work_CN = np.tile(ordered_CR, (1, candidates))
    grids = [_Grid(steps_PR.reshape(-1).astype(np.float64), largest)]
    grid_C = np.zeros(columns, dtype=np.int64)
    if wide is not None:
        grids.append(_Grid(np.tile(wide.steps_R.astype(np.float64), candidates), wide.largest))
        grid_C[wide.columns_W] = 1
    codes_CN, loss_N = _round_columns(work_CN, factor.lower_CC, grids, grid_C[factor.order_C], block)
    values_CN = np.empty_like(codes_CN)
    values_CN[factor.order_C] = codes_CN
    values_PRC = np.ascontiguousarray(values_CN.reshape(columns, candidates, rows).transpose(1, 2, 0))
    return values_PRC, loss_N.reshape(candidates, rows)


def _round_columns(
    work_CN: Float64, lower_CC: Float64, grids: Sequence[_Grid], grid_C: Int64, block: int
) -> tuple[Int8, Float64]:
    """Integers [C, N] of ordered columns, each on its grid, and the loss [N]; `work_CN` is used up."""
    columns, rows = work_CN.shape
    divisors = [np.where(grid.steps_N > 0, grid.steps_N, np.inf) for grid in grids]
    codes_CN = np.empty((columns, rows), dtype=np.int8)
    loss_N = np.zeros(rows)
    errors_BN = np.empty((min(block, columns), rows))
    for start in range(0, columns, block):
        end = min(start + block, columns)
        for column in range(start, end):
            done, left_N, which = column - start, work_CN[column], int(grid_C[column])
            steps_N, largest = grids[which].steps_N, grids[which].largest
            if done:
                left_N -= lower_CC[column, start:column] @ errors_BN[:done]
            code_N = left_N / divisors[which]
            np.rint(code_N, out=code_N)
            np.clip(code_N, -largest, largest, out=code_N)
            codes_CN[column] = code_N
            error_N = errors_BN[done]
            np.multiply(code_N, steps_N, out=error_N)
            np.subtract(left_N, error_N, out=error_N)
            error_N /= lower_CC[column, column]
            loss_N += np.square(error_N)
        if end < columns:
            work_CN[end:] -= lower_CC[end:, start:end] @ errors_BN[: end - start]
    return codes_CN, loss_N
