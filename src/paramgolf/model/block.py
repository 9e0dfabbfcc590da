"""One block of the transformer: attention and MLP, each added to the residual stream.

`Block.forward` runs the two one after the other; `lanes.py` runs them side by side. Sources of the parts: spec
pr549.md 2.6 to 2.8, spec pr1185.md 2.1 to 2.3 and 2.8, spec pr2140.md 2.3 and 5.2.

Legend: B batch, T positions, n of them that are wanted, D model width, H query heads, G key/value heads, K channels of
a head, C = G K, M channels of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.own_value import exclude_own_value
from paramgolf.kernels.relu_squared import relu_squared
from paramgolf.kernels.turned_norm import turned_norm
from paramgolf.kernels.varlen import Documents, varlen_attention
from paramgolf.model.adapters import Adapters
from paramgolf.model.banks import LayerMatrices
from paramgolf.model.gates import Affine, SparseGate, opening
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe


@dataclass
class Carried:
    """What the blocks of one forward pass share, and what they leave for later ones."""

    start_BTD: Tensor  # the stream before any block
    token_value_BTC: Tensor | None  # the value embedding of each token
    documents: Documents | None = None  # of a packed row
    adapters: Adapters | None = None
    visit: int = 0  # of the route, the one under way
    wanted_Bn: Tensor | None = None  # the positions that this visit is asked for; None: all
    first_value_BTC: Tensor | None = None  # of the first block, once it ran, with its value embedding
    scores_BT1: list[Tensor] = field(default_factory=list)  # of the routers so far

    def wanted(self, x_BTF: Tensor) -> Tensor:
        """The positions of a stream that this visit is asked for [B, n, F]."""
        return at_positions(x_BTF, self.wanted_Bn)

    def adapted(self, y_BTF: Tensor, kind: str, x_BTD: Tensor) -> Tensor:
        """`y_BTF`, which the layer's own matrix made, and what an adapter of this visit adds to it from `x_BTD`."""
        delta_BTF = None if self.adapters is None else self.adapters.delta(kind, self.visit, x_BTD)
        return y_BTF if delta_BTF is None else y_BTF + delta_BTF


def at_positions(x_BTF: Tensor, positions_Bn: Tensor | None) -> Tensor:
    """Some positions of each row [B, n, F]; all of them for None."""
    return x_BTF if positions_Bn is None else x_BTF.gather(1, positions_Bn[:, :, None].expand(-1, -1, x_BTF.shape[2]))


class Attention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys, rotary positions, and a gain for each head."""

    def __init__(self, recipe: ModelRecipe, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = recipe.heads, recipe.kv_heads, recipe.head_size()
        self.excludes_own_value = layer in recipe.xsa_layers
        self.query_gain = nn.Parameter(torch.empty(recipe.heads))

    def forward(
        self,
        q_BnD: Tensor,
        k_BTC: Tensor,
        v_BTC: Tensor,
        gate_BnH: Tensor | None,
        rotary: Rotary,
        documents: Documents | None = None,
        wanted_Bn: Tensor | None = None,
    ) -> Tensor:
        """What heads read for the wanted positions [B, n, D], of their own document alone; times each head's gate."""
        batch, length, _ = k_BTC.shape
        heads, groups, size = self.heads, self.kv_heads, self.head_size
        q_BnHK, k_BTGK = q_BnD.view(batch, -1, heads, size), k_BTC.view(batch, length, groups, size)
        context = 0 if documents is None else documents.longest
        k_angles = rotary.angles(length, k_BTC.dtype, context)
        q_angles = k_angles if wanted_Bn is None else rotary.angles(length, q_BnD.dtype, context, wanted_Bn)
        q_BnHK = turned_norm(q_BnHK, *q_angles) * self.query_gain.to(q_BnHK.dtype)[:, None]
        k_BTGK = turned_norm(k_BTGK, *k_angles)
        read_BnHK = _read(q_BnHK, k_BTGK, v_BTC.view_as(k_BTGK), documents, wanted_Bn)
        if self.excludes_own_value:
            read_BnHK = exclude_own_value(read_BnHK, at_positions(v_BTC, wanted_Bn).view(batch, -1, groups, size))
        if gate_BnH is not None:
            read_BnHK = read_BnHK * gate_BnH[..., None]
        return read_BnHK.reshape(q_BnD.shape)


def _read(
    q_BnHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents | None, wanted_Bn: Tensor | None
) -> Tensor:
    if documents is None:
        q_BHnK, k_BGTK, v_BGTK = q_BnHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
        return causal_attention(q_BHnK, k_BGTK, v_BGTK, wanted_Bn).transpose(1, 2)
    if len(q_BnHK) != 1 or wanted_Bn is not None:
        raise ValueError(f"packed documents lie in one row, all of it wanted; found {len(q_BnHK)} rows")
    return varlen_attention(q_BnHK[0], k_BTGK[0], v_BTGK[0], documents.lengths_S, documents.longest)[None]


