"""The averaged weights as the teacher of the live ones, late in training.

Legend: V vocabulary, S sequences, T tokens of a sequence.
Source: spec pr1185.md 2.8 and oracle O15. Published, the divergence was divided by the sequences alone (2,048 times too
much), and until its first copy the teacher was the model's random start. Here it is a mean over positions, and there is
no teacher before the average has seen as many updates as it remembers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.kernels.varlen import Documents
from paramgolf.model.gpt import GPT
from paramgolf.optim.average import WeightAverage


class Teacher:
    """A model of its own that holds a copy of the average; `taught` is whether there was one yet."""

    def __init__(self, model: GPT, every: int) -> None:
        self.model = model.requires_grad_(False).eval()
        self.taught = False
        self._every = every

    def follow(self, average: WeightAverage, step: int) -> bool:
        """Copy the average if `step` is due or nothing was copied; whether there is something to learn from.

        An average is old enough after `1 / (1 - decay)` updates, the number that it remembers.
        """
        if average.updates * (1.0 - average.decay) < 1.0 - 1e-9:
            return self.taught
        if not self.taught or step % self._every == 0:
            self.copy(average.weights())
        return True

    @torch.no_grad()
    def copy(self, weights: dict[str, Tensor]) -> None:
        """Take over weights by name."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
        self.taught = True

    def weights(self) -> dict[str, Tensor]:
        """What it holds, by name; nothing before the first copy."""
        return dict(self.model.named_parameters()) if self.taught else {}

    @torch.no_grad()
    def logits(self, tokens_ST: Tensor, looping: bool = True, documents: Documents | None = None) -> Tensor:
        """The teacher's logits [S, T, V] of tokens that the student sees in the same way, without gradients."""
        return self.model.logits(self.model.hidden(tokens_ST, looping=looping, documents=documents))


def divergence(student_STV: Tensor, teacher_STV: Tensor, temperature: float) -> Tensor:
    """Mean over positions of KL(teacher ‖ student), both at `temperature`, times its square; nats.

    The square keeps the gradient's size whatever the temperature (Hinton et al. 2015).
    """
    student = functional.log_softmax(student_STV / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_STV / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1).mean()
