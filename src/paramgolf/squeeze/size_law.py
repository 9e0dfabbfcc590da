"""What a model will weigh, before there is one: the entropy of rounded Gaussian weights (spec pr2140.md 4.2).

With "sigma" clips a row's step is `k sigma / R`, `R` the largest integer: trained rows are close to Gaussian, so each
integer takes the entropy of a Gaussian rounded at that step, and bytes follow from the settings alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paramgolf.model.arithmetic import MATRICES, TABLES, tensor_shapes
from paramgolf.recipe import ModelRecipe, SqueezeRecipe

SCALE_BYTES = 2  # of a row's step, float16 as published; our coder takes less
GROUP = 64  # numbers of a correction's second factor that share a scale


@dataclass(frozen=True)
class SizeLaw:
    """Predicted bytes: of each class of integer tensors, and of what comes beside them."""

    embedding: float
    attention: float
    mlp: float
    wide: float  # what columns of more bits add
    scales: float
    corrections: float
    small: float

    def total(self) -> float:
        """All of it: weights alone, without tables, container, tokenizer and code."""
        integers = self.embedding + self.attention + self.mlp
        return integers + self.wide + self.scales + self.corrections + self.small


def rounded_gaussian_bits(step: float) -> float:
    """Entropy in bits of a Gaussian of standard deviation 1 rounded to multiples of `step`; 0 for huge steps.

    No integer is clipped. Fine steps give `log2(sqrt(2 pi e) / step) + step² / (24 ln 2)`.
    """
    if not step > 0:
        raise ValueError(f"a step of {step} standard deviations; it should be above 0")
    if step < 1e-3:
        return 0.5 * math.log2(2 * math.pi * math.e) - math.log2(step)
    edge = step / 2 / math.sqrt(2)
    bits = -_plogp(math.erf(edge))
    for k in range(1, math.ceil(9 / step) + 1):
        share = 0.5 * (math.erfc((2 * k - 1) * edge) - math.erfc((2 * k + 1) * edge))
        bits -= 2 * _plogp(share)
    return bits


def integer_bits(sigmas: float, bits: int) -> float:
    """Bits an integer takes where a row's integers of `bits` end at `sigmas` standard deviations (3.486 at 11.5, 6)."""
    return rounded_gaussian_bits(sigmas / ((1 << (bits - 1)) - 1))


def size_law(model: ModelRecipe, squeeze: SqueezeRecipe, vocab_size: int) -> SizeLaw:
    """Bytes of the weights at the recipe's "sigma" clips, whatever its clip; published within 0.6 % (spec 4.2).

    Wide columns are taken to be the embedding's, and corrections those of the largest tensors, as in the published
    logs.
    """
    shapes = tensor_shapes(model, vocab_size)
    integers = {"embedding": 0.0, "attention": 0.0, "mlp": 0.0}
    small = scales = 0.0
    for name, shape in shapes.items():
        sigmas, bits, kind = _class_of(name, squeeze)
        if kind is None:
            small += math.prod(shape) * _small_bits(name, squeeze) / 8
            continue
        integers[kind] += math.prod(shape) * integer_bits(sigmas, bits) / 8
        scales += SCALE_BYTES * shape[0]
    wide, wide_scales = _wide(shapes["embedding.weight"], squeeze)
    corrections = sum(_corrections(shapes.values(), squeeze)) if squeeze.corrected_tensors else 0.0
    return SizeLaw(**integers, wide=wide, scales=scales + wide_scales, corrections=corrections, small=small)


def _class_of(name: str, squeeze: SqueezeRecipe) -> tuple[float, int, str | None]:
    """Standard deviations, bits and class of a tensor; no class where it stays floating point."""
    if name in TABLES:
        return squeeze.embedding_sigmas, squeeze.embedding_bits, "embedding"
    if name.startswith("blocks.") and name.removesuffix(".weight").endswith(MATRICES):
        mlp = ".mlp." in name
        return (
            squeeze.mlp_sigmas if mlp else squeeze.attention_sigmas,
            squeeze.matrix_bits,
            "mlp" if mlp else "attention",
        )
    return 0.0, 0, None


def _small_bits(name: str, squeeze: SqueezeRecipe) -> int:
    return squeeze.gate_bits if squeeze.gate_bits and name.endswith("sparse_gate.weight") else squeeze.small_bits


def _wide(shape: tuple[int, ...], squeeze: SqueezeRecipe) -> tuple[float, float]:
    """Bytes that wide columns add to the embedding's integers, and those of their own steps."""
    if not squeeze.wide_groups:
        return 0.0, 0.0
    columns = min(squeeze.wide_groups * squeeze.wide_columns, math.prod(shape[1:]))
    sigmas = squeeze.embedding_sigmas
    more = integer_bits(sigmas, squeeze.wide_bits) - integer_bits(sigmas, squeeze.embedding_bits)
    return shape[0] * columns * more / 8, SCALE_BYTES * shape[0]


def _corrections(shapes: Iterable[tuple[int, ...]], squeeze: SqueezeRecipe) -> Iterator[float]:
    """Bytes of each low-rank correction: 2 bits a number of the first factor, 4 of the second and its scales."""
    matrices = sorted((s for s in shapes if len(s) == 2), key=math.prod, reverse=True)
    for rows, columns in matrices[: squeeze.corrected_tensors]:
        rank = squeeze.correction_rank
        yield SCALE_BYTES + rank * rows * 2 / 8 + rank * columns * (4 / 8 + SCALE_BYTES / GROUP)


def _plogp(share: float) -> float:
    return share * math.log2(share) if share > 0 else 0.0
