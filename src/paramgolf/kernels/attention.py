"""Causal attention behind one call: the fastest kernel that is here, and the plain definition that it must agree with.

Legend: B batch, H query heads, G key/value heads, T positions, n positions that ask, K channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HALF_PRECISION = (torch.bfloat16, torch.float16)
MAX_FLASH_HEAD = 256


def causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, positions_Bn: Tensor | None = None) -> Tensor:
    """Softmax attention of every position to itself and to the earlier ones, scale `1/sqrt(K)`; returns [B, H, T, K].

    Query head h reads key/value head `h // (H // G)`; H must be a multiple of G. Any float dtype, CPU or GPU. Views
    that were transposed from [B, T, H, K] are best: no backend copies them, and the result lies the same way.

    With `positions_Bn` the queries [B, H, n, K] are those of some positions of each row alone, in any order; keys and
    values are of all T.
    """
    grouped = q_BHTK.shape[1] != k_BGTK.shape[1]
    if positions_Bn is not None:
        past_B1nT = torch.arange(k_BGTK.shape[2], device=q_BHTK.device) <= positions_Bn[:, None, :, None]
        return functional.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, attn_mask=past_B1nT, enable_gqa=grouped)
    if attention_backend(q_BHTK.device, q_BHTK.dtype, q_BHTK.shape[3]) == "flash-attention-3":
        from paramgolf.kernels import flash3

        q_BTHK, k_BTGK, v_BTGK = q_BHTK.transpose(1, 2), k_BGTK.transpose(1, 2), v_BGTK.transpose(1, 2)
        return flash3.causal(q_BTHK, k_BTGK, v_BTGK).transpose(1, 2)
    return functional.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=grouped)


def attention_backend(device: torch.device, dtype: torch.dtype, head_size: int = 64) -> str:
    """Which kernel `causal_attention` takes: "flash-attention-3" or "sdpa" (torch chooses among its own)."""
    if device.type == "cuda" and flash_takes(dtype, head_size):
        from paramgolf.kernels import flash3  # it imports torch's compiler, 3 s that a CPU need not spend

        if flash3.usable(device):
            return "flash-attention-3"
    return "sdpa"


def flash_takes(dtype: torch.dtype, head_size: int) -> bool:
    """Whether the flash kernels handle this dtype and head."""
    return dtype in HALF_PRECISION and head_size % 8 == 0 and head_size <= MAX_FLASH_HEAD


def plain_causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """The definition of `causal_attention`, with the whole matrix of scores in memory."""
    group = q_BHTK.shape[1] // k_BGTK.shape[1]
    k_BHTK = k_BGTK.repeat_interleave(group, dim=1)
    v_BHTK = v_BGTK.repeat_interleave(group, dim=1)
    scores_BHTT = q_BHTK @ k_BHTK.transpose(2, 3) / math.sqrt(q_BHTK.shape[3])
    length = q_BHTK.shape[2]
    future_TT = torch.ones(length, length, dtype=torch.bool, device=q_BHTK.device).triu(1)
    return scores_BHTT.masked_fill(future_TT, -math.inf).softmax(dim=3) @ v_BHTK
