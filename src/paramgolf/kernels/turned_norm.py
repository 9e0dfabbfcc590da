"""RMS norm and rotary positions of queries and keys as one step, with a backward pass of few sweeps over memory.

Legend: B batch, T positions, H heads, K channels of a head, R turned channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paramgolf.kernels.norm import rms_gradient, rms_inverse, rms_norm


def turned_norm(x_BTHK: Tensor, cos_R: Tensor, sin_R: Tensor) -> Tensor:
    """`turned(rms_norm(x), cos, sin)`, in the dtype of `x_BTHK`; cosines and sines get no gradients.

    Differentiable once. The plain path serves GPUs (a compiler fuses it) and dtypes below float32.
    """
    if x_BTHK.is_cuda or x_BTHK.dtype not in (torch.float32, torch.float64):
        return plain_turned_norm(x_BTHK, cos_R, sin_R)
    y_BTHK: Tensor = _TurnedNorm.apply(x_BTHK, cos_R, sin_R)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y_BTHK


def plain_turned_norm(x_BTHK: Tensor, cos_R: Tensor, sin_R: Tensor) -> Tensor:
    """The definition of `turned_norm`."""
    return turned(rms_norm(x_BTHK), cos_R, sin_R)


def turned(x_BTHK: Tensor, cos_R: Tensor, sin_R: Tensor) -> Tensor:
    """The first R channels turned by angles whose cosines and sines [..., R] broadcast to [B, T, H, R].

    Sines of the second half have the other sign.
    """
    count = cos_R.shape[-1]
    turned_BTHR = _turn(x_BTHK[..., :count], cos_R, sin_R)
    if count == x_BTHK.shape[-1]:
        return turned_BTHR
    return torch.cat([turned_BTHR, x_BTHK[..., count:]], dim=-1)


def _turn(x_BTHR: Tensor, cos_R: Tensor, sin_R: Tensor) -> Tensor:
    # Rolling by half swaps the halves: one pass over memory where slicing and joining takes three.
    return torch.addcmul(x_BTHR * cos_R, x_BTHR.roll(x_BTHR.shape[-1] // 2, dims=-1), sin_R)


class _TurnedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHK: Tensor, cos_R: Tensor, sin_R: Tensor) -> Tensor:
        inverse = rms_inverse(x_BTHK)
        y_BTHK = x_BTHK * inverse
        turned_BTHR = y_BTHK[..., : cos_R.shape[-1]]
        turned_BTHR.copy_(_turn(turned_BTHR, cos_R, sin_R))
        ctx.save_for_backward(y_BTHK, inverse, cos_R, sin_R)
        return y_BTHK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # A turn keeps products of vectors, so the norm's gradient can be taken first and turned back afterwards.
        y_BTHK, inverse, cos_R, sin_R = ctx.saved_tensors
        inward_BTHK = rms_gradient(gradients[0], y_BTHK, inverse)
        turned_BTHR = inward_BTHK[..., : cos_R.shape[-1]]
        turned_BTHR.copy_(_turn(turned_BTHR, cos_R, -sin_R))
        return inward_BTHK, None, None
