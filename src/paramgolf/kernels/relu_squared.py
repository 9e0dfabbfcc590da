"""`leaky(x)²` with a backward pass of two sweeps over memory, where the composed one takes five."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def relu_squared(x: Tensor, slope: float = 0.0) -> Tensor:
    """Elementwise `x²` for x >= 0 and `slope² x²` below; any float dtype, differentiable once.

    On a GPU the plain path is used: a compiler fuses it. Source: spec pr549.md 2.8 (slope 0.5), spec
    pr2140.md 2.3 (slope 0.3).
    """
    if x.is_cuda:
        return plain_relu_squared(x, slope)
    y: Tensor = _ReluSquared.apply(x, slope)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def plain_relu_squared(x: Tensor, slope: float = 0.0) -> Tensor:
    """The definition of `relu_squared`."""
    return functional.leaky_relu(x, slope).square() if slope else functional.relu(x).square()


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        # leaky² = x times half its own derivative, which is all that the backward pass needs.
        half = functional.leaky_relu(x, slope * slope) if slope else x.clamp_min(0)
        ctx.save_for_backward(half)
        return x * half

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (half,) = ctx.saved_tensors
        return (gradients[0] * half).mul_(2), None
