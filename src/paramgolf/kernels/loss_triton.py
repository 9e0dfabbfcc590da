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

# Scores of a piece: they stay in the second-level cache of a large GPU between the kernel and the products.
PIECE_BYTES = 1 << 24
MAX_BLOCK = 4096
DTYPES = (torch.bfloat16, torch.float32)


def fused_softcapped_loss(h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
    """`softcapped_loss` for states and head of one dtype, bfloat16 or float32; a float32 scalar, differentiable once.

    Targets (int64) must lie in 0..V-1: they are not checked. One operator to a compiler, with gradients computed in
    the forward pass and only if somebody wants them.
    """
    learns = torch.is_grad_enabled()
    loss: Tensor
    loss, _, _ = _loss_and_gradients(
        h_ND, head_VD, targets_N, softcap, learns and h_ND.requires_grad, learns and head_VD.requires_grad
    )
    return loss


@triton.jit
def _tanh_parts(x):
    # tanh(x) = ±(1 - e) / (1 + e) and 1 - tanh² = 4 e / (1 + e)² with e = exp(-2 |x|), which cannot overflow.
    e = tl.exp(-2.0 * tl.abs(x))
    tanh = tl.where(x < 0, e - 1.0, 1.0 - e) / (1.0 + e)
    return tanh, 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _softcap_row_kernel(
    scores,
    targets,
    losses,
    stride,
    softcap,
    VOCABULARY: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of scores: its loss, and with WANTS_GRADIENT d loss / d score written over the scores."""
    row = tl.program_id(0).to(tl.int64)
    scores += row * stride
    target = tl.load(targets + row)
    highest = -float("inf")
    total = 0.0
    wanted = 0.0
    for start in range(0, VOCABULARY, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < VOCABULARY
        tanh, _ = _tanh_parts(tl.load(scores + columns, mask=inside, other=0.0).to(tl.float32) / softcap)
        logits = tl.where(inside, softcap * tanh, -float("inf"))
        wanted += tl.sum(tl.where(columns == target, logits, 0.0), axis=0)
        higher = tl.maximum(highest, tl.max(logits, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher), axis=0)
        highest = higher
    normaliser = highest + tl.log(total)
    tl.store(losses + row, normaliser - wanted)
    if WANTS_GRADIENT:
        for start in range(0, VOCABULARY, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < VOCABULARY
            tanh, slope = _tanh_parts(tl.load(scores + columns, mask=inside, other=0.0).to(tl.float32) / softcap)
            share = tl.exp(softcap * tanh - normaliser)
            gradient = (share - tl.where(columns == target, 1.0, 0.0)) * slope
            tl.store(scores + columns, gradient.to(scores.dtype.element_ty), mask=inside)


def _softcap_rows(scores_nV: Tensor, targets_n: Tensor, losses_n: Tensor, softcap: float, wants_gradient: bool) -> None:
    """Fill `losses_n`, and with `wants_gradient` overwrite the scores with their gradients (not divided by N)."""
    count, vocabulary = scores_nV.shape
    block = min(MAX_BLOCK, triton.next_power_of_2(vocabulary))
    _softcap_row_kernel[(count,)](
        scores_nV,
        targets_n,
        losses_n,
        scores_nV.stride(0),
        softcap,
        VOCABULARY=vocabulary,
        WANTS_GRADIENT=wants_gradient,
        BLOCK=block,
        num_warps=8 if block >= 4096 else 4 if block >= 1024 else 1,
    )


@torch.library.custom_op("paramgolf::softcapped_loss", mutates_args=())
def _loss_and_gradients(
    h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float, wants_h: bool, wants_head: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss, N times its gradient of the states [N, D], and of the head [V, D] in float32; unwanted ones empty."""
    count, vocabulary = len(h_ND), len(head_VD)
    losses_N = torch.empty(count, dtype=torch.float32, device=h_ND.device)
    grad_h_ND = torch.empty_like(h_ND) if wants_h else h_ND.new_empty(0)
    grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wants_head else _nothing(h_ND)
    piece = max(1, min(count, PIECE_BYTES // (vocabulary * h_ND.element_size())))
    buffer_nV = h_ND.new_empty(piece, vocabulary)
    for start in range(0, count, piece):
        h_nD = h_ND[start : start + piece]
        scores_nV = torch.mm(h_nD, head_VD.T, out=buffer_nV[: len(h_nD)])
        stop = start + len(h_nD)
        _softcap_rows(scores_nV, targets_N[start:stop], losses_N[start:stop], softcap, wants_h or wants_head)
        if wants_h:
            torch.mm(scores_nV, head_VD, out=grad_h_ND[start:stop])
        if wants_head:
            grad_head_VD += scores_nV.T @ h_nD
    return losses_N.mean(), grad_h_ND, grad_head_VD


def _nothing(h_ND: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=h_ND.device)


@_loss_and_gradients.register_fake
def _fake(
    h_ND: Tensor, head_VD: Tensor, targets_N: Tensor, softcap: float, wants_h: bool, wants_head: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss = torch.empty((), dtype=torch.float32, device=h_ND.device)
    grad_h_ND = torch.empty_like(h_ND) if wants_h else h_ND.new_empty(0)
    grad_head_VD = torch.empty_like(head_VD, dtype=torch.float32) if wants_head else _nothing(h_ND)
    return loss, grad_h_ND, grad_head_VD


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    h_ND, head_VD, _, _, ctx.wants_h, ctx.wants_head = inputs
    ctx.count, ctx.head_dtype = len(h_ND), head_VD.dtype
    ctx.save_for_backward(output[1], output[2])


def _backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    grad_h_ND, grad_head_VD = ctx.saved_tensors
    scale = grad_loss / ctx.count
    return (
        (grad_h_ND * scale).to(grad_h_ND.dtype) if ctx.wants_h else None,
        (grad_head_VD * scale).to(ctx.head_dtype) if ctx.wants_head else None,
        None,
        None,
        None,
        None,
    )


_loss_and_gradients.register_autograd(_backward, setup_context=_keep)
