"""Low-rank corrections of the tensors that rounding harms most (LQER: Zhang et al. 2024; spec pr2140.md 4.4).

Legend: R rows, C columns, K rank. The error E = W - dequantised(W) is cut off to its K largest singular values, `A B`
with A = U S [R, K] and B = Vᵀ [K, C], and both are stored as small integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.squeeze.percentile import as_half
from paramgolf.squeeze.quantized import Float32, Float64, Int8, LowRank, Quantized, dequantize, low_rank_product

Form = Literal["asymmetric", "symmetric"]
GROUP = 64  # neighbouring numbers of B, row by row, that share a step
LEFT_BITS, RIGHT_BITS = 2, 4
SYMMETRIC_BITS = 4


@dataclass(frozen=True)
class Corrections:
    """How many tensors are corrected, of which rank, and how the factors are stored.

    "asymmetric": A as two bits with one step, B as four bits with a step for each `GROUP`, both with one more integer
    below 0 than above, B's number permitting; "symmetric": four bits, a step for each row of A and of B.
    """

    tensors: int
    rank: int
    form: Form = "asymmetric"


def correct(weights: Mapping[str, Float32], tensors: Mapping[str, Quantized], how: Corrections) -> dict[str, Quantized]:
    """Those of the `tensors` that get a correction, with it: the ones of largest error, in Frobenius' norm.

    A correction that would leave a larger error than there was is not kept, so it may be fewer than asked for (the
    published form keeps it). Only matrices are corrected. Raises `RecipeError` where a factor is beyond float16.
    """
    matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) == 2}
    norms = {name: squared_error(weights[name], tensor) for name, tensor in matrices.items()}
    worst = sorted((name for name in norms if norms[name] > 0), key=lambda name: -norms[name])[: how.tensors]
    corrected: dict[str, Quantized] = {}
    for name in worst:
        error_RC = weights[name].astype(np.float64) - dequantize(matrices[name])
        left_RK, right_KC = best_factors(error_RC, how.rank)
        found = pack_factors(left_RK, right_KC, how.form)
        if np.square(error_RC - low_rank_product(found)).sum() < norms[name]:
            corrected[name] = replace(matrices[name], correction=found)
    return corrected


def squared_error(weight: Float32, tensor: Quantized) -> float:
    """Sum of (weight - dequantised)²."""
    return float(np.square(weight - dequantize(tensor).astype(np.float64)).sum())


def best_factors(error_RC: Float64, rank: int) -> tuple[Float64, Float64]:
    """A [R, K] and B [K, C] with orthonormal rows whose product is nearest to the error, K at most its smaller side.

    From the eigenvectors of its smaller square: of thousands of rows a full decomposition would take seconds. The entry
    of largest magnitude in each column of A is positive, so that the signs are nobody's choice.
    """
    if len(error_RC) < error_RC.shape[1]:
        _, vectors_RR = np.linalg.eigh(error_RC @ error_RC.T)
        left_RK = vectors_RR[:, ::-1][:, :rank]
        right_KC = left_RK.T @ error_RC
        lengths_K = np.linalg.norm(right_KC, axis=1)
        right_KC /= np.where(lengths_K > 0, lengths_K, 1)[:, None]
        left_RK = left_RK * lengths_K
    else:
        _, vectors_CC = np.linalg.eigh(error_RC.T @ error_RC)
        right_KC = vectors_CC[:, ::-1][:, :rank].T
        left_RK = error_RC @ right_KC.T
    peaks_K = left_RK[np.abs(left_RK).argmax(axis=0), np.arange(left_RK.shape[1])]
    signs_K = np.where(peaks_K < 0, -1.0, 1.0)
    return left_RK * signs_K, right_KC * signs_K[:, None]


def pack_factors(left_RK: Float64, right_KC: Float64, form: Form) -> LowRank:
    """The factors as integers; symmetric where B's numbers do not fill whole groups, as published."""
    if form == "asymmetric" and right_KC.size % GROUP == 0:
        left = _with_steps(left_RK.reshape(1, -1), LEFT_BITS, asymmetric=True)
        right = _with_steps(right_KC.reshape(-1, GROUP), RIGHT_BITS, asymmetric=True)
    else:
        left = _with_steps(left_RK, SYMMETRIC_BITS, asymmetric=False)
        right = _with_steps(right_KC, SYMMETRIC_BITS, asymmetric=False)
    return LowRank(replace(left, shape=left_RK.shape), replace(right, shape=right_KC.shape))


def _with_steps(values_RC: Float64, bits: int, *, asymmetric: bool) -> Quantized:
    """Rows with a float16 step each, from the largest magnitude over q + 1/2 (asymmetric) or q."""
    largest = (1 << (bits - 1)) - 1
    least = -largest - 1 if asymmetric else -largest
    peak_R = np.abs(values_RC).max(axis=1) / (largest + (0.5 if asymmetric else 0.0))
    if peak_R.max() > 65504:
        raise RecipeError(f"a correction with a step of {peak_R.max():.3g} is beyond float16; use corrected_tensors 0")
    scales_R = as_half(peak_R.astype(np.float32))
    divisor_R = np.where(scales_R > 0, scales_R, np.inf).astype(np.float64)
    codes_RC: Int8 = np.clip(np.rint(values_RC / divisor_R[:, None]), least, largest).astype(np.int8)
    return Quantized(codes_RC, scales_R, bits, values_RC.shape)
