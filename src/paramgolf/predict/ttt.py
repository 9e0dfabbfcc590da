"""Score-first test-time training: every token is predicted before the weights may learn from it (PR #461, #549).

Legend: B lanes, F frames of a batch, W window.

`observe` is the only place that trains: when `score.ttt_chunk` tokens (of all lanes together) have been observed, a
private copy of the model takes `ttt_epochs` passes of AdamW over exactly those tokens, and the next rows come from the
new weights.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.errors import RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk, Int64
from paramgolf.predict.window import WindowPredictor, WindowRows
from paramgolf.recipe import ScoreRecipe

CLIP_NORM = 1.0
TRAIN_FRAMES = 8  # frames of one training step
IGNORED = -100  # target of a padding position


class TttPredictor:
    """A `WindowPredictor` whose weights learn from the tokens already scored. `model` itself is never changed.

    With one lane the weights move at exactly every `ttt_chunk`-th position, so `chunk` (the length of the chunks that
    will come; None means `score.chunk`) must divide it: `RecipeError` otherwise, and `ValueError` for a chunk that
    straddles such a position. With several lanes they move after the chunk that completes `ttt_chunk` tokens.
    """

    def __init__(
        self,
        model: GPT,
        recipe: ScoreRecipe,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        frames_per_batch: int = 8,
        chunk: int | None = None,
    ) -> None:
        chunk = recipe.chunk if chunk is None else chunk
        if lanes == 1 and recipe.ttt_chunk % chunk:
            raise RecipeError(
                f"score.ttt_chunk={recipe.ttt_chunk} is no multiple of score.chunk={chunk}: "
                "with one lane the weights may only move between chunks"
            )
        self.recipe = recipe
        self.vocab_size = vocab_size
        self._model = copy.deepcopy(model).requires_grad_(True)
        self._window = WindowPredictor(self._model, recipe, vocab_size, boundary_id, lanes, frames_per_batch)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=recipe.ttt_lr, weight_decay=0.0)
        self._pending = Pending(recipe.window, boundary_id, lanes)

    def predict(self, chunk: Chunk) -> WindowRows:
        """Rows of the chunk [B, T] from the present weights."""
        if len(chunk.lengths) == 1 and self._pending.count + int(chunk.lengths[0]) > self.recipe.ttt_chunk:
            raise ValueError(
                f"a chunk of {int(chunk.lengths[0])} tokens straddles an update: {self._pending.count} tokens of "
                f"ttt_chunk={self.recipe.ttt_chunk} were observed before it"
            )
        return self._window.predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        """Append the chunk's tokens; train when `ttt_chunk` tokens have come together."""
        self._window.observe(chunk)
        self._pending.append(chunk)
        if self._pending.count >= self.recipe.ttt_chunk:
            inputs_FW, targets_FW = self._pending.take()
            for _ in range(self.recipe.ttt_epochs):
                for first in range(0, len(inputs_FW), TRAIN_FRAMES):
                    self._step(inputs_FW[first : first + TRAIN_FRAMES], targets_FW[first : first + TRAIN_FRAMES])

    def _step(self, inputs_FW: Int64, targets_FW: Int64) -> None:
        device = self._model.embedding.weight.device
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            logits: Tensor = self._model.logits(self._model.hidden(torch.from_numpy(inputs_FW).to(device)))
            targets = torch.from_numpy(targets_FW).to(device)
            loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Pending:
    """Tokens observed since the last update, as runs that each begin with the token before them."""

    def __init__(self, window: int, boundary_id: int, lanes: int) -> None:
        self._window = window
        self._boundary_id = boundary_id
        self._runs: list[list[int]] = []
        self._open = [[boundary_id] for _ in range(lanes)]
        self.count = 0

    def append(self, chunk: Chunk) -> None:
        """Take the real tokens of every lane; a lane that starts a document starts a run."""
        for b, start in enumerate(chunk.starts):
            if start:
                self._close(b, self._boundary_id)
            self._open[b].extend(chunk.tokens[b, : chunk.lengths[b]].tolist())
        self.count += int(chunk.lengths.sum())

    def take(self) -> tuple[Int64, Int64]:
        """Inputs and targets [frames, W] of all tokens since the last take, padded to whole training steps.

        Each token is the target of one place; padding has target `IGNORED`. The next runs go on where these ended.
        """
        for b, run in enumerate(self._open):
            self._close(b, run[-1])
        frames = [run[i : i + self._window + 1] for run in self._runs for i in range(0, len(run) - 1, self._window)]
        self._runs, self.count = [], 0
        total = len(frames) + -len(frames) % TRAIN_FRAMES
        inputs_FW = np.full((total, self._window), self._boundary_id, dtype=np.int64)
        targets_FW = np.full((total, self._window), IGNORED, dtype=np.int64)
        for row, frame in enumerate(frames):
            inputs_FW[row, : len(frame) - 1] = frame[:-1]
            targets_FW[row, : len(frame) - 1] = frame[1:]
        return inputs_FW, targets_FW

    def _close(self, lane: int, before: int) -> None:
        if len(self._open[lane]) > 1:
            self._runs.append(self._open[lane])
        self._open[lane] = [before]
