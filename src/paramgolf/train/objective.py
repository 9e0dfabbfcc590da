"""What a step of training minimises: the one place where the terms of the loss are put together.

    next token  +  pull of the routers  +  future_weight * heads further ahead
                +  distill_weight * divergence from the averaged weights

and, once a step rather than once a piece of the batch, `crown_weight` times a penalty of the weights alone. A term that
the recipe leaves out costs nothing. Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from paramgolf.kernels.varlen import Documents
from paramgolf.model.gpt import GPT
from paramgolf.recipe import Recipe
from paramgolf.train.crown import crown_penalty
from paramgolf.train.distill import Teacher, divergence
from paramgolf.train.future import FutureHeads


class Losses(NamedTuple):
    """`total` is what gradients come from; `next_token` the mean nats of the next token alone, which is reported."""

    total: Tensor
    next_token: Tensor


class Objective:
    """The terms of one run over its model, its heads and its teacher; a part that is None has no term."""

    def __init__(
        self, recipe: Recipe, model: GPT, future: FutureHeads | None = None, teacher: Teacher | None = None
    ) -> None:
        self._recipe = recipe
        self.model, self.future, self.teacher = model, future, teacher

    def is_plain(self, distils: bool) -> bool:
        """Whether the loss of a batch is that of the next token, as the model computes it, without a term beside it."""
        return self.future is None and not distils and not self.model.recipe.routed_layers

    def losses(
        self,
        inputs_ST: Tensor,
        targets_ST: Tensor,
        quantise_bits: int = 0,
        distils: bool = False,
        looping: bool = True,
        documents: Documents | None = None,
    ) -> Losses:
        """All terms that depend on the batch; the states are computed once for all of them."""
        model, train = self.model, self._recipe.train
        h_STD, pull = model.hidden_and_pull(
            inputs_ST, quantise_bits=quantise_bits, looping=looping, documents=documents
        )
        next_token = model.next_token_loss(h_STD, targets_ST)
        total = next_token if pull is None else next_token + pull
        if self.future is not None:
            boundary_id = None if documents is None else model.boundary_id
            ahead = self.future.loss(h_STD, targets_ST, model.softcap, boundary_id)
            total = total + train.future_weight * ahead
        if distils and self.teacher is not None:
            taught_STV = self.teacher.logits(inputs_ST, looping, documents)
            apart = divergence(model.logits(h_STD), taught_STV, train.distill_temperature)
            total = total + train.distill_weight * apart
        return Losses(total, next_token.detach())

    def add_crown_gradient(self) -> None:
        """Add the gradient of the weights' own penalty; the same on every rank."""
        train, bits = self._recipe.train, self._recipe.squeeze.matrix_bits
        penalty = train.crown_weight * crown_penalty(self.model.banks.parameters(), bits, train.crown_form)
        penalty.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def zero_grad(self) -> None:
        """Drop the gradients of all that is trained."""
        self.model.zero_grad()
        if self.future is not None:
            self.future.zero_grad()
