"""RMS normalisation without weights, with a backward pass of few sweeps over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RMS_EPS = 1.1920929e-07  # the step of float32 at 1, for every dtype (spec pr549.md 2.2)


def rms_norm(x: Tensor) -> Tensor:
    """`x / sqrt(mean(x²) + RMS_EPS)` over the last dimension, in the dtype of `x`.

    Differentiable once. The plain path serves GPUs (a compiler fuses it) and dtypes below float32.
    """
    if x.is_cuda or x.dtype not in (torch.float32, torch.float64):
        return plain_rms_norm(x)
    y: Tensor = _RmsNorm.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def plain_rms_norm(x: Tensor) -> Tensor:
    """The definition of `rms_norm`."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=RMS_EPS)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(RMS_EPS).rsqrt_()
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # dx = inverse (g - y mean(g y)): what would only lengthen x is taken out.
        (gradient,) = gradients
        y, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, y).unsqueeze(-1).div_(-y.shape[-1])
        inward: Tensor = torch.addcmul(gradient, y, along).mul_(inverse)
        return inward
