"""The transformer of `ModelRecipe`: by default a plain modern GPT, with every part of the contest's models switched on.

    x = smear(rms(E[u] + bigram(u)))                          both optional; the gated smear comes before the norm
    h = x;  per block: h = mix(h, x);  h += attention(rms(h));  h += mlp(rms(h))
    logits = c tanh(rms(h) Eᵀ / c)

Which block runs when is the route's (`route.py`): looped blocks, skips between visits, and where one stream becomes two
lanes (`lanes.py`), whose mean it is in the end. A skip leaves and enters the first lane. Legend: B batch, T positions,
n of them that are wanted, D model width, V vocabulary, S skips, C channels of all values. All weights are (out, in),
there are no biases, and the norms have no weights. Source: spec pr549.md and pr2140.md, section 2 each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paramgolf.kernels.loss import Softcap, softcapped_logits, softcapped_loss
from paramgolf.kernels.norm import rms_norm
from paramgolf.kernels.varlen import Documents
from paramgolf.model.adapters import Adapters
from paramgolf.model.arithmetic import usable_softcaps
from paramgolf.model.banks import Banks, load_banked, unbank
from paramgolf.model.block import Block, Carried
from paramgolf.model.embeddings import BigramEmbedding, GatedSmear, Matrix, Smear, ValueEmbedding
from paramgolf.model.gates import ROUTER_PULL, share_error
from paramgolf.model.initialise import initialise
from paramgolf.model.lanes import Lanes
from paramgolf.model.rotary import Rotary
from paramgolf.model.route import route
from paramgolf.recipe import LEARNT_SOFTCAPS, ModelRecipe

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
        self.vocab_size, self.boundary_id = vocab_size, boundary_id
        self.activation_dtype: torch.dtype | None = None  # None: the embedding's own
        self.embedding = Matrix(vocab_size, recipe.width)
        self.bigram = BigramEmbedding(recipe) if recipe.bigram_buckets else None
        self.smear = _smear(recipe, boundary_id)
        self.skip_weights = nn.Parameter(torch.empty(recipe.skips(), recipe.width)) if recipe.unet else None
        self.skip_gates = nn.Parameter(torch.empty(recipe.skips(), recipe.width)) if recipe.skip_gates else None
        self.softcaps = nn.Parameter(torch.empty(2)) if recipe.asymmetric_softcap else None
        self.banks = Banks(recipe)
        self.value_embedding = ValueEmbedding(recipe, vocab_size) if recipe.value_layers else None
        self.lanes = Lanes(recipe) if recipe.parallel_layers else None
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.layers))
        self.rotary = Rotary(recipe)
        self._routes = (route(recipe, looping=False), route(recipe, looping=True))
        if seed is not None:
            initialise(self, seed, recipe)

    @torch.no_grad()
    def hold_softcaps(self) -> None:
        """Put caps that are learnt back within `LEARNT_SOFTCAPS`: what training calls after each step.

        At 0 a logit has no value, below it its sign turns, and above the fast losses would not take it.
        """
        if self.softcaps is not None:
            self.softcaps.clamp_(*LEARNT_SOFTCAPS)

    @property
    def softcap(self) -> Softcap:
        """What caps the logits: one number, or the two learnt caps [2]."""
        return self.recipe.softcap if self.softcaps is None else self.softcaps

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        quantise_bits: int = 0,
        looping: bool = True,
        documents: Documents | None = None,
        adapters: Adapters | None = None,
        positions_Bn: Tensor | None = None,
    ) -> Tensor:
        """States [B, T, D] after the last norm; row t has seen `tokens[:, :t + 1]`.

        With `quantise_bits` the blocks' matrices are rounded to so many, with straight-through gradients. Without
        `looping` each block runs once. `documents` lie end to end in one row (B = 1): attention stays within each,
        positions and everything else are those of the row. Row b takes what row b of the `adapters` adds.

        `positions_Bn` (int64) asks for the states of some positions of each row [B, n, D], in its order; it spares the
        last visit what the others alone would need. Not for packed `documents` (`ValueError`).
        """
        return self.hidden_and_pull(
            tokens_BT,
            quantise_bits=quantise_bits,
            looping=looping,
            documents=documents,
            adapters=adapters,
            positions_Bn=positions_Bn,
        )[0]

    def hidden_and_pull(
        self,
        tokens_BT: Tensor,
        *,
        quantise_bits: int = 0,
        looping: bool = True,
        documents: Documents | None = None,
        adapters: Adapters | None = None,
        positions_Bn: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The states as in `hidden`, and what a training loss adds to them: the pull of the routers, a scalar.

        It draws the share of positions that each router serves to the recipe's. None without routers and in evaluation
        mode.
        """
        x_BTD = self.embed(tokens_BT)
        token_value_BTC = None if self.value_embedding is None else self.value_embedding(tokens_BT, x_BTD.dtype)
        carried = Carried(x_BTD, token_value_BTC, documents, adapters)
        h_BnD = self._walk(x_BTD, carried, quantise_bits, looping, positions_Bn)
        return rms_norm(h_BnD), self._pull(carried.scores_BT1) if self.training else None

    def _walk(
        self, h_BTD: Tensor, carried: Carried, quantise_bits: int, looping: bool, positions_Bn: Tensor | None
    ) -> Tensor:
        """The stream after all visits of the route, at the positions that are asked for."""
        matrices = self.banks.split(h_BTD.dtype, quantise_bits)
        second_BTD: Tensor | None = None  # lane
        kept: list[Tensor] = []
        for carried.visit, (layer, keeps, joins, parallel) in enumerate(self._routes[looping]):
            if parallel and second_BTD is None:
                second_BTD = h_BTD
            if joins >= 0:
                h_BTD = self._join(h_BTD, kept.pop(), joins)
            if carried.visit == len(self._routes[looping]) - 1:
                carried.wanted_Bn = positions_Bn
            block: Block = self.blocks[layer]  # type: ignore[assignment]  # a list of modules forgets their class
            if self.lanes is not None and second_BTD is not None:
                pair = (h_BTD, second_BTD)
                h_BTD, second_BTD = self.lanes(pair, layer, block, carried, matrices[layer], self.rotary)
            else:
                h_BTD = block(h_BTD, carried, matrices[layer], self.rotary)
            if keeps:
                kept.append(h_BTD)
        return h_BTD if second_BTD is None else (h_BTD + second_BTD) * 0.5

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The residual stream before the first block [B, T, D]."""
        dtype = self.activation_dtype or self.embedding.weight.dtype
        x_BTD = self.embedding.look_up(tokens_BT, dtype)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(tokens_BT, dtype)
        if isinstance(self.smear, GatedSmear):
            return rms_norm(self.smear(x_BTD, tokens_BT))
        x_BTD = rms_norm(x_BTD)
        return x_BTD if self.smear is None else self.smear(x_BTD, tokens_BT)

    def logits(self, h_BTD: Tensor, extra_BTV: Tensor | None = None) -> Tensor:
        """Logits [..., V] of states [..., D], at least float32, within the softcap; unnormalised, in nats.

        `extra_BTV` is added before the softcap: what an adapter of the head gives.
        """
        return softcapped_logits(h_BTD, self.embedding.weight.to(h_BTD.dtype), self.softcap, extra_BTV)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V] for the token that follows each position."""
        return self.logits(self.hidden(tokens_BT))

    def loss(
        self,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        *,
        quantise_bits: int = 0,
        looping: bool = True,
        documents: Documents | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats a token; in training mode with the pull of the routers, if there are any."""
        h_BTD, pull = self.hidden_and_pull(inputs_BT, quantise_bits=quantise_bits, looping=looping, documents=documents)
        loss = self.next_token_loss(h_BTD, targets_BT)
        return loss if pull is None else loss + pull

    def next_token_loss(self, h_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats of `targets_BT` under the states [B, T, D] of `hidden`."""
        head_VD = self.embedding.weight.to(h_BTD.dtype)
        return softcapped_loss(h_BTD.flatten(0, 1), head_VD, targets_BT.reshape(-1), self.softcap)

    def exported_weights(self) -> dict[str, Tensor]:
        """The parameters under an artifact's names; views, matrices one by one."""
        return unbank(dict(self.named_parameters()))

    def load_exported(self, weights: Mapping[str, Any]) -> None:
        """Copy weights (tensors or arrays) by an artifact's names into the parameters.

        Raises `ArtifactError` for softcaps that are not positive, before anything is copied.
        """
        if self.softcaps is not None:
            usable_softcaps(weights["softcaps"].tolist())
        load_banked(self, weights)

    def _pull(self, scores_BT1: list[Tensor]) -> Tensor | None:
        if not scores_BT1:
            return None
        errors = [share_error(score_BT1, self.recipe.routed_share) for score_BT1 in scores_BT1]
        return ROUTER_PULL * torch.stack(errors).sum()

    def _join(self, h_BTD: Tensor, kept_BTD: Tensor, row: int) -> Tensor:
        """The stream with a kept one: their weighted sum, or by the gates a mean of the two for every channel.

        The first block of the second half gets the very stream that it reads, as published.
        """
        assert self.skip_weights is not None
        skip_BTD = self.skip_weights[row].to(h_BTD.dtype) * kept_BTD
        if self.skip_gates is None:
            return h_BTD + skip_BTD
        return skip_BTD + torch.sigmoid(self.skip_gates[row].to(h_BTD.dtype)) * (h_BTD - skip_BTD)


def _smear(recipe: ModelRecipe, boundary_id: int) -> Smear | GatedSmear | None:
    if recipe.smear == "gated":
        return GatedSmear(recipe.gate_channels, boundary_id)
    if recipe.smear == "none":
        return None
    return Smear(recipe.width, boundary_id if recipe.smear == "within-document" else None)
