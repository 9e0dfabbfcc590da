"""The neural model as a predictor: rows from overlapping frames of one fixed tensor shape.

Legend: B lanes, T positions of a chunk, F frames of a batch, W window, N real positions of a chunk, S positions of a
block, D width, V vocabulary.

On a CPU, in one fixed shape, what follows a position does not touch its row, not even in the last bit; in another
shape the same row moves by 1e-6 and more. So frames are always F x W, padded, and the head runs over fixed blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramgolf.model.gpt import GPT
from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.lean_forward import lean_hidden, lean_logits
from paramgolf.predict.protocol import Chunk, Float64, Int64
from paramgolf.recipe import ScoreRecipe

HEAD_LOGITS = 1 << 18  # that go through the head at once: they stay in the cache of a core


@dataclass(frozen=True)
class Lane:
    """The last tokens of one lane (the first of them may be the virtual boundary) and its position in the text."""

    history: Int64
    position: int

    def line(self, tokens: Int64) -> tuple[Int64, int]:
        """History and `tokens` in one array, and what to add to a token's position to find it there."""
        return np.concatenate([self.history, tokens]), len(self.history) - self.position

    def after(self, tokens: Int64, window: int) -> Lane:
        """The lane once `tokens` were observed."""
        return Lane(np.concatenate([self.history, tokens])[-window:], self.position + len(tokens))


class WindowPredictor:
    """Rows of `model` (left as it is, used without gradients) for `lanes` texts side by side.

    A lane remembers its last `score.window` tokens only. One lane's chunk of `frames_per_batch * score.stride` tokens
    is exactly one batch. Works on the device and in the precision of the model; log-probabilities are float64.
    """

    def __init__(
        self,
        model: GPT,
        recipe: ScoreRecipe,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        frames_per_batch: int = 8,
    ) -> None:
        self.model = model
        self.grid = FrameGrid(recipe.window, recipe.stride)
        self.vocab_size = vocab_size
        self.boundary_id = boundary_id
        self.frames_per_batch = frames_per_batch
        self._lanes = [self._fresh() for _ in range(lanes)]

    def predict(self, chunk: Chunk) -> WindowRows:
        """Rows of the chunk [B, T]; the body of the model runs here, the head when rows are asked for."""
        frames, rows, index_BT = self._frames(chunk)
        device = self.model.embedding.weight.device
        hidden = []
        with torch.no_grad():
            for first in range(0, len(frames), self.frames_per_batch):
                tokens_FW = torch.from_numpy(frames[first : first + self.frames_per_batch]).to(device)
                h_FWD = lean_hidden(self.model, tokens_FW)
                wanted = rows[first // self.frames_per_batch]
                hidden.append(h_FWD.reshape(-1, h_FWD.shape[-1])[torch.from_numpy(wanted).to(device)])
        return WindowRows(self.model, hidden, index_BT, chunk, self.vocab_size)

    def observe(self, chunk: Chunk) -> None:
        """Append the chunk's real tokens to the lanes."""
        for b, lane in enumerate(self._lanes_at(chunk)):
            self._lanes[b] = lane.after(chunk.tokens[b, : chunk.lengths[b]], self.grid.window)

    def _fresh(self) -> Lane:
        return Lane(np.array([self.boundary_id], dtype=np.int64), 0)

    def _lanes_at(self, chunk: Chunk) -> list[Lane]:
        if len(chunk.tokens) != len(self._lanes):
            raise ValueError(f"a chunk of {len(chunk.tokens)} lanes for a predictor of {len(self._lanes)}")
        return [self._fresh() if start else lane for lane, start in zip(self._lanes, chunk.starts)]

    def _frames(self, chunk: Chunk) -> tuple[Int64, list[Int64], Int64]:
        """Inputs [frames, W] in whole batches, the rows to keep of each flattened batch, and where (b, t) went."""
        window, batch = self.grid.window, self.frames_per_batch
        inputs: list[Int64] = []
        kept: list[Int64] = []
        index_BT = np.full(chunk.tokens.shape, -1, dtype=np.int64)
        found = 0
        for b, lane in enumerate(self._lanes_at(chunk)):
            line, shift = lane.line(chunk.tokens[b, : chunk.lengths[b]])
            for piece in self.grid.pieces(lane.position, lane.position + int(chunk.lengths[b])):
                frame = line[piece.start - 1 + shift :][:window]
                inputs.append(np.pad(frame, (0, window - len(frame)), constant_values=self.boundary_id))
                slot = (len(inputs) - 1) % batch
                kept.append(slot * window + np.arange(piece.first - piece.start, piece.stop - piece.start))
                count = piece.stop - piece.first
                column = piece.first - lane.position
                index_BT[b, column : column + count] = np.arange(found, found + count)
                found += count
        inputs += [np.full(window, self.boundary_id, dtype=np.int64)] * (-len(inputs) % batch)
        rows = [np.concatenate(kept[first : first + batch]) for first in range(0, len(kept), batch)]
        return np.array(inputs, dtype=np.int64).reshape(-1, window), rows, index_BT


class WindowRows:
    """Rows held as hidden states; the head runs on demand, in the same blocks always, so answers have the same bits."""

    def __init__(self, model: GPT, hidden: list[Tensor], index_BT: Int64, chunk: Chunk, vocab_size: int) -> None:
        self._model = model
        self._h_ND = torch.cat(hidden) if hidden else torch.empty(0)
        self._index_BT = index_BT
        self._chunk = chunk
        self._vocab_size = vocab_size

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        real_BT = self._index_BT >= 0
        targets_N = torch.from_numpy(self._chunk.tokens[real_BT]).to(self._h_ND.device)
        credits_N = [
            logits_SV.gather(1, targets_N[first : first + len(logits_SV), None])[:, 0].double() - norm_S
            for first, logits_SV, norm_S in self._blocks(0, len(self._h_ND))
        ]
        credits_BT = np.zeros(real_BT.shape, dtype=np.float64)
        if credits_N:
            credits_BT[real_BT] = torch.cat(credits_N).cpu().numpy()
        return credits_BT

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        place = int(self._index_BT[lane, position])
        if place < 0:
            raise IndexError(f"lane {lane} position {position} is padding")
        first, logits_SV, norm_S = next(self._blocks(place, place + 1))
        row: Float64 = (logits_SV[place - first].double() - norm_S[place - first]).cpu().numpy()
        return row

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        places = self._index_BT[lane][self._index_BT[lane] >= 0]
        rows = np.empty((len(places), self._vocab_size), dtype=np.float64)
        if not len(places):
            return rows
        begin, end = int(places[0]), int(places[-1]) + 1
        for first, logits_SV, norm_S in self._blocks(begin, end):
            low, high = max(first, begin), min(first + len(logits_SV), end)
            part = logits_SV[low - first : high - first].double() - norm_S[low - first : high - first, None]
            rows[low - begin : high - begin] = part.cpu().numpy()
        return rows

    def _blocks(self, begin: int, end: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For the blocks that hold places `begin <= n < end`: first place, logits [S, V], log-sum-exp [S] float64."""
        size = max(32, HEAD_LOGITS // self._vocab_size)
        with torch.no_grad():
            for first in range(begin - begin % size, end, size):
                logits_SV = lean_logits(self._model, self._h_ND[first : first + size])
                top_S1 = logits_SV.amax(dim=1, keepdim=True)
                # Exponentials in float32 are exact to 1e-7 each; only their sum needs float64.
                total_S = (logits_SV - top_S1).exp_().sum(dim=1, dtype=torch.float64)
                yield first, logits_SV, total_S.log() + top_S1[:, 0].double()
