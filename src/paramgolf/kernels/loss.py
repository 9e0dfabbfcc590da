"""Cross-entropy of softcapped tied logits behind one call: paths that never hold all logits, and the plain one.

Legend: N positions, D model width, V vocabulary, n positions of a piece.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Logits of a piece stay in the second-level cache of a core: 1 MiB.
PIECE_BYTES = 1 << 20
MAX_SOFTCAP = 60.0
HAS_TRITON = importlib.util.find_spec("triton") is not None


def softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
    """Mean cross-entropy in nats of `softcap * tanh(h headᵀ / softcap)` against `targets_N` (int64), a scalar.

    Differentiable once, with respect to `h_ND` and `head_VD`, which are of one dtype. The plain path serves what has
    no kernel here (`loss_backend`) and softcaps so high that the CPU's `exp(softcap)` could overflow.
    """
    backend = loss_backend(h_ND.device, h_ND.dtype)
    if backend == "triton":
        from paramgolf.kernels.loss_triton import fused_softcapped_loss

        return fused_softcapped_loss(h_ND, head_VD, targets_N, softcap)
    if backend == "plain" or softcap > MAX_SOFTCAP:
        return plain_softcapped_loss(h_ND, head_VD, targets_N, softcap)
    loss: Tensor = _PiecewiseLoss.apply(h_ND, head_VD, targets_N, softcap)  # type: ignore[no-untyped-call]  # torch's
    return loss


def loss_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Which path `softcapped_loss` takes: "triton" on a GPU, "piecewise" on a CPU, else "plain"."""
    if device.type == "cuda":
        return "triton" if HAS_TRITON and dtype in (torch.bfloat16, torch.float32) else "plain"
    return "piecewise" if device.type == "cpu" and dtype in (torch.float32, torch.float64) else "plain"


def plain_softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
    """The definition of `softcapped_loss`; logits in float32 at least."""
    return functional.cross_entropy(softcapped_logits(h_ND, head_VD, softcap), targets_N)


def softcapped_logits(h_ND: Tensor, head_VD: Tensor, softcap: float) -> Tensor:
    """Logits [..., V] within ±softcap, float32 at least, of states [..., D]."""
    scores_NV = functional.linear(h_ND, head_VD)
    scores_NV = scores_NV.to(torch.promote_types(scores_NV.dtype, torch.float32))
    return torch.tanh(scores_NV / softcap) * softcap


class _PiecewiseLoss(torch.autograd.Function):
    """Takes some positions at a time and computes the gradients on the way, while the piece is in the cache."""

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
        count = len(h_ND)
        piece = max(1, PIECE_BYTES // (head_VD.shape[0] * 4))
        wants_h, wants_head = ctx.needs_input_grad[:2]
        grad_h_ND = torch.empty_like(h_ND) if wants_h else None
        grad_head_VD = torch.zeros_like(head_VD) if wants_head else None
        total = torch.zeros((), dtype=torch.float64)
        scaled_VD = head_VD / softcap
        for start in range(0, count, piece):
            h_nD = h_ND[start : start + piece]
            targets_n1 = targets_N[start : start + piece, None]
            tanh_nV = (h_nD @ scaled_VD.T).tanh_()
            # Logits lie within ±softcap, so exp needs no maximum: e^60 times any vocabulary is a float32.
            share_nV = (tanh_nV * softcap).exp_()
            sums_n1 = share_nV.sum(dim=1, keepdim=True)
            total += (sums_n1.log() - tanh_nV.gather(1, targets_n1) * softcap).sum()
            if grad_h_ND is None and grad_head_VD is None:
                continue
            # d loss / d score = (share - [target]) (1 - tanh²) / N; softcap cancels against the scaled head.
            share_nV.div_(sums_n1 * count)
            share_nV.scatter_add_(1, targets_n1, torch.full_like(sums_n1, -1.0 / count))
            share_nV.addcmul_(share_nV * tanh_nV, tanh_nV, value=-1.0)
            if grad_h_ND is not None:
                torch.mm(share_nV, head_VD, out=grad_h_ND[start : start + piece])
            if grad_head_VD is not None:
                grad_head_VD.addmm_(share_nV.T, h_nD)
        ctx.save_for_backward(grad_h_ND, grad_head_VD)
        return (total / count).to(h_ND.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (scale,) = gradients
        grad_h_ND, grad_head_VD = ctx.saved_tensors
        return (
            None if grad_h_ND is None else grad_h_ND * scale,
            None if grad_head_VD is None else grad_head_VD * scale,
            None,
            None,
        )
