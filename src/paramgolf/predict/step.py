"""The neural model one token at a time: the frames of `WindowPredictor`, bits that are the same on every machine.

Legend: T positions of a chunk (one lane), L layers, D width, G key/value heads, K channels of a head, W window,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import ArtifactError
from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.protocol import Chunk, Float64, Int64, TableRows
from paramgolf.predict.step_kernel import StepCache, StepWeights, forward, head_rows
from paramgolf.recipe import ModelRecipe, ScoreRecipe

Float32 = npt.NDArray[np.float32]


class StepRows(TableRows):
    """Rows of one lane, all computed."""

    def __init__(self, logprob_TV: Float64, chunk: Chunk) -> None:
        super().__init__(logprob_TV[None], chunk)
        self._rows_TV = logprob_TV

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions, [length, V] nats."""
        return self._rows_TV[: self._chunk.lengths[lane]]


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
        self._weights = gather_weights(weights, model_recipe, score_recipe.window, vocab_size)
        self._frame = self._empty_frame()
        self._position = 0
        self._history = self._no_history()
        self._restart()

    def predict(self, chunk: Chunk) -> StepRows:
        """Rows of a chunk [1, T]; computes on a copy of the frame where the chunk leaves the present one."""
        tokens = self._real(chunk)
        position, history, row_V = self._position, self._history, self._row_V
        if chunk.starts[0]:
            position, history, row_V = 0, self._no_history(), self._first_row_V
        rows_TV = np.zeros((chunk.tokens.shape[1], self.vocab_size))
        if len(tokens):
            rows_TV[0] = row_V
        if len(tokens) > 1:
            # What is written behind `filled` is dead once this call returns; any other frame goes to a scratch cache.
            frame = _Frame(self._frame.cache, self._frame.start, self._frame.filled)
            if chunk.starts[0]:
                frame = self._empty_frame()
            line, shift = np.concatenate([history, tokens]), len(history) - position
            self._rows(frame, line, shift, position + 1, position + len(tokens), rows_TV[1:], scratch=True)
        return StepRows(rows_TV, chunk)

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
        row_1V = np.empty((1, self.vocab_size))
        self._rows(self._frame, line, shift, self._position, self._position + 1, row_1V, scratch=False)
        self._row_V = row_1V[0]

    def _restart(self) -> None:
        self._position = 0
        self._history = self._no_history()
        self._frame.start = -1
        row_1V = np.empty((1, self.vocab_size))
        self._rows(self._frame, self._history, 1, 0, 1, row_1V, scratch=False)
        self._row_V = self._first_row_V = row_1V[0]

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
        shape = recipe.layers, recipe.kv_heads
        keys_LGKW = np.zeros((*shape, recipe.head_size(), window))
        return _Frame(StepCache(keys_LGKW, np.zeros((*shape, window, recipe.head_size()))))

    def _rows(
        self, frame: _Frame, line: Int64, shift: int, first: int, stop: int, out_TV: Float64, *, scratch: bool
    ) -> None:
        """Rows of positions first..stop-1 into `out_TV`; token q of the text is `line[q + shift]`."""
        own = frame.cache
        for piece in self.grid.pieces(first, stop):
            if piece.start != frame.start:
                if scratch and frame.cache is own:
                    frame.cache = self._empty_frame().cache
                frame.start, frame.filled = piece.start, 0
            begin = frame.start + frame.filled  # position whose input comes next
            inputs = line[begin - 1 + shift : piece.stop - 1 + shift]
            h_TD = np.empty((len(inputs), self._recipe.width))
            forward(self._weights, frame.cache, inputs, frame.filled, h_TD)
            frame.filled += len(inputs)
            wanted = piece.stop - piece.first
            head_rows(self._weights, h_TD[-wanted:], out_TV[piece.first - first : piece.stop - first])


def gather_weights(weights: Mapping[str, Float32], recipe: ModelRecipe, window: int, vocab_size: int) -> StepWeights:
    """Stack and transpose for the kernel; raise `ArtifactError` if a tensor is missing or has another shape."""
    width, kv = recipe.width, recipe.kv_width()
    embedding_VD = _tensor(weights, "embedding.weight", (vocab_size, width))
    qkv, output, up, down, gain = [], [], [], [], []
    for layer in range(recipe.layers):
        attention, mlp = f"blocks.{layer}.attention", f"blocks.{layer}.mlp"
        shapes = {"query": (width, width), "key": (kv, width), "value": (kv, width)}
        qkv.append(np.concatenate([_tensor(weights, f"{attention}.{n}.weight", s) for n, s in shapes.items()]).T)
        output.append(_tensor(weights, f"{attention}.output.weight", (width, width)).T)
        up.append(_tensor(weights, f"{mlp}.up.weight", (recipe.mlp_width(), width)).T)
        down.append(_tensor(weights, f"{mlp}.down.weight", (width, recipe.mlp_width())).T)
        gain.append(_tensor(weights, f"{attention}.query_gain", (recipe.heads,)))
    cos_WK, sin_WK = rotary_tables(recipe, window)
    return StepWeights(
        np.ascontiguousarray(embedding_VD),
        np.ascontiguousarray(embedding_VD.T),
        np.ascontiguousarray(np.stack(qkv)),
        np.ascontiguousarray(np.stack(output)),
        np.ascontiguousarray(np.stack(up)),
        np.ascontiguousarray(np.stack(down)),
        np.stack(gain).astype(np.float64),
        cos_WK,
        sin_WK,
        float(recipe.softcap),
    )


def rotary_tables(recipe: ModelRecipe, window: int) -> tuple[Float64, Float64]:
    """cos and sin [W, K/2] of position times speed; float32 values, which hides the last bit of a library's cosine."""
    half = recipe.head_size() // 2
    angles = [[t * recipe.rope_base ** (-j / half) for j in range(half)] for t in range(window)]
    cos_WK = np.array([[math.cos(a) for a in row] for row in angles], dtype=np.float32)
    sin_WK = np.array([[math.sin(a) for a in row] for row in angles], dtype=np.float32)
    return cos_WK.astype(np.float64), sin_WK.astype(np.float64)


def _tensor(weights: Mapping[str, Float32], name: str, shape: tuple[int, ...]) -> Float32:
    if name not in weights:
        raise ArtifactError(f"the weights lack {name}")
    found = weights[name]
    if found.shape != shape:
        raise ArtifactError(f"{name} has shape {found.shape}, the recipe says {shape}")
    return np.asarray(found, dtype=np.float32)
