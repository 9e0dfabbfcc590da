"""CROWN-Q: a penalty on what rounding the blocks' matrices will cost, for the last part of training.

Legend: bank [N, R, C]: N matrices of R rows and C columns; a row has one step.
Source: PR #1185 and #700; spec pr1185.md 2.6.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from paramgolf.model.fake_quantise import fake_quantise

Form = Literal["rounding", "published"]
LEAST_DISTANCE = 1e-12  # so that a bank that is rounded already has a gradient of zero


def crown_penalty(banks: Iterable[Tensor], bits: int, form: Form) -> Tensor:
    """The penalty of all banks together, a scalar: `published_penalty` or `rounding_distance` of each, added."""
    penalty_of = published_penalty if form == "published" else rounding_distance
    return torch.stack([penalty_of(bank, bits) for bank in banks]).sum()


def published_penalty(bank_NRC: Tensor, bits: int) -> Tensor:
    """Mean over all elements of `w² step² / 12`, where the step takes the row's largest weight to 2^(bits-1) - 1.

    Gradients go through the step, too. As a mean over a bank the gradient is about 1e-11 of the loss's: it has no
    effect on float32 weights (spec pr1185.md 2.6). Kept to compare with.
    """
    weights_NRC = bank_NRC.float()
    step_NR1 = weights_NRC.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    noise: Tensor = (weights_NRC.square() * step_NR1.square() / 12.0).mean()
    return noise


def rounding_distance(bank_NRC: Tensor, bits: int) -> Tensor:
    """The distance `|W - round(W)|` of a bank from its rounding (Frobenius norm), which is held fixed.

    Rounding is `fake_quantise`: the step of each row takes its largest weight to 2^(bits-1) - 1. The gradient draws
    every weight to the nearest multiple of its step; its norm is one for every bank, whatever the bits and the size, so
    that a weight of one is about as strong as the loss itself.
    """
    weights_NRC = bank_NRC.float()
    error_NRC = weights_NRC - fake_quantise(weights_NRC.detach(), bits)
    return error_NRC.square().sum().add(LEAST_DISTANCE**2).sqrt()
