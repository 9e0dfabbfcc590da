"""The training loss, compiled where that is asked for and possible.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paramgolf.errors import ParamgolfError
from paramgolf.model.gpt import GPT
from paramgolf.optim.schedule import StepSettings
from paramgolf.train.notes import Notes
from paramgolf.train.objective import Losses, Objective


class TrainingLoss:
    """The losses of a batch, eager until `compile` succeeds.

    In steps where the objective adds no term of a batch the graph is the model's loss alone.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._loss: Callable[..., Any] = objective.model.loss
        self._composed: Callable[..., Any] = objective.losses

    def __call__(self, inputs_ST: Tensor, targets_ST: Tensor, quantise_bits: int = 0, distils: bool = False) -> Losses:
        if not self._objective.is_plain(distils):
            return Losses(*self._composed(inputs_ST, targets_ST, quantise_bits, distils))
        loss = self._loss(inputs_ST, targets_ST, quantise_bits=quantise_bits)
        return Losses(loss, loss.detach())

    def compile(self, tokens_ST: Tensor, stages: tuple[StepSettings, ...], notes: Notes) -> None:
        """Compile a whole graph for each form of the loss in `stages`, forward and backward, for this one shape.

        Where that fails (no Triton, no C compiler, a Python that torch does not know) training goes on without, after
        one note.
        """
        try:
            # Tables made while a graph is traced would be part of it, and the next call would compile another.
            for model in self._models():
                model.rotary.prepare(tokens_ST.shape[1])
            self._loss = torch.compile(self._objective.model.loss, fullgraph=True, dynamic=False)
            self._composed = torch.compile(self._objective.losses, fullgraph=True, dynamic=False)
            for bits, distils in dict.fromkeys((stage.quantise_bits, stage.distils) for stage in stages):
                self(tokens_ST, tokens_ST, bits, distils).total.backward()  # type: ignore[no-untyped-call]  # torch's
        except (ParamgolfError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a tool chain can fail with; eager training needs none of it
            self._loss, self._composed = self._objective.model.loss, self._objective.losses
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            notes.say(f"training without torch.compile, which is slower: {reason.strip()}")
        finally:
            self._objective.zero_grad()

    def _models(self) -> list[GPT]:
        teacher = self._objective.teacher
        return [self._objective.model] if teacher is None else [self._objective.model, teacher.model]
