"""Score-first test-time training: every token is predicted before the weights may learn from it (PR #461, #549).

`observe` is the only place that trains: when `score.ttt_chunk` tokens (of all lanes together) have been observed, a
private copy of the model takes `ttt_epochs` passes over exactly those tokens, and the next rows come from the new
weights, or, with `ttt_polyak`, from their running average. The last chunk of a text is not trained on: no row would
come from it. Settings: `ScoreRecipe`.
"""

from __future__ import annotations

import copy
import math
import time

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.predict.learning import Learning
from paramgolf.predict.protocol import Chunk, Int64
from paramgolf.predict.slot_torch import TorchReadout
from paramgolf.predict.ttt_step import IGNORED, Trainer, learning_rate
from paramgolf.predict.window import WindowPredictor, WindowRows


class TttPredictor:
    """A predictor like `window` whose weights learn from the tokens already scored; the model of `window` never does.

    With one lane the weights move at exactly every `ttt_chunk`-th position, so `chunk` (the length of the chunks that
    will come; None means `score.chunk`) must divide it: `RecipeError` otherwise, and `ValueError` for a chunk that
    straddles such a position. With several lanes they move after the chunk that completes `ttt_chunk` tokens.

    `tokens` is how many the text has, boundaries included, if that is known; a cosine schedule needs it. When a
    gradient or a weight comes out infinite or as no number, the weights go back to what scored the last chunk and stay
    there (`learning.stopped` says so): such an update is never used, and a decoder does the same.
    """

    def __init__(self, window: WindowPredictor, *, chunk: int | None = None, tokens: int | None = None) -> None:
        recipe = window.recipe
        chunk = recipe.chunk if chunk is None else chunk
        if window.lanes == 1 and recipe.ttt_chunk % chunk:
            raise RecipeError(
                f"score.ttt_chunk={recipe.ttt_chunk} is no multiple of score.chunk={chunk}: "
                "with one lane the weights may only move between chunks"
            )
        self.recipe = recipe
        self.vocab_size = window.vocab_size
        self.learning = Learning()
        self._tokens = tokens
        self._chunks = None if tokens is None else math.ceil(tokens / recipe.ttt_chunk)
        learning_rate(recipe, 0, self._chunks)
        self._model = copy.deepcopy(window.model)
        average = copy.deepcopy(window.model) if recipe.ttt_polyak > 0 else None
        self._window = window.reading(self._model if average is None else average)
        self._trainer = Trainer(self._model, recipe, window.ranks, average)
        self._pending = Pending(recipe.window, window.boundary_id, window.lanes)
        self._observed = 0

    @property
    def model(self) -> GPT:
        """The model that the next rows come from; not to be changed."""
        return self._window.model

    def readout(self, on: str) -> TorchReadout:
        """How SLOT's offsets `on` states or logits make rows with the present weights."""
        return self._window.readout(on)

    def predict(self, chunk: Chunk) -> WindowRows:
        """Rows of the chunk [B, T] from the present weights."""
        if len(chunk.lengths) == 1 and self._pending.count + int(chunk.lengths[0]) > self.recipe.ttt_chunk:
            raise ValueError(
                f"a chunk of {int(chunk.lengths[0])} tokens straddles an update: {self._pending.count} tokens of "
                f"ttt_chunk={self.recipe.ttt_chunk} were observed before it"
            )
        return self._window.predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        """Append the chunk's tokens; train when `ttt_chunk` tokens have come together and others will follow."""
        self._window.observe(chunk)
        self._pending.append(chunk)
        self._observed += int(chunk.lengths.sum())
        if self._pending.count >= self.recipe.ttt_chunk:
            inputs_FW, targets_FW = self._pending.take()
            if self._observed != self._tokens and not self.learning.stopped:
                self._update(inputs_FW, targets_FW)

    def _update(self, inputs_FW: Int64, targets_FW: Int64) -> None:
        learning, begin = self.learning, time.perf_counter()
        if self._trainer.learn(inputs_FW, targets_FW, learning_rate(self.recipe, learning.updates, self._chunks)):
            learning.updates += 1
        else:
            learning.stopped = (
                f"update {learning.updates + 1}, after {self._observed:,} tokens, met numbers that are not finite: "
                "the weights stay those before it"
            )
        learning.seconds += time.perf_counter() - begin


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
        """Inputs and targets [frames, window] of all tokens since the last take.

        Each token is the target of one place; padding has target `IGNORED`. The next runs go on where these ended.
        """
        for b, run in enumerate(self._open):
            self._close(b, run[-1])
        frames = [run[i : i + self._window + 1] for run in self._runs for i in range(0, len(run) - 1, self._window)]
        self._runs, self.count = [], 0
        inputs_FW = np.full((len(frames), self._window), self._boundary_id, dtype=np.int64)
        targets_FW = np.full((len(frames), self._window), IGNORED, dtype=np.int64)
        for row, frame in enumerate(frames):
            inputs_FW[row, : len(frame) - 1] = frame[:-1]
            targets_FW[row, : len(frame) - 1] = frame[1:]
        return inputs_FW, targets_FW

    def _close(self, lane: int, before: int) -> None:
        if len(self._open[lane]) > 1:
            self._runs.append(self._open[lane])
        self._open[lane] = [before]
