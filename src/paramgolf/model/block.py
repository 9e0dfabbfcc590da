"""One block of the transformer: attention and MLP, each added to the residual stream.

Legend: B batch, T positions, D model width, H query heads, G key/value heads, K channels of a head, C = G K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.relu_squared import relu_squared
from paramgolf.model.banks import LayerMatrices
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe

VALUE_EPS = 1e-12


class Attention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys, rotary positions, and a gain for each head."""

    def __init__(self, recipe: ModelRecipe, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = recipe.heads, recipe.kv_heads, recipe.head_size()
        self.excludes_own_value = layer in recipe.xsa_layers
        self.query_gain = nn.Parameter(torch.empty(recipe.heads))

    def forward(self, x_BTD: Tensor, matrices: LayerMatrices, rotary: Rotary, extra_BTC: Tensor | None) -> Tensor:
        batch, length, width = x_BTD.shape
        heads, groups, size = self.heads, self.kv_heads, self.head_size
        q_BTHK = rms_norm(functional.linear(x_BTD, matrices.query).view(batch, length, heads, size))
        k_BTGK = rms_norm(functional.linear(x_BTD, matrices.key).view(batch, length, groups, size))
        v_BTC = functional.linear(x_BTD, matrices.value)
        v_BTGK = (v_BTC if extra_BTC is None else v_BTC + extra_BTC).view(batch, length, groups, size)
        q_BTHK = rotary(q_BTHK) * self.query_gain.to(q_BTHK.dtype)[:, None]
        read_BHTK = causal_attention(q_BTHK.transpose(1, 2), rotary(k_BTGK).transpose(1, 2), v_BTGK.transpose(1, 2))
        read_BTHK = read_BHTK.transpose(1, 2)
        if self.excludes_own_value:
            read_BTHK = exclude_own_value(read_BTHK, v_BTGK)
        return functional.linear(read_BTHK.reshape(batch, length, width), matrices.output)


def exclude_own_value(read_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """What each head read, without its part along the position's own value vector (XSA, spec pr549.md 2.6).

    At least float32 inside, as published; returns the dtype of `read_BTHK`.
    """
    dtype = torch.promote_types(read_BTHK.dtype, torch.float32)
    batch, length, heads, size = read_BTHK.shape
    groups = v_BTGK.shape[2]
    read_BTGNK = read_BTHK.reshape(batch, length, groups, heads // groups, size).to(dtype)
    own_BTG1K = functional.normalize(v_BTGK.to(dtype), dim=-1, eps=VALUE_EPS)[:, :, :, None]
    along_BTGN1 = (read_BTGNK * own_BTG1K).sum(dim=-1, keepdim=True)
    return (read_BTGNK - along_BTGN1 * own_BTG1K).reshape(read_BTHK.shape).to(read_BTHK.dtype)


class Block(nn.Module):
    """Attention and MLP of one layer; what `recipe` switches off has no parameter (spec pr549.md 2.8)."""

    residual_mix: nn.Parameter | None
    attention_scale: nn.Parameter | None
    mlp_scale: nn.Parameter | None
    value_scale: nn.Parameter | None

    def __init__(self, recipe: ModelRecipe, layer: int) -> None:
        super().__init__()
        width = recipe.width
        self.attention = Attention(recipe, layer)
        self.slope = recipe.mlp_slope
        self.depth_scale = (layer + 1) ** -0.5 if recipe.depth_scale else 1.0
        self.residual_mix = nn.Parameter(torch.empty(2, width)) if recipe.residual_mix else None
        self.attention_scale = nn.Parameter(torch.empty(width)) if recipe.block_scales else None
        self.mlp_scale = nn.Parameter(torch.empty(width)) if recipe.block_scales else None
        self.value_scale = nn.Parameter(torch.empty(1)) if layer in recipe.value_layers else None

    def forward(
        self, h_BTD: Tensor, first_BTD: Tensor, matrices: LayerMatrices, rotary: Rotary, value_BTC: Tensor | None
    ) -> Tensor:
        """The residual stream after this block; `first_BTD` is the stream before any, `value_BTC` by token."""
        if self.residual_mix is not None:
            mix_2D = self.residual_mix.to(h_BTD.dtype)
            h_BTD = mix_2D[0] * h_BTD + mix_2D[1] * first_BTD
        extra_BTC = None
        if self.value_scale is not None and value_BTC is not None:
            extra_BTC = value_BTC * self.value_scale.to(value_BTC.dtype)
        read_BTD = self.attention(self._input(h_BTD), matrices, rotary, extra_BTC)
        h_BTD = h_BTD + _scaled(read_BTD, self.attention_scale)
        up_BTM = functional.linear(self._input(h_BTD), matrices.up)
        thought_BTD = functional.linear(relu_squared(up_BTM, self.slope), matrices.down)
        return h_BTD + _scaled(thought_BTD, self.mlp_scale)

    def _input(self, h_BTD: Tensor) -> Tensor:
        x_BTD = rms_norm(h_BTD)
        return x_BTD if self.depth_scale == 1.0 else x_BTD * self.depth_scale


def _scaled(x_BTD: Tensor, scale_D: Tensor | None) -> Tensor:
    return x_BTD if scale_D is None else x_BTD * scale_D.to(x_BTD.dtype)
