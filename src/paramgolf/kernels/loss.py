"""Cross-entropy of softcapped tied logits behind one call: paths that never hold all logits, and the plain one.

With one cap c a logit is `c tanh(score / c)`; with two, c is the first where the score is above 0 and the second
elsewhere. Legend: N positions, D model width, V vocabulary, n positions of a piece.
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
Softcap = float | Tensor  # one cap, or two [2] that are learnt: of scores above 0 and of the others
HAS_TRITON = importlib.util.find_spec("triton") is not None


def softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: Softcap) -> Tensor:
    """Mean cross-entropy in nats of `softcap * tanh(h headᵀ / softcap)` against `targets_N` (int64), a scalar.

    Differentiable once, with respect to `h_ND` and `head_VD`, which are of one dtype, and to caps that are a tensor.
    The plain path serves what has no kernel here (`loss_backend`) and caps so high that the CPU's `exp(softcap)` could
    overflow.
    """
    backend = loss_backend(h_ND.device, h_ND.dtype)
    if backend == "triton":
        from paramgolf.kernels.loss_triton import fused_softcapped_loss

        return fused_softcapped_loss(h_ND, head_VD, targets_N, softcap)
    if backend == "plain" or not _within(softcap, MAX_SOFTCAP):
        return plain_softcapped_loss(h_ND, head_VD, targets_N, softcap)
    loss: Tensor = _PiecewiseLoss.apply(h_ND, head_VD, targets_N, softcap)  # type: ignore[no-untyped-call]  # torch's
    return loss


def loss_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Which path `softcapped_loss` takes: "triton" on a GPU, "piecewise" on a CPU, else "plain"."""
    if device.type == "cuda":
        return "triton" if HAS_TRITON and dtype in (torch.bfloat16, torch.float32) else "plain"
    return "piecewise" if device.type == "cpu" and dtype in (torch.float32, torch.float64) else "plain"


def plain_softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: Softcap) -> Tensor:
    """The definition of `softcapped_loss`; logits in float32 at least."""
    return functional.cross_entropy(softcapped_logits(h_ND, head_VD, softcap), targets_N)


def softcapped_logits(h_ND: Tensor, head_VD: Tensor, softcap: Softcap, extra_NV: Tensor | None = None) -> Tensor:
    """Logits [..., V] within the softcap, float32 at least, of states [..., D]; `extra_NV` joins them before it."""
    scores_NV = functional.linear(h_ND, head_VD)
    scores_NV = scores_NV.to(torch.promote_types(scores_NV.dtype, torch.float32))
    if extra_NV is not None:
        scores_NV = scores_NV + extra_NV
    if isinstance(softcap, Tensor):
        above, below = softcap.to(scores_NV.dtype)
        softcap = torch.where(scores_NV > 0, above, below)
    return torch.tanh(scores_NV / softcap) * softcap


def caps_of(softcap: Softcap) -> tuple[float, float]:
    """The caps of scores above 0 and of the others, as numbers; makes a GPU wait."""
    if isinstance(softcap, Tensor):
        above, below = softcap.tolist()
        return above, below
    return softcap, softcap


def _within(softcap: Softcap, most: float) -> bool:
    if isinstance(softcap, Tensor) and torch.compiler.is_compiling():
        return False  # a graph must not depend on what they have learnt
    return all(0.0 < cap <= most for cap in caps_of(softcap))


class _PiecewiseLoss(torch.autograd.Function):
    """Takes some positions at a time and computes the gradients on the way, while the piece is in the cache."""

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: Softcap) -> Tensor:
        count = len(h_ND)
        piece = max(1, PIECE_BYTES // (head_VD.shape[0] * 4))
        wants_h, wants_head, _, wants_caps = ctx.needs_input_grad
        grad_h_ND = torch.empty_like(h_ND) if wants_h else None
        grad_head_VD = torch.zeros_like(head_VD) if wants_head else None
        grad_caps_2 = torch.zeros(2, dtype=h_ND.dtype) if wants_caps else None
        total = torch.zeros((), dtype=torch.float64)
        above, below = caps_of(softcap)
        scaled_VD = head_VD / above
        for start in range(0, count, piece):
            h_nD = h_ND[start : start + piece]
            targets_n1 = targets_N[start : start + piece, None]
            over_cap_nV = _bent_(h_nD @ scaled_VD.T, above / below)
            tanh_nV = over_cap_nV.tanh() if wants_caps else over_cap_nV.tanh_()
            # Logits lie within the caps, so exp needs no maximum: e^60 times any vocabulary is a float32.
            share_nV = _bent_(tanh_nV * above, below / above)
            wanted_n1 = share_nV.gather(1, targets_n1)
            sums_n1 = share_nV.exp_().sum(dim=1, keepdim=True)
            total += (sums_n1.log() - wanted_n1).sum()
            if grad_h_ND is None and grad_head_VD is None and grad_caps_2 is None:
                continue
            # d loss / d score = (share - [target]) (1 - tanh²) / N; the cap cancels against the scaled head.
            share_nV.div_(sums_n1 * count)
            share_nV.scatter_add_(1, targets_n1, torch.full_like(sums_n1, -1.0 / count))
            if grad_caps_2 is not None:
                grad_caps_2 += _caps_gradient(share_nV, tanh_nV, over_cap_nV)
            share_nV.addcmul_(share_nV * tanh_nV, tanh_nV, value=-1.0)
            if grad_h_ND is not None:
                torch.mm(share_nV, head_VD, out=grad_h_ND[start : start + piece])
            if grad_head_VD is not None:
                grad_head_VD.addmm_(share_nV.T, h_nD)
        ctx.save_for_backward(grad_h_ND, grad_head_VD, grad_caps_2)
        return (total / count).to(h_ND.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        (scale,) = gradients
        grad_h_ND, grad_head_VD, grad_caps_2 = (
            None if gradient is None else gradient * scale for gradient in ctx.saved_tensors
        )
        return grad_h_ND, grad_head_VD, None, grad_caps_2


def _bent_(x: Tensor, ratio: float) -> Tensor:
    """`x` in place, times `ratio` where it is below 0: what turns one cap into the other."""
    return x if ratio == 1.0 else functional.leaky_relu_(x, ratio)


def _caps_gradient(grad_nV: Tensor, tanh_nV: Tensor, over_cap_nV: Tensor) -> Tensor:
    """Of both caps [2], from that of the logits: `d (c tanh(s / c)) / dc = tanh(u) - u (1 - tanh²(u))`, u = s / c."""
    slopes_nV = tanh_nV - over_cap_nV * (1.0 - tanh_nV * tanh_nV)
    each_nV = slopes_nV.mul_(grad_nV)
    above = torch.where(over_cap_nV > 0, each_nV, 0.0).sum()
    return torch.stack([above, each_nV.sum() - above])
