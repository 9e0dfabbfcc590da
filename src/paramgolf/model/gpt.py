"""The plain modern GPT of `ModelRecipe`.

    h = rms(E[u]);  h += attention(rms(h));  h += mlp(rms(h));  ...;  logits = c tanh(rms(h) Eᵀ / c)

Legend: B batch, T positions, D model width, H query heads, G key/value heads, K channels of a head, V vocabulary.
All weights are (out, in), there are no biases, and the norms have no weights. Parameter names are what artifacts
store: `embedding.weight`, `blocks.{i}.attention.{query,key,value,output}.weight`,
`blocks.{i}.attention.query_gain`, `blocks.{i}.mlp.{up,down}.weight`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from paramgolf.kernels.attention import causal_attention
from paramgolf.kernels.loss import softcapped_logits, softcapped_loss
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.relu_squared import relu_squared
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe

QUERY_GAIN_INIT = 1.5
EMBEDDING_STD = 0.02


class Matrix(nn.Module):
    """A weight [out, in], applied to the last dimension; it holds no values until the model initialises it."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Attention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys, rotary positions, and a gain for each head."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = recipe.heads, recipe.kv_heads, recipe.head_size()
        self.query = Matrix(recipe.width, recipe.width)
        self.key = Matrix(recipe.kv_width(), recipe.width)
        self.value = Matrix(recipe.kv_width(), recipe.width)
        self.output = Matrix(recipe.width, recipe.width)
        self.query_gain = nn.Parameter(torch.empty(recipe.heads))

    def forward(self, x_BTD: Tensor, rotary: Rotary) -> Tensor:
        batch, length, width = x_BTD.shape
        q_BTHK = rms_norm(self.query(x_BTD).view(batch, length, self.heads, self.head_size))
        k_BTGK = rms_norm(self.key(x_BTD).view(batch, length, self.kv_heads, self.head_size))
        v_BTGK = self.value(x_BTD).view(batch, length, self.kv_heads, self.head_size)
        q_BTHK = rotary(q_BTHK) * self.query_gain.to(q_BTHK.dtype)[:, None]
        mixed_BHTK = causal_attention(q_BTHK.transpose(1, 2), rotary(k_BTGK).transpose(1, 2), v_BTGK.transpose(1, 2))
        mixed: Tensor = self.output(mixed_BHTK.transpose(1, 2).reshape(batch, length, width))
        return mixed


class MLP(nn.Module):
    """`relu(x Upᵀ)² Downᵀ`."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.up = Matrix(recipe.mlp_width(), recipe.width)
        self.down = Matrix(recipe.width, recipe.mlp_width())

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down(relu_squared(self.up(x_BTD)))
        return out


class Block(nn.Module):
    """One attention and one MLP, each added to the residual stream."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.attention = Attention(recipe)
        self.mlp = MLP(recipe)

    def forward(self, h_BTD: Tensor, rotary: Rotary) -> Tensor:
        h_BTD = h_BTD + self.attention(rms_norm(h_BTD), rotary)
        out: Tensor = h_BTD + self.mlp(rms_norm(h_BTD))
        return out


class GPT(nn.Module):
    """See the module docstring. The same `seed` gives the same weights whatever happened to the global generator."""

    def __init__(self, recipe: ModelRecipe, vocab_size: int, seed: int = 0) -> None:
        super().__init__()
        self.recipe = recipe
        self.vocab_size = vocab_size
        self.embedding = Matrix(vocab_size, recipe.width)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.layers))
        self.rotary = Rotary(recipe.head_size(), recipe.rope_base)
        initialise(self, seed)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """States [B, T, D] after the last norm; row t has seen `tokens[:, :t + 1]`."""
        h_BTD = rms_norm(functional.embedding(tokens_BT, self.embedding.weight))
        for block in self.blocks:
            h_BTD = block(h_BTD, self.rotary)
        return rms_norm(h_BTD)

    def logits(self, h_BTD: Tensor) -> Tensor:
        """Logits [..., V] of states [..., D], at least float32, within ±softcap; unnormalised, in nats."""
        return softcapped_logits(h_BTD, self.embedding.weight, self.recipe.softcap)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V] for the token that follows each position."""
        return self.logits(self.hidden(tokens_BT))

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token."""
        h_ND = self.hidden(inputs_BT).flatten(0, 1)
        return softcapped_loss(h_ND, self.embedding.weight, targets_BT.reshape(-1), self.recipe.softcap)


@torch.no_grad()
def initialise(model: GPT, seed: int) -> None:
    """Draw all weights: the blocks start as the identity (zero output and down matrices), the embedding small."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            parameter.normal_(0.0, EMBEDDING_STD, generator=generator)
        elif name.endswith("query_gain"):
            parameter.fill_(QUERY_GAIN_INIT)
        elif name.endswith(("output.weight", "down.weight")):
            parameter.zero_()
        else:
            # Half the spread that keeps the variance: Muon moves every singular value at one speed, so start low.
            bound = 0.5 * math.sqrt(3.0 / parameter.shape[1])
            parameter.uniform_(-bound, bound, generator=generator)
