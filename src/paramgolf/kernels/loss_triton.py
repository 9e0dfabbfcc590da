"""Cross-entropy of softcapped tied logits for a GPU, in Triton: the logits of all positions are never in memory.

Some positions at a time are multiplied with the head into one buffer in the dtype of the states; a kernel turns each
row of scores into its gradient in place, and two more products carry it on. The scores are rounded to bfloat16 where
the states are, as in the plain definition; everything after them is float32.

Legend: N positions, D model width, V vocabulary, n positions of a piece.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from paramgolf.kernels.loss import Softcap

# Scores of a piece: they stay in the second-level cache of a large GPU between the kernel and the products.
PIECE_BYTES = 1 << 24
MAX_BLOCK = 4096
DTYPES = (torch.bfloat16, torch.float32)


def fused_softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: Softcap) -> Tensor:
    """`softcapped_loss` for states and head of one dtype, bfloat16 or float32; a float32 scalar, differentiable once.

    Targets (int64) must lie in 0..V-1: they are not checked. One operator to a compiler, with gradients computed in
    the forward pass and only if somebody wants them.
    """
    if isinstance(softcap, Tensor):
        caps_2 = softcap.float()
    else:
        caps_2 = torch.full((2,), softcap, dtype=torch.float32, device=h_ND.device)
    wants_h, wants_head, wants_caps = (
        torch.is_grad_enabled() and given.requires_grad for given in (h_ND, head_VD, caps_2)
    )
    loss: Tensor
    loss, *_ = _loss_and_gradients(h_ND, head_VD, targets_N, caps_2, wants_h, wants_head, wants_caps)
    return loss


@triton.jit
def _tanh_parts(x):
    # tanh(x) = ±(1 - e) / (1 + e) and 1 - tanh² = 4 e / (1 + e)² with e = exp(-2 |x|), which cannot overflow.
    e = tl.exp(-2.0 * tl.abs(x))
    tanh = tl.where(x < 0, e - 1.0, 1.0 - e) / (1.0 + e)
    return tanh, 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _logits(scores, columns, inside, above, below):
    # tanh(score / cap), 1 - tanh², score / cap and the cap, of one block of a row.
    x = tl.load(scores + columns, mask=inside, other=0.0).to(tl.float32)
    cap = tl.where(x > 0, above, below)
    over_cap = x / cap
    tanh, slope = _tanh_parts(over_cap)
    return tanh, slope, over_cap, cap


@triton.jit
def _softcap_row_kernel(
    scores,
    targets,
    losses,
    caps,
    caps_gradients,
    stride,
    VOCABULARY: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
    WANTS_CAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of scores: its loss, and with WANTS_GRADIENT d loss / d score written over the scores.

    With WANTS_CAPS also its gradients of both caps.
    """
    row = tl.program_id(0).to(tl.int64)
    scores += row * stride
    target = tl.load(targets + row)
    above = tl.load(caps)
    below = tl.load(caps + 1)
    highest = -float("inf")
    total = 0.0
    wanted = 0.0
    for start in range(0, VOCABULARY, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < VOCABULARY
        tanh, _, _, cap = _logits(scores, columns, inside, above, below)
        logits = tl.where(inside, cap * tanh, -float("inf"))
        wanted += tl.sum(tl.where(columns == target, logits, 0.0), axis=0)
        higher = tl.maximum(highest, tl.max(logits, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher), axis=0)
        highest = higher
    normaliser = highest + tl.log(total)
    tl.store(losses + row, normaliser - wanted)
    if WANTS_GRADIENT:
        grad_above = 0.0
        grad_below = 0.0
        for start in range(0, VOCABULARY, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < VOCABULARY
            tanh, slope, over_cap, cap = _logits(scores, columns, inside, above, below)
            share = tl.exp(cap * tanh - normaliser)
            gradient = share - tl.where(columns == target, 1.0, 0.0)
            if WANTS_CAPS:
                # A score beyond the row is 0 here, where a logit does not depend on its cap.
                by_cap = gradient * (tanh - over_cap * slope)
                grad_above += tl.sum(tl.where(over_cap > 0, by_cap, 0.0), axis=0)
                grad_below += tl.sum(tl.where(over_cap > 0, 0.0, by_cap), axis=0)
            tl.store(scores + columns, (gradient * slope).to(scores.dtype.element_ty), mask=inside)
        if WANTS_CAPS:
            tl.store(caps_gradients + 2 * row, grad_above)
            tl.store(caps_gradients + 2 * row + 1, grad_below)


def _softcap_rows(
    scores_nV: Tensor, targets_n: Tensor, losses_n: Tensor, caps_2: Tensor, grad_caps_n2: Tensor, wants_gradient: bool
) -> None:
    """Fill `losses_n`, and with `wants_gradient` overwrite the scores with their gradients (not divided by N).

    `grad_caps_n2` gets each row's gradients of the caps, unless it is empty.
    """
    count, vocabulary = scores_nV.shape
    block = min(MAX_BLOCK, triton.next_power_of_2(vocabulary))
    _softcap_row_kernel[(count,)](
        scores_nV,
        targets_n,
        losses_n,
        caps_2,
        grad_caps_n2,
        scores_nV.stride(0),
        VOCABULARY=vocabulary,
        WANTS_GRADIENT=wants_gradient,
        WANTS_CAPS=len(grad_caps_n2) > 0,
        BLOCK=block,
        num_warps=8 if block >= 4096 else 4 if block >= 1024 else 1,
    )


@torch.library.custom_op("paramgolf::softcapped_loss", mutates_args=())
def _loss_and_gradients(
    h_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    caps_2: Tensor,
    wants_h: bool,
    wants_head: bool,
    wants_caps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean loss, N times its gradient of the states [N, D], of the head [V, D] and of the caps [2], both in float32.

    Unwanted ones are empty.
    """
    count, vocabulary = len(h_ND), len(head_VD)
    losses_N = torch.empty(count, dtype=torch.float32, device=h_ND.device)
    grad_h_ND = torch.empty_like(h_ND) if wants_h else h_ND.new_empty(0)
    grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wants_head else _nothing(h_ND)
    grad_caps_N2 = torch.empty(count if wants_caps else 0, 2, dtype=torch.float32, device=h_ND.device)
    piece = max(1, min(count, PIECE_BYTES // (vocabulary * h_ND.element_size())))
    buffer_nV = h_ND.new_empty(piece, vocabulary)
    for start in range(0, count, piece):
        h_nD = h_ND[start : start + piece]
        scores_nV = torch.mm(h_nD, head_VD.T, out=buffer_nV[: len(h_nD)])
        rows = slice(start, start + len(h_nD))
        wants_any = wants_h or wants_head or wants_caps
        _softcap_rows(scores_nV, targets_N[rows], losses_N[rows], caps_2, grad_caps_N2[rows], wants_any)
        if wants_h:
            torch.mm(scores_nV, head_VD, out=grad_h_ND[rows])
        if wants_head:
            grad_head_VD += scores_nV.T @ h_nD
    grad_caps_2 = grad_caps_N2.sum(dim=0) if wants_caps else _nothing(h_ND)
    return losses_N.mean(), grad_h_ND, grad_head_VD, grad_caps_2


def _nothing(h_ND: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=h_ND.device)


@_loss_and_gradients.register_fake
def _fake(
    h_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    caps_2: Tensor,
    wants_h: bool,
    wants_head: bool,
    wants_caps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = torch.empty((), dtype=torch.float32, device=h_ND.device)
    grad_h_ND = torch.empty_like(h_ND) if wants_h else h_ND.new_empty(0)
    grad_head_VD = torch.empty_like(head_VD, dtype=torch.float32) if wants_head else _nothing(h_ND)
    grad_caps_2 = torch.empty_like(caps_2) if wants_caps else _nothing(h_ND)
    return loss, grad_h_ND, grad_head_VD, grad_caps_2


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    h_ND, head_VD, _, _, ctx.wants_h, ctx.wants_head, ctx.wants_caps = inputs
    ctx.count, ctx.head_dtype = len(h_ND), head_VD.dtype
    ctx.save_for_backward(*output[1:])


def _backward(
    ctx: Any, grad_loss: Tensor, *_: Tensor
) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None, None, None]:
    grad_h_ND, grad_head_VD, grad_caps_2 = ctx.saved_tensors
    scale = grad_loss / ctx.count
    return (
        (grad_h_ND * scale).to(grad_h_ND.dtype) if ctx.wants_h else None,
        (grad_head_VD * scale).to(ctx.head_dtype) if ctx.wants_head else None,
        None,
        grad_caps_2 * scale if ctx.wants_caps else None,
        None,
        None,
        None,
    )


_loss_and_gradients.register_autograd(_backward, setup_context=_keep)
