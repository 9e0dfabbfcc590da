"""Causal attention within documents that are laid end to end, behind one call.

Legend: H query heads, G key/value heads, K channels of a head, N positions of all documents, S documents,
E = S + 1 ends of documents, the first 0.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.attention import attention_backend, causal_attention, flash_takes

HAS_TORCH_VARLEN = importlib.util.find_spec("torch.nn.attention.varlen") is not None


class Documents(NamedTuple):
    """Where the documents of one packed row lie: their lengths from first to last, and a bound on all of them.

    `lengths_S` (int32 or int64, on the device of the tokens) sums to the length of the row; lengths of 0 are allowed.
    `longest` is a number, not a tensor: a bound that stays the same keeps a compiled graph.
    """

    lengths_S: Tensor
    longest: int


def varlen_attention(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, lengths_S: Tensor, longest: int = 0) -> Tensor:
    """Attention of every position to itself and the earlier ones of its document, scale `1/sqrt(K)`; [N, H, K].

    `lengths_S` (int32 or int64, on the device of the rest) must sum to N; lengths of 0 are allowed, so that a fixed
    number of documents keeps one shape. No length may exceed `longest` (0: N); a tight bound saves empty work on a GPU.
    Grouped heads as in `causal_attention`. Lengths are not checked: reading them would make a GPU wait.
    """
    ends_E = functional.pad(lengths_S.cumsum(0), (1, 0)).to(torch.int32)
    longest = longest or len(q_NHK)
    backend = varlen_backend(q_NHK.device, q_NHK.dtype, q_NHK.shape[2])
    if backend == "flash-attention-3":
        from paramgolf.kernels import flash3

        return flash3.causal_packed(q_NHK, k_NGK, v_NGK, ends_E, longest)
    if backend == "torch-varlen":
        from paramgolf.kernels import torch_varlen

        return torch_varlen.causal_packed(q_NHK, k_NGK, v_NGK, ends_E, longest)
    if backend == "by-length" and not torch.compiler.is_compiling():  # a graph cannot depend on lengths
        return by_length_varlen_attention(q_NHK, k_NGK, v_NGK, lengths_S)
    return masked_varlen_attention(q_NHK, k_NGK, v_NGK, ends_E)


def varlen_backend(device: torch.device, dtype: torch.dtype, head_size: int = 64) -> str:
    """Which kernel `varlen_attention` takes: "flash-attention-3", "torch-varlen", on a CPU "by-length", else "masked".

    The memory of the last grows with N².
    """
    if attention_backend(device, dtype, head_size) == "flash-attention-3":
        return "flash-attention-3"
    if device.type == "cpu":
        return "by-length"
    if device.type == "cuda" and flash_takes(dtype, head_size) and HAS_TORCH_VARLEN:
        from paramgolf.kernels import torch_varlen

        if torch_varlen.usable(device):
            return "torch-varlen"
    return "masked"


def by_length_varlen_attention(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, lengths_S: Tensor) -> Tensor:
    """`varlen_attention` of documents of one length at a time, as a batch: no work between documents.

    It reads the lengths, which a CPU need not wait for.
    """
    lengths = lengths_S.tolist()
    parts = [torch.split(x, lengths) for x in (q_NHK, k_NGK, v_NGK)]
    read: list[Tensor] = [q_NHK[:0]] * len(lengths)
    for length in set(lengths) - {0}:
        same = [document for document, each in enumerate(lengths) if each == length]
        q, k, v = (torch.stack([part[document] for document in same]).transpose(1, 2) for part in parts)
        out = causal_attention(q, k, v).transpose(1, 2)
        for document, rows in zip(same, out.unbind(), strict=True):
            read[document] = rows
    return torch.cat(read)


def masked_varlen_attention(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, ends_E: Tensor) -> Tensor:
    """`varlen_attention` by one mask over all pairs of positions, for any device and dtype."""
    position_N = torch.arange(len(q_NHK), device=q_NHK.device)
    document_N = torch.searchsorted(ends_E[1:].to(torch.int64), position_N, right=True)
    seen_NN = (document_N[:, None] == document_N) & (position_N[:, None] >= position_N)
    q_1HNK, k_1GNK, v_1GNK = (x.transpose(0, 1)[None] for x in (q_NHK, k_NGK, v_NGK))
    grouped = q_NHK.shape[1] != k_NGK.shape[1]
    out_1HNK = functional.scaled_dot_product_attention(q_1HNK, k_1GNK, v_1GNK, attn_mask=seen_NN, enable_gqa=grouped)
    return out_1HNK[0].transpose(0, 1)
