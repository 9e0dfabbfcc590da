"""The training loss, compiled where that is asked for and possible.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.errors import ParamgolfError
from paramgolf.model.gpt import GPT
from paramgolf.train.notes import Notes


class TrainingLoss:
    """Mean nats a token of a batch, eager until `compile` succeeds."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._loss = model.loss

    def __call__(self, inputs_ST: Tensor, targets_ST: Tensor, quantise_bits: int = 0) -> Tensor:
        return self._loss(inputs_ST, targets_ST, quantise_bits)

    def compile(self, tokens_ST: Tensor, graphs: tuple[int, ...], notes: Notes) -> None:
        """Compile a whole graph for each of the `quantise_bits` in `graphs`, forward and backward, for this one shape.

        Where that fails (no Triton, no C compiler, a Python that torch does not know) training goes on without, after
        one note.
        """
        try:
            # Tables made while a graph is traced would be part of it, and the next call would compile another.
            self._model.rotary.prepare(tokens_ST.shape[1])
            self._loss = torch.compile(self._model.loss, fullgraph=True, dynamic=False)
            for bits in graphs:
                self(tokens_ST, tokens_ST, bits).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        except (ParamgolfError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a tool chain can fail with; eager training needs none of it
            self._loss = self._model.loss
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            notes.say(f"training without torch.compile, which is slower: {reason.strip()}")
        finally:
            self._model.zero_grad()
