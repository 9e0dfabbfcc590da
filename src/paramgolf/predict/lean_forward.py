"""A GPT on a CPU without gradients: the mathematics of `model.gpt` with fewer passes over memory.

Legend: F frames, T positions, N = F x T, D width, M channels of the MLP, H query heads, G key/value heads, K channels
of a head, C = (H + G) K, V vocabulary.

It works in place, reads queries and keys from one product, adds a product to the residual stream where it is made, and
turns a channel pair as one complex number. Off the CPU, or in another precision than float32, the model itself runs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.norm import RMS_EPS
from paramgolf.model.gpt import GPT, Attention, Block


def lean_hidden(model: GPT, tokens_FT: Tensor) -> Tensor:
    """States [F, T, D] after the last norm, to float noise those of `model.hidden`; call it without gradients."""
    if not _on_cpu(model):
        return model.hidden(tokens_FT)
    frames, length = tokens_FT.shape
    h_ND = functional.embedding(tokens_FT.reshape(-1), model.embedding.weight)
    _normalise(h_ND, h_ND)
    x_ND = torch.empty_like(h_ND)
    for block in model.blocks:
        assert isinstance(block, Block)
        _normalise(h_ND, x_ND)
        h_ND.addmm_(_attention(block.attention, model, x_ND, frames), block.attention.output.weight.T)
        _normalise(h_ND, x_ND)
        up_NM = torch.mm(x_ND, block.mlp.up.weight.T).relu_()
        h_ND.addmm_(up_NM.mul_(up_NM), block.mlp.down.weight.T)
    _normalise(h_ND, h_ND)
    return h_ND.view(frames, length, -1)


def lean_logits(model: GPT, h_ND: Tensor) -> Tensor:
    """Logits [N, V], to float noise those of `model.logits`; call it without gradients."""
    if not _on_cpu(model):
        return model.logits(h_ND)
    return torch.mm(h_ND, model.embedding.weight.T).div_(model.recipe.softcap).tanh_().mul_(model.recipe.softcap)


def _on_cpu(model: GPT) -> bool:
    weight = model.embedding.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _attention(part: Attention, model: GPT, x_ND: Tensor, frames: int) -> Tensor:
    """What the heads read [N, H K]."""
    heads, groups, size = part.heads, part.kv_heads, part.head_size
    weight_CD = torch.cat([part.query.weight, part.key.weight])
    # Rows j and j + K/2 of a head side by side: a pair is a complex number then, and q·k is the same sum.
    paired_CD = weight_CD.view(heads + groups, 2, size // 2, -1).transpose(1, 2).reshape(weight_CD.shape)
    qk_NC = torch.mm(x_ND, paired_CD.T)
    v_FTGK = torch.mm(x_ND, part.value.weight.T).view(frames, -1, groups, size)
    qk_NHK = qk_NC.view(-1, heads + groups, size)
    inverse = torch.linalg.vector_norm(qk_NHK, dim=2, keepdim=True).square_().div_(size).add_(RMS_EPS).rsqrt_()
    qk_NHK.mul_(inverse)
    length = len(x_ND) // frames
    torch.view_as_complex(qk_NC.view(frames, length, -1, 2)).mul_(_turns(part, model, length))
    qk_FHTK = qk_NC.view(frames, length, heads + groups, size).transpose(1, 2)
    read_FHTK = causal_attention(qk_FHTK[:, :heads], qk_FHTK[:, heads:], v_FTGK.transpose(1, 2))
    return read_FHTK.transpose(1, 2).reshape(len(x_ND), heads * size)


def _turns(part: Attention, model: GPT, length: int) -> Tensor:
    """For all heads side by side, the complex number [T, C/2] that turns a pair, times the gain of a query head."""
    rotary, half = model.rotary, part.head_size // 2
    if rotary.cos_TK.shape[0] < length:
        rotary(torch.empty(1, length, 1, part.head_size))
    gain_H1 = torch.cat([part.query_gain, torch.ones(part.kv_heads)])[:, None]
    turn_TK = torch.complex(rotary.cos_TK[:length, :half], -rotary.sin_TK[:length, :half])
    return (turn_TK[:, None] * gain_H1).flatten(1)


def _normalise(x_ND: Tensor, out_ND: Tensor) -> None:
    """`out` = x / sqrt(mean(x^2) + 1e-6); `out` may be `x`."""
    inverse_N1 = (
        torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).square_().div_(x_ND.shape[1]).add_(RMS_EPS).rsqrt_()
    )
    torch.mul(x_ND, inverse_N1, out=out_ND)
