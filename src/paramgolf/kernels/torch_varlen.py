"""Torch's own flash attention over documents laid end to end (torch >= 2.10, GPUs since Ampere).

Its arguments grew with the releases; those that are used are looked for. Legend: see varlen.py.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

ARGUMENTS = frozenset(inspect.signature(varlen_attn).parameters)
AMPERE = 8


@torch.compiler.assume_constant_result
def usable(device: torch.device) -> bool:
    """Whether this torch and this GPU have it, in its causal form."""
    return "window_size" in ARGUMENTS and torch.cuda.get_device_capability(device)[0] >= AMPERE


def causal_packed(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, ends_E: Tensor, longest: int) -> Tensor:
    """`varlen_attention` of half-precision tensors on a GPU; differentiable once."""
    group = q_NHK.shape[1] // k_NGK.shape[1]
    causal = (-1, 0)
    if "enable_gqa" in ARGUMENTS:
        out = varlen_attn(
            q_NHK, k_NGK, v_NGK, ends_E, ends_E, longest, longest, window_size=causal, enable_gqa=group > 1
        )
    else:
        k_NHK, v_NHK = k_NGK.repeat_interleave(group, dim=1), v_NGK.repeat_interleave(group, dim=1)
        out = varlen_attn(q_NHK, k_NHK, v_NHK, ends_E, ends_E, longest, longest, window_size=causal)
    assert isinstance(out, Tensor)  # a pair only where auxiliary results are asked for
    return out
