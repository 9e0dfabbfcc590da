"""`relu(x)²` with a backward pass of two sweeps over memory, where the composed one takes four."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def relu_squared(x: Tensor) -> Tensor:
    """Elementwise `max(x, 0)²`; any float dtype. On a GPU the plain path is used: a compiler fuses it."""
    if x.is_cuda:
        return plain_relu_squared(x)
    y: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def plain_relu_squared(x: Tensor) -> Tensor:
    """The definition of `relu_squared`."""
    return functional.relu(x).square()


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.clamp_min(0)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        gradient: Tensor = (gradients[0] * positive).mul_(2)
        return gradient
