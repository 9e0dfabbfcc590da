"""Attention without each position's own value (XSA), with a backward pass of few sweeps over memory.

Legend: B batch, T positions, H query heads, G key/value heads, N = H / G heads that share one, K channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

VALUE_EPS = 1e-12


def exclude_own_value(read_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """What each head read, without its part along the position's own value vector (XSA, spec pr549.md 2.6).

    At least float32 inside, as published; returns the dtype of `read_BTHK`. Differentiable once. The plain path serves
    GPUs (a compiler fuses it) and dtypes below float32.
    """
    if read_BTHK.is_cuda or read_BTHK.dtype not in (torch.float32, torch.float64):
        return plain_exclude_own_value(read_BTHK, v_BTGK)
    left_BTHK: Tensor = _ExcludeOwnValue.apply(read_BTHK, v_BTGK)  # type: ignore[no-untyped-call]  # torch's
    return left_BTHK


def plain_exclude_own_value(read_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """The definition of `exclude_own_value`."""
    dtype = torch.promote_types(read_BTHK.dtype, torch.float32)
    read_BTGNK = _grouped(read_BTHK, v_BTGK).to(dtype)
    own_BTG1K = functional.normalize(v_BTGK.to(dtype), dim=-1, eps=VALUE_EPS)[:, :, :, None]
    along_BTGN1 = (read_BTGNK * own_BTG1K).sum(dim=-1, keepdim=True)
    return (read_BTGNK - along_BTGN1 * own_BTG1K).reshape(read_BTHK.shape).to(read_BTHK.dtype)


class _ExcludeOwnValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, read_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
        read_BTGNK = _grouped(read_BTHK, v_BTGK)
        length_BTG1 = torch.linalg.vector_norm(v_BTGK, dim=-1, keepdim=True).clamp_min_(VALUE_EPS)
        own_BTG1K = (v_BTGK / length_BTG1)[:, :, :, None]
        along_BTGN1 = (read_BTGNK * own_BTG1K).sum(dim=-1, keepdim=True)
        ctx.save_for_backward(read_BTGNK, own_BTG1K, along_BTGN1, length_BTG1)
        return torch.addcmul(read_BTGNK, along_BTGN1, own_BTG1K, value=-1).view(read_BTHK.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        # own = v / |v| has the gradient -(along g + (g . own) read), of which v gets what is across it, over |v|.
        read_BTGNK, own_BTG1K, along_BTGN1, length_BTG1 = ctx.saved_tensors
        gradient_BTGNK = gradients[0].reshape(read_BTGNK.shape)
        across_BTGN1 = (gradient_BTGNK * own_BTG1K).sum(dim=-1, keepdim=True)
        to_read_BTGNK = torch.addcmul(gradient_BTGNK, across_BTGN1, own_BTG1K, value=-1)
        to_own_BTGK = (along_BTGN1 * gradient_BTGNK).addcmul_(across_BTGN1, read_BTGNK).sum(dim=3)
        own_BTGK = own_BTG1K[:, :, :, 0]
        outward_BTG1 = (to_own_BTGK * own_BTGK).sum(dim=-1, keepdim=True)
        to_v_BTGK = torch.addcmul(to_own_BTGK, outward_BTG1, own_BTGK, value=-1).div_(-length_BTG1)
        return to_read_BTGNK.view(gradients[0].shape), to_v_BTGK


def _grouped(read_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """The heads [B, T, G, N, K] by the value that they share."""
    batch, length, heads, size = read_BTHK.shape
    groups = v_BTGK.shape[2]
    return read_BTHK.reshape(batch, length, groups, heads // groups, size)