class Block(nn.Module):
    """Attention and MLP of one layer; what `recipe` switches off has no parameter."""

    residual_mix: nn.Parameter | None
    attention_scale: nn.Parameter | None
    mlp_scale: nn.Parameter | None
    value_scale: nn.Parameter | None
    value_mix: nn.Parameter | None

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
        self.value_mix = nn.Parameter(torch.empty(2)) if recipe.value_residual else None
        self.head_gate = Affine(recipe.heads, width) if recipe.gated_attention else None
        self.sparse_gate = (
            SparseGate(recipe.heads, recipe.gate_channels, recipe.gate_scale) if recipe.sparse_gates else None
        )
        self.router = Affine(1, width) if layer in recipe.routed_layers else None

    def forward(self, h_BTD: Tensor, carried: Carried, matrices: LayerMatrices, rotary: Rotary) -> Tensor:
        """The wanted positions of the residual stream [B, n, D] after this block.

        Adds to `carried` what later blocks and the loss need.
        """
        h_BTD = self.mixed(h_BTD, carried)
        h_BnD = carried.wanted(h_BTD) + self.attend(h_BTD, carried, matrices, rotary)
        return h_BnD + self.think(h_BnD, carried, matrices)

    def mixed(self, h_BTD: Tensor, carried: Carried) -> Tensor:
        """The stream with the learnt share of the one before any block."""
        if self.residual_mix is None:
            return h_BTD
        mix_2D = self.residual_mix.to(h_BTD.dtype)
        return torch.addcmul(mix_2D[1] * carried.start_BTD, mix_2D[0], h_BTD)

    def attend(self, h_BTD: Tensor, carried: Carried, matrices: LayerMatrices, rotary: Rotary) -> Tensor:
        """What attention adds to the wanted positions of the stream [B, n, D]; it reads all of them."""
        x_BTD = rms_norm(h_BTD, self.depth_scale)
        x_BnD = carried.wanted(x_BTD)
        q_BnD = carried.adapted(functional.linear(x_BnD, matrices.query), "query", x_BnD)
        k_BTC = carried.adapted(functional.linear(x_BTD, matrices.key), "key", x_BTD)
        v_BTC = self._values(x_BTD, matrices.value, carried)
        read_BnD = self.attention(q_BnD, k_BTC, v_BTC, self._gate(x_BnD), rotary, carried.documents, carried.wanted_Bn)
        # The adapter reads what enters the block, not what the heads read: published (spec pr2140.md 5.2).
        return _scaled(
            carried.adapted(functional.linear(read_BnD, matrices.output), "output", x_BnD), self.attention_scale
        )

    def think(self, h_BTD: Tensor, carried: Carried, matrices: LayerMatrices) -> Tensor:
        """What the MLP adds to the positions of the stream that it is given."""
        x_BTD = rms_norm(h_BTD, self.depth_scale)
        thought_BTD = carried.adapted(mlp(x_BTD, matrices, self.slope), "mlp", x_BTD)
        if self.router is not None:
            # Dense here: shapes that depend on the data would break the compiled graph of training.
            score_BT1 = self.router(x_BTD)
            carried.scores_BT1.append(score_BT1)
            thought_BTD = thought_BTD * opening(score_BT1)
        return _scaled(thought_BTD, self.mlp_scale)

    def _gate(self, x_BTD: Tensor) -> Tensor | None:
        gate = self.head_gate or self.sparse_gate
        return None if gate is None else torch.sigmoid(gate(x_BTD))

    def _values(self, x_BTD: Tensor, value_CD: Tensor, carried: Carried) -> Tensor:
        v_BTC = carried.adapted(functional.linear(x_BTD, value_CD), "value", x_BTD)
        if self.value_scale is not None and carried.token_value_BTC is not None:
            v_BTC = v_BTC + carried.token_value_BTC * self.value_scale.to(v_BTC.dtype)
        if self.value_mix is None:
            return v_BTC
        if carried.first_value_BTC is None:
            carried.first_value_BTC = v_BTC
        return mix_values(v_BTC, carried.first_value_BTC, self.value_mix.to(v_BTC.dtype))


def mix_values(own: Tensor, first: Tensor, mix_2: Tensor) -> Tensor:
    """A layer's values with those of the first layer (value residual, spec pr1185.md 2.2).

    The first layer mixes its values with themselves, which is a gain: published, its pair is there and unused, and what
    the model can express is the same, for its value matrix can hold the gain.
    """
    return mix_2[0] * first + mix_2[1] * own


def mlp(x_BTD: Tensor, matrices: LayerMatrices, slope: float) -> Tensor:
    """What the squared activation makes of [B, T, D]; with a gate matrix times its sigmoid (SquareGLU)."""
    hidden_BTM = relu_squared(functional.linear(x_BTD, matrices.up), slope)
    if matrices.gate is not None:
        hidden_BTM = hidden_BTM * torch.sigmoid(functional.linear(x_BTD, matrices.gate))
    return functional.linear(hidden_BTM, matrices.down)


def _scaled(x_BTD: Tensor, scale_D: Tensor | None) -> Tensor:
    return x_BTD if scale_D is None else x_BTD * scale_D.to(x_BTD.dtype)
