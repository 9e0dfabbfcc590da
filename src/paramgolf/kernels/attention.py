"""Causal attention behind one call: the library's fused kernel, and the plain definition that it must agree with.

Legend: B batch, H query heads, G key/value heads, T positions, K channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """Softmax attention of every position to itself and to the earlier ones, scale `1/sqrt(K)`; returns [B, H, T, K].

    Query head h reads key/value head `h // (H // G)`; H must be a multiple of G. Any float dtype, CPU or GPU.
    """
    grouped = q_BHTK.shape[1] != k_BGTK.shape[1]
    return functional.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=grouped)


def plain_causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """The definition of `causal_attention`, with the whole matrix of scores in memory."""
    group = q_BHTK.shape[1] // k_BGTK.shape[1]
    k_BHTK = k_BGTK.repeat_interleave(group, dim=1)
    v_BHTK = v_BGTK.repeat_interleave(group, dim=1)
    scores_BHTT = q_BHTK @ k_BHTK.transpose(2, 3) / math.sqrt(q_BHTK.shape[3])
    length = q_BHTK.shape[2]
    future_TT = torch.ones(length, length, dtype=torch.bool, device=q_BHTK.device).triu(1)
    return scores_BHTT.masked_fill(future_TT, -math.inf).softmax(dim=3) @ v_BHTK
