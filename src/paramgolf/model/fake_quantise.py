"""Rounding that training can see: matrices as the artifact will hold them, gradients as if nothing had happened."""

from __future__ import annotations

import torch
from torch import Tensor


def fake_quantise(weight: Tensor, bits: int) -> Tensor:
    """Each row of `weight` [..., R, C] rounded to integers of `bits` times a step of its own.

    The step takes the row's largest weight to 2^(bits-1) - 1; the gradient passes unchanged (straight-through). The
    published rule has a floor of 1/31 under the step, which rounds most weights of a trained model to a few values
    (spec pr549.md 3.11, 8.8): left out.
    """
    with torch.no_grad():
        largest = 2 ** (bits - 1) - 1
        step = (weight.abs().amax(dim=-1, keepdim=True) / largest).clamp_min(1e-12)
        rounded = (weight / step).round_() * step
    seen: Tensor = weight + (rounded - weight).detach()
    return seen
