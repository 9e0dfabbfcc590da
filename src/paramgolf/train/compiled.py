"""The training loss, compiled where that is asked for and possible.

Legend: S sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from paramgolf.errors import ParamgolfError
from paramgolf.model.gpt import GPT
from paramgolf.optim.schedule import StepSettings
from paramgolf.train.batches import Piece
from paramgolf.train.notes import Notes
from paramgolf.train.objective import Losses, Objective

# Torch compiles a function anew for every context, loop and length of the list of documents. After so many (its own
# limit is eight) a whole graph is refused: `TrainingLoss` then goes on without.
MOST_GRAPHS = 64


class TrainingLoss:
    """The losses of a batch, eager until `compile` succeeds.

    In steps where the objective adds no term of a batch the graph is the model's loss alone.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._loss: Callable[..., Any] = objective.model.loss
        self._composed: Callable[..., Any] = objective.losses
        self._notes: Notes | None = None  # of the one who asked for a compiled loss, while it is one
        self._tried = False

    def __call__(self, piece: Piece, form: StepSettings) -> Losses:
        """The losses of a piece in the form that the settings of its step give it."""
        if self._notes is None:
            return self._losses(piece, form)
        try:
            return self._losses(piece, form)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            self._give_up(error, self._notes)
            return self._losses(piece, form)

    def prepare(self, rows: Sequence[tuple[int, int]]) -> None:
        """Make the rotary tables for rows of these lengths and contexts, the longest first.

        Tables made while a graph is traced would be part of it, and tables that grow later would make each graph that
        used them be compiled anew.
        """
        for model in self._models():
            for length, context in rows:
                model.rotary.prepare(length, context)

    def _losses(self, piece: Piece, form: StepSettings) -> Losses:
        inputs_ST, targets_ST, documents, _ = piece
        if not self._objective.is_plain(form.distils):
            wants = (form.quantise_bits, form.distils, form.looping, documents)
            return Losses(*self._composed(inputs_ST, targets_ST, *wants))
        loss = self._loss(
            inputs_ST, targets_ST, quantise_bits=form.quantise_bits, looping=form.looping, documents=documents
        )
        return Losses(loss, loss.detach())

    def compile(self, examples: Sequence[tuple[StepSettings, Piece]], notes: Notes) -> None:
        """Compile a whole graph for each of the examples' forms and shapes, forward and backward; more may follow.

        Where that fails (no Triton, no C compiler, a Python that torch does not know) training goes on without, after
        one note. `prepare` must know the rows of all stages before the first call; without it, those of the examples
        are prepared.
        """
        if self._tried and self._notes is None:
            return  # it failed
        try:
            rows = [(piece.inputs_ST.shape[1], piece.documents) for _, piece in examples]
            self.prepare(sorted(((n, n if docs is None else docs.longest) for n, docs in rows), reverse=True))
            if not self._tried:
                self._tried, self._notes = True, notes
                torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
                self._loss = torch.compile(self._objective.model.loss, fullgraph=True, dynamic=False)
                self._composed = torch.compile(self._objective.losses, fullgraph=True, dynamic=False)
            for form, piece in examples:
                self._losses(piece, form).total.backward()  # type: ignore[no-untyped-call]  # torch's
        except (ParamgolfError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a tool chain can fail with; eager training needs none of it
            self._give_up(error, notes)
        finally:
            self._objective.zero_grad()

    def _give_up(self, error: Exception, notes: Notes) -> None:
        """Eager from here on."""
        self._loss, self._composed, self._notes = self._objective.model.loss, self._objective.losses, None
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        notes.say(f"training without torch.compile, which is slower: {reason.strip()}")

    def _models(self) -> list[GPT]:
        teacher = self._objective.teacher
        return [self._objective.model] if teacher is None else [self._objective.model, teacher.model]
