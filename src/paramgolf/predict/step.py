"""The neural model one token at a time: the frames of `WindowPredictor`, bits that are the same on every machine.

Legend: T positions of a chunk (one lane), R visits of layers, D width, G key/value heads, K channels of a head, W
window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.protocol import Chunk, Float64, Int64, TableRows
from paramgolf.predict.slot_readout import FixedReadout
from paramgolf.predict.step_kernel import StepCache, forward, head_rows
from paramgolf.predict.step_weights import Float32, gather_weights
from paramgolf.recipe import ModelRecipe, ScoreRecipe


class StepRows(TableRows):
    """Rows of one lane, all computed."""

    def __init__(self, logprob_TV: Float64, state_TD: Float64, chunk: Chunk) -> None:
        super().__init__(logprob_TV[None], chunk)
        self._rows_TV = logprob_TV
        self._state_TD = state_TD

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions, [length, V] nats."""
        return self._rows_TV[: self._chunk.lengths[lane]]

    def states(self, lane: int, first: int = 0, stop: int | None = None) -> Float64:
        """States after the last norm, [stop - first, D], of real positions (None: up to the length)."""
        return self._state_TD[: self._chunk.lengths[lane]][first:stop]


@dataclass
class _Frame:
    """A frame that begins with the input of position `start`, of which the first `filled` inputs are in the cache."""

    cache: StepCache
    start: int = -1
    filled: int = 0


class StepPredictor:
    """The model of `weights` for one lane, in float64, logits rounded to 1/256; agrees with `WindowPredictor` to that.

    `weights` are named as in docs/architecture.md, "Model" (out, in). A row has the same bits however the text is cut
    into chunks, with any number of threads, on any CPU type. `observe` computes the next row (at a frame border it
    reads `window - stride` tokens again); `predict` of one token just returns it.
    """

    def __init__(
        self,
        weights: Mapping[str, Float32],
        model_recipe: ModelRecipe,
        score_recipe: ScoreRecipe,
        vocab_size: int,
        boundary_id: int,
    ) -> None:
        self.vocab_size = vocab_size
        self.boundary_id = boundary_id
        self.grid = FrameGrid(score_recipe.window, score_recipe.stride)
        self._recipe = model_recipe
        self._weights = gather_weights(weights, model_recipe, score_recipe.window, vocab_size, boundary_id)
        self._frame = self._empty_frame()
        self._position = 0
        self._history = self._no_history()
        self._restart()

    def readout(self, on: str) -> FixedReadout:
        """How SLOT's offsets `on` states or logits make rows, the same bits everywhere (not rounded to 1/256)."""
        return FixedReadout(on, self.vocab_size, self._weights.head_DV, self._weights.softcaps)

    def predict(self, chunk: Chunk) -> StepRows:
        """Rows of a chunk [1, T]; computes on a copy of the frame where the chunk leaves the present one."""
        tokens = self._real(chunk)
        position, history, (row_V, state_D) = self._position, self._history, self._next
        if chunk.starts[0]:
            position, history, (row_V, state_D) = 0, self._no_history(), self._first
        rows_TV, states_TD = self._empty_rows(chunk.tokens.shape[1])
        if len(tokens):
            rows_TV[0], states_TD[0] = row_V, state_D
        if len(tokens) > 1:
            # What is written behind `filled` is dead once this call returns; any other frame goes to a scratch cache.
            frame = _Frame(self._frame.cache, self._frame.start, self._frame.filled)
            if chunk.starts[0]:
                frame = self._empty_frame()
            line, shift = np.concatenate([history, tokens]), len(history) - position
            out = rows_TV[1 : len(tokens)], states_TD[1 : len(tokens)]
            self._rows(frame, line, shift, position + 1, out, scratch=True)
        return StepRows(rows_TV, states_TD, chunk)

    def observe(self, chunk: Chunk) -> None:
        """Append the chunk's tokens and compute the row that follows them."""
        tokens = self._real(chunk)
        if chunk.starts[0]:
            self._restart()
        if not len(tokens):
            return
        line, shift = np.concatenate([self._history, tokens]), len(self._history) - self._position
        self._position += len(tokens)
        self._history = line[-self.grid.window :]
        self._next = self._one_row(line, shift)

    def _restart(self) -> None:
        self._position = 0
        self._history = self._no_history()
        self._frame.start = -1
        self._next = self._first = self._one_row(self._history, 1)

    def _no_history(self) -> Int64:
        return np.array([self.boundary_id], dtype=np.int64)

    def _real(self, chunk: Chunk) -> Int64:
        if len(chunk.tokens) != 1:
            raise ValueError(f"a chunk of {len(chunk.tokens)} lanes for a predictor of one")
        tokens = np.ascontiguousarray(chunk.tokens[0, : chunk.lengths[0]], dtype=np.int64)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(f"tokens {int(tokens.min())}..{int(tokens.max())} are outside 0..{self.vocab_size - 1}")
        return tokens

    def _empty_frame(self) -> _Frame:
        recipe, window = self._recipe, self.grid.window
        shape = recipe.visits(), recipe.kv_heads
        keys_RGKW = np.zeros((*shape, recipe.head_size(), window), dtype=np.float32)
        return _Frame(StepCache(keys_RGKW, np.zeros((*shape, window, recipe.head_size()), dtype=np.float32)))

    def _empty_rows(self, count: int) -> tuple[Float64, Float64]:
        return np.zeros((count, self.vocab_size)), np.zeros((count, self._recipe.width))

    def _one_row(self, line: Int64, shift: int) -> tuple[Float64, Float64]:
        """Row [V] and state [D] of the present position."""
        rows_1V, states_1D = self._empty_rows(1)
        self._rows(self._frame, line, shift, self._position, (rows_1V, states_1D), scratch=False)
        return rows_1V[0], states_1D[0]

    def _rows(
        self, frame: _Frame, line: Int64, shift: int, first: int, out: tuple[Float64, Float64], *, scratch: bool
    ) -> None:
        """Rows [T, V] and states [T, D] of the positions from `first` on; token q of the text is `line[q + shift]`."""
        own = frame.cache
        rows_TV, states_TD = out
        for piece in self.grid.pieces(first, first + len(rows_TV)):
            if piece.start != frame.start:
                if scratch and frame.cache is own:
                    frame.cache = self._empty_frame().cache
                frame.start, frame.filled = piece.start, 0
            begin = frame.start + frame.filled  # position whose input comes next
            lead = min(frame.filled, 2)
            inputs = line[begin - lead - 1 + shift : piece.stop - 1 + shift]
            part = slice(piece.first - first, piece.stop - first)
            h_TD = states_TD[part]
            forward(self._weights, frame.cache, inputs, frame.filled, h_TD)
            frame.filled += len(inputs) - lead
            head_rows(h_TD, self._weights.head_DV, self._weights.softcaps, rows_TV[part])
