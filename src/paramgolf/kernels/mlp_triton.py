"""The MLP of the squared leaky ReLU for a GPU, in Triton: what follows a product is done before it leaves the chip.

    forward    pre = x upᵀ, act = leaky(pre)²               one kernel, two results
               out = act downᵀ
    backward   d pre = (d out down) * leaky²'(pre)          one kernel

The activation comes from `pre` as it is stored (rounded to the dtype of x), so that both passes and the plain path see
the same numbers; sums are float32. The other products are torch's. Source: spec pr2140.md 2.3.

Legend: N positions, D model width, M channels of the MLP; in the kernels O = A B, of R rows, C columns and depth K.
"""

# Triton reads a kernel's annotations itself and knows only its own.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, columns and depth of a tile, warps, stages: fits the shared memory of a Hopper GPU in bfloat16.
TILE = (128, 128, 64)
WARPS, STAGES = 8, 3
GROUP = 8  # tiles of rows that share columns of B while these are in the second-level cache


def fused_mlp(x_ND: Tensor, up_MD: Tensor, down_DM: Tensor, slope: float) -> Tensor:
    """`leaky(x upᵀ)² downᵀ` [N, D] of tensors of one dtype, 16 or 32 bits; differentiable once.

    One operator to a compiler. Keeps two tensors [N, M] for the backward pass, as the plain path does. Whether it is
    faster than the plain path compiled is for `bench/train_step_gpu.py` to say.
    """
    out: Tensor
    out, _, _ = _forward(x_ND.contiguous(), up_MD.contiguous(), down_DM.contiguous(), slope)
    return out


@triton.jit
def _product_kernel(
    a,
    b,
    pre,
    out,
    rows,
    columns,
    depth,
    b_depth_stride,
    b_column_stride,
    slope,
    BACKWARD: tl.constexpr,
    PRECISION: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    G: tl.constexpr,
):
    """A tile of A B: forward `pre` and its activation `out`, BACKWARD the product times the slope at `pre` as `out`."""
    tile = tl.program_id(0)
    row_tiles, column_tiles = tl.cdiv(rows, R), tl.cdiv(columns, C)
    group = tile // (G * column_tiles)
    in_group = tl.minimum(row_tiles - group * G, G)
    row_tile = group * G + (tile % (G * column_tiles)) % in_group
    column_tile = (tile % (G * column_tiles)) // in_group
    r = row_tile * R + tl.arange(0, R)
    c = column_tile * C + tl.arange(0, C)
    k = tl.arange(0, K)
    has_r, has_c = r < rows, c < columns
    a_tile = a + r.to(tl.int64)[:, None] * depth + k[None, :]
    b_tile = b + k[:, None] * b_depth_stride + c[None, :] * b_column_stride
    total = tl.zeros((R, C), dtype=tl.float32)
    for start in range(0, depth, K):
        has_k = k < depth - start
        a_RK = tl.load(a_tile, mask=has_r[:, None] & has_k[None, :], other=0.0)
        b_KC = tl.load(b_tile, mask=has_k[:, None] & has_c[None, :], other=0.0)
        total = tl.dot(a_RK, b_KC, total, input_precision=PRECISION)
        a_tile += K
        b_tile += K * b_depth_stride
    inside = has_r[:, None] & has_c[None, :]
    place = r.to(tl.int64)[:, None] * columns + c[None, :]
    if BACKWARD:
        kept = tl.load(pre + place, mask=inside, other=0.0).to(tl.float32)
        # The product is rounded first, as a product of its own would be.
        total = total.to(out.dtype.element_ty).to(tl.float32)
        result = total * tl.where(kept > 0, 2.0 * kept, 2.0 * slope * slope * kept)
    else:
        rounded = total.to(pre.dtype.element_ty)
        tl.store(pre + place, rounded, mask=inside)
        kept = rounded.to(tl.float32)
        leaky = tl.where(kept > 0, kept, slope * kept)
        result = leaky * leaky
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


def _launch(a_RK: Tensor, b: Tensor, strides: tuple[int, int], pre_RC: Tensor, slope: float, backward: bool) -> Tensor:
    """The kernel over all tiles; `strides` of B along its depth and its columns. Returns `out` [R, C]."""
    out_RC = torch.empty_like(pre_RC)
    (rows, columns), depth = pre_RC.shape, a_RK.shape[1]
    grid = (triton.cdiv(rows, TILE[0]) * triton.cdiv(columns, TILE[1]),)
    _product_kernel[grid](
        a_RK,
        b,
        pre_RC,
        out_RC,
        rows,
        columns,
        depth,
        *strides,
        slope,
        BACKWARD=backward,
        PRECISION="ieee" if a_RK.dtype == torch.float32 else "tf32",
        R=TILE[0],
        C=TILE[1],
        K=TILE[2],
        G=GROUP,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return out_RC


@torch.library.custom_op("paramgolf::mlp", mutates_args=())
def _forward(x_ND: Tensor, up_MD: Tensor, down_DM: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result [N, D], and what the backward pass needs: pre-activation and activation [N, M]."""
    pre_NM = x_ND.new_empty(len(x_ND), len(up_MD))
    act_NM = _launch(x_ND, up_MD, (1, x_ND.shape[1]), pre_NM, slope, backward=False)
    return act_NM @ down_DM.T, pre_NM, act_NM


@_forward.register_fake
def _fake_forward(x_ND: Tensor, up_MD: Tensor, down_DM: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    pre_NM = x_ND.new_empty(len(x_ND), len(up_MD))
    return torch.empty_like(x_ND), pre_NM, torch.empty_like(pre_NM)


@torch.library.custom_op("paramgolf::mlp_gradient", mutates_args=())
def _gradient(grad_ND: Tensor, down_DM: Tensor, pre_NM: Tensor, slope: float) -> Tensor:
    """The gradient of the pre-activation [N, M]."""
    return _launch(grad_ND, down_DM, (down_DM.shape[1], 1), pre_NM, slope, backward=True)


@_gradient.register_fake
def _fake_gradient(grad_ND: Tensor, down_DM: Tensor, pre_NM: Tensor, slope: float) -> Tensor:
    return torch.empty_like(pre_NM)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x_ND, up_MD, down_DM, ctx.slope = inputs
    ctx.save_for_backward(x_ND, up_MD, down_DM, output[1], output[2])


def _backward(ctx: Any, grad_ND: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    x_ND, up_MD, down_DM, pre_NM, act_NM = ctx.saved_tensors
    wants_x, wants_up, wants_down, _ = ctx.needs_input_grad
    grad_ND = grad_ND.contiguous()
    grad_down_DM = grad_ND.T @ act_NM if wants_down else None
    if not (wants_x or wants_up):
        return None, None, grad_down_DM, None
    grad_pre_NM = _gradient(grad_ND, down_DM, pre_NM, ctx.slope)
    return (
        grad_pre_NM @ up_MD if wants_x else None,
        grad_pre_NM.T @ x_ND if wants_up else None,
        grad_down_DM,
        None,
    )


_forward.register_autograd(_backward, setup_context=_keep)
