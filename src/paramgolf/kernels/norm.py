"""RMS normalisation without weights, with a backward pass of few sweeps over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RMS_EPS = 1.1920929e-07  # the step of float32 at 1, for every dtype (spec pr549.md 2.2)


def rms_norm(x: Tensor, scale: float = 1.0) -> Tensor:
    """`scale x / sqrt(mean(x²) + RMS_EPS)` over the last dimension, in the dtype of `x`; `scale` is not 0.

    Differentiable once. The plain path serves GPUs (a compiler fuses it) and dtypes below float32.
    """
    if x.is_cuda or x.dtype not in (torch.float32, torch.float64):
        return plain_rms_norm(x, scale)
    y: Tensor = _RmsNorm.apply(x, scale)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def plain_rms_norm(x: Tensor, scale: float = 1.0) -> Tensor:
    """The definition of `rms_norm`."""
    normed = torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=RMS_EPS)
    return normed if scale == 1.0 else normed * scale


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        gain = rms_inverse(x)
        gain = gain if scale == 1.0 else gain.mul_(scale)
        y: Tensor = x * gain
        ctx.save_for_backward(y, gain)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        y, gain = ctx.saved_tensors
        return rms_gradient(gradients[0], y, gain, ctx.scale), None


def rms_inverse(x: Tensor) -> Tensor:
    """`1 / sqrt(mean(x²) + RMS_EPS)` over the last dimension, which stays with size 1."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(RMS_EPS).rsqrt_()


def rms_gradient(gradient: Tensor, y: Tensor, gain: Tensor, scale: float = 1.0) -> Tensor:
    """The gradient of x where that of y = gain x, gain = scale / rms(x), is `gradient`."""
    # gain (g - y mean(g y) / scale²): what would only lengthen x is taken out.
    along = torch.linalg.vecdot(gradient, y).unsqueeze(-1).div_(-y.shape[-1] * scale**2)
    return torch.addcmul(gradient, y, along).mul_(gain)
