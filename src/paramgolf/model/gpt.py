"""The transformer of `ModelRecipe`: by default a plain modern GPT, with every part of the contest's models switched on.

    x = smear(rms(E[u] + bigram(u)))                          both optional
    h = x;  per block: h = mix(h, x);  h += attention(rms(h));  h += mlp(rms(h))
    logits = c tanh(rms(h) Eᵀ / c)

With `unet` the stream after each block of the first half is added, weighted, before a block of the second half, last
first. Legend: B batch, T positions, D model width, V vocabulary, S skips, C channels of all values. All weights are
(out, in), there are no biases, and the norms have no weights. Source: spec pr549.md, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paramgolf.kernels.loss import softcapped_logits, softcapped_loss
from paramgolf.kernels.norm import rms_norm
from paramgolf.model.banks import Banks, load_banked, unbank
from paramgolf.model.block import Block, Carried
from paramgolf.model.embeddings import BigramEmbedding, Matrix, Smear, ValueEmbedding
from paramgolf.model.gates import ROUTER_PULL, share_error
from paramgolf.model.initialise import initialise
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe

BOUNDARY_ID = 1  # of the contest's tokenizers, and of ours


class GPT(nn.Module):
    """See the module docstring. `boundary_id` is the token between documents, for the parts that must not cross it.

    With `seed` None the parameters hold anything: for who loads weights at once.

    `activation_dtype` is the precision of the residual stream: parameters keep theirs and are cast where they are used
    (no autocast, whose lists differ between versions of torch: spec pr549.md 7-A2).
    """

    def __init__(
        self, recipe: ModelRecipe, vocab_size: int, seed: int | None = 0, boundary_id: int = BOUNDARY_ID
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.vocab_size = vocab_size
        self.activation_dtype: torch.dtype | None = None  # None: the embedding's own
        self.embedding = Matrix(vocab_size, recipe.width)
        self.bigram = BigramEmbedding(recipe) if recipe.bigram_buckets else None
        resets = recipe.smear == "within-document"
        self.smear = None if recipe.smear == "none" else Smear(recipe.width, boundary_id if resets else None)
        self.skip_weights = nn.Parameter(torch.empty(recipe.skips(), recipe.width)) if recipe.unet else None
        self.banks = Banks(recipe)
        self.value_embedding = ValueEmbedding(recipe, vocab_size) if recipe.value_layers else None
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.layers))
        self.rotary = Rotary(recipe)
        if seed is not None:
            initialise(self, seed, recipe)

    def hidden(self, tokens_BT: Tensor, quantise_bits: int = 0) -> Tensor:
        """States [B, T, D] after the last norm; row t has seen `tokens[:, :t + 1]`.

        With `quantise_bits` the blocks' matrices are rounded to so many, with straight-through gradients.
        """
        return self.hidden_and_pull(tokens_BT, quantise_bits)[0]

    def hidden_and_pull(self, tokens_BT: Tensor, quantise_bits: int = 0) -> tuple[Tensor, Tensor | None]:
        """The states as in `hidden`, and what a training loss adds to them: the pull of the routers, a scalar.

        It draws the share of positions that each router serves to the recipe's. None without routers and in evaluation
        mode.
        """
        x_BTD = self.embed(tokens_BT)
        token_value_BTC = None if self.value_embedding is None else self.value_embedding(tokens_BT, x_BTD.dtype)
        carried = Carried(x_BTD, token_value_BTC)
        layers = self.banks.split(x_BTD.dtype, quantise_bits)
        h_BTD = x_BTD
        kept: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if self.skip_weights is not None:
                h_BTD = self._skip(h_BTD, kept, layer)
            h_BTD = block(h_BTD, carried, layers[layer], self.rotary)
            if layer < self.recipe.skips():
                kept.append(h_BTD)
        return rms_norm(h_BTD), self._pull(carried.scores_BT1) if self.training else None

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The residual stream before the first block [B, T, D]."""
        dtype = self.activation_dtype or self.embedding.weight.dtype
        x_BTD = self.embedding.look_up(tokens_BT, dtype)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(tokens_BT, dtype)
        x_BTD = rms_norm(x_BTD)
        return x_BTD if self.smear is None else self.smear(x_BTD, tokens_BT)

    def logits(self, h_BTD: Tensor) -> Tensor:
        """Logits [..., V] of states [..., D], at least float32, within ±softcap; unnormalised, in nats."""
        return softcapped_logits(h_BTD, self.embedding.weight.to(h_BTD.dtype), self.recipe.softcap)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V] for the token that follows each position."""
        return self.logits(self.hidden(tokens_BT))

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor, quantise_bits: int = 0) -> Tensor:
        """Mean cross-entropy in nats a token; in training mode with the pull of the routers, if there are any."""
        h_BTD, pull = self.hidden_and_pull(inputs_BT, quantise_bits)
        head_VD = self.embedding.weight.to(h_BTD.dtype)
        loss = softcapped_loss(h_BTD.flatten(0, 1), head_VD, targets_BT.reshape(-1), self.recipe.softcap)
        return loss if pull is None else loss + pull

    def exported_weights(self) -> dict[str, Tensor]:
        """The parameters under an artifact's names; views, matrices one by one."""
        return unbank(dict(self.named_parameters()))

    def load_exported(self, weights: Mapping[str, Any]) -> None:
        """Copy weights (tensors or arrays) by an artifact's names into the parameters."""
        load_banked(self, weights)

    def _pull(self, scores_BT1: list[Tensor]) -> Tensor | None:
        if not scores_BT1:
            return None
        errors = [share_error(score_BT1, self.recipe.routed_share) for score_BT1 in scores_BT1]
        return ROUTER_PULL * torch.stack(errors).sum()

    def _skip(self, h_BTD: Tensor, kept: list[Tensor], layer: int) -> Tensor:
        # The first block of the second half gets the very stream that it reads, added to itself, as published.
        if self.skip_weights is None or layer < self.recipe.skips() or not kept:
            return h_BTD
        weight_D = self.skip_weights[layer - self.recipe.skips()].to(h_BTD.dtype)
        return h_BTD + weight_D * kept.pop()
