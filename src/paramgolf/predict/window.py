"""The neural model as a predictor: rows from overlapping frames of one fixed tensor shape.

Legend: B lanes, T positions of a chunk, F frames, W window, N real positions of a chunk in the order of their frames,
n positions of a batch, S positions of a block of the head, D width, V vocabulary.

On a CPU, in one fixed shape, what follows a position does not touch its row, not even in the last bit; in another
shape the same row moves by 1e-6 and more. So a batch is always `frames_per_batch` x W, padded, and the head runs over
fixed blocks of a batch. A batch is computed when one of its rows is first asked for: an audit of a single row of a
long chunk costs one batch.

With several ranks each computes a contiguous part of a chunk's frames. All ranks must ask for the same, in the same
order; they all get the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramgolf.kernels.loss import caps_of
from paramgolf.model.gpt import GPT
from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.lean_forward import lean_hidden, lean_logits
from paramgolf.predict.protocol import Chunk, Float64, Int64
from paramgolf.predict.slot_torch import TorchReadout
from paramgolf.ranks import Ranks
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


@dataclass(frozen=True)
class Layout:
    """The frames that a chunk needs, and which of their rows belong to which position."""

    inputs_FW: Int64
    first_F: Int64  # offset in the frame of its first kept row; the kept rows are neighbours
    edges: Int64  # [F + 1]; frame f holds the positions edges[f] <= N < edges[f + 1]
    lane_N: Int64
    column_N: Int64
    place_BT: Int64  # the N of each position, -1 at padding


class WindowPredictor:
    """Rows of `model` (left as it is, used without gradients) for `lanes` texts side by side.

    A lane remembers its last `score.window` tokens only. Works on the device and in the precision of the model;
    log-probabilities are float64.
    """

    def __init__(
        self,
        model: GPT,
        recipe: ScoreRecipe,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        frames_per_batch: int = 8,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.grid = FrameGrid(recipe.window, recipe.stride)
        self.vocab_size = vocab_size
        self.boundary_id = boundary_id
        self.frames_per_batch = frames_per_batch
        self.ranks = ranks or Ranks()
        self._lanes = [self._fresh() for _ in range(lanes)]

    @property
    def lanes(self) -> int:
        """Texts side by side."""
        return len(self._lanes)

    def reading(self, model: GPT) -> WindowPredictor:
        """A fresh predictor like this one that reads another model."""
        given = (self.recipe, self.vocab_size, self.boundary_id, self.lanes, self.frames_per_batch, self.ranks)
        return WindowPredictor(model, *given)

    def readout(self, on: str) -> TorchReadout:
        """How SLOT's offsets `on` states or logits make rows with the head of the model as it is now."""
        return TorchReadout(on, self.model.embedding.weight, caps_of(self.model.softcap))

    def predict(self, chunk: Chunk) -> WindowRows:
        """Rows of the chunk [B, T], computed when they are asked for."""
        return WindowRows(self, self._layout(chunk), chunk)

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

    def _layout(self, chunk: Chunk) -> Layout:
        window = self.grid.window
        inputs, firsts, counts = [], [], [0]
        lanes, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for b, lane in enumerate(self._lanes_at(chunk)):
            line, shift = lane.line(chunk.tokens[b, : chunk.lengths[b]])
            for piece in self.grid.pieces(lane.position, lane.position + int(chunk.lengths[b])):
                frame = line[piece.start - 1 + shift :][:window]
                inputs.append(np.pad(frame, (0, window - len(frame)), constant_values=self.boundary_id))
                firsts.append(piece.first - piece.start)
                counts.append(piece.stop - piece.first)
                lanes.append(np.full(counts[-1], b))
                columns.append(np.arange(piece.first, piece.stop) - lane.position)
        lane_N, column_N = np.concatenate(lanes), np.concatenate(columns)
        place_BT = np.full(chunk.tokens.shape, -1, dtype=np.int64)
        place_BT[lane_N, column_N] = np.arange(len(lane_N))
        inputs_FW = np.array(inputs, dtype=np.int64).reshape(-1, window)
        return Layout(inputs_FW, np.array(firsts, dtype=np.int64), np.cumsum(counts), lane_N, column_N, place_BT)


class WindowRows:
    """Rows of one chunk; the same position has the same bits whatever else is asked for."""

    def __init__(self, predictor: WindowPredictor, layout: Layout, chunk: Chunk) -> None:
        self._predictor = predictor
        self._layout = layout
        self._chunk = chunk
        ranks, frames = predictor.ranks, len(layout.inputs_FW)
        self._mine = range(frames * ranks.rank // ranks.world, frames * (ranks.rank + 1) // ranks.world)
        self._states: dict[int, Tensor] = {}  # batch -> states [n, D]

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        layout = self._layout
        begin, end = layout.edges[self._mine.start], layout.edges[self._mine.stop]
        lane_n, column_n = layout.lane_N[begin:end], layout.column_N[begin:end]
        targets_n = torch.from_numpy(self._chunk.tokens[lane_n, column_n]).to(self._device())
        found = [
            logits_SV.gather(1, targets_n[first - begin :][: len(logits_SV), None])[:, 0].double() - norm_S
            for first, logits_SV, norm_S in self._blocks(int(begin), int(end))
        ]
        credits_BT = np.zeros(self._chunk.tokens.shape, dtype=np.float64)
        if found:
            credits_BT[lane_n, column_n] = torch.cat(found).cpu().numpy()
        return self._predictor.ranks.add_array(credits_BT)

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        place = int(self._layout.place_BT[lane, position])
        if place < 0:
            raise IndexError(f"lane {lane} position {position} is padding")
        row_V: Float64 = self._rows(place, place + 1)[0]
        return row_V

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        return self._rows(*self._places(lane))

    def states(self, lane: int, first: int = 0, stop: int | None = None) -> Float64:
        """States after the last norm, [stop - first, D], of real positions of a lane (None: up to its length)."""
        begin, end = self._places(lane)
        begin, end = begin + first, end if stop is None else begin + stop
        states = np.zeros((end - begin, self._predictor.model.recipe.width), dtype=np.float64)
        for low, high, part in self._parts(begin, end):
            states[low - begin : high - begin] = part[: high - low].double().cpu().numpy()
        return self._predictor.ranks.add_array(states)

    def _places(self, lane: int) -> tuple[int, int]:
        """The places of a lane, `begin <= N < end`: its real positions are neighbours."""
        places = self._layout.place_BT[lane][self._layout.place_BT[lane] >= 0]
        return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)

    def _parts(self, begin: int, end: int) -> Iterator[tuple[int, int, Tensor]]:
        """This rank's places `begin <= N < end` batch by batch: low, high, states [at least high - low, D] from low."""
        edges = self._layout.edges
        begin = max(begin, int(edges[self._mine.start]))
        end = min(end, int(edges[self._mine.stop]))
        while begin < end:
            base, states_nD = self._batch_at(begin)
            high = min(end, base + len(states_nD))
            yield begin, high, states_nD[begin - base :]
            begin = high

    def _batch_at(self, place: int) -> tuple[int, Tensor]:
        """The batch that holds a place: its first place, its states [n, D]."""
        frame = int(np.searchsorted(self._layout.edges, place, side="right")) - 1
        batch = (frame - self._mine.start) // self._predictor.frames_per_batch
        return int(self._layout.edges[self._frames(batch).start]), self._batch(batch)

    def _rows(self, begin: int, end: int) -> Float64:
        """The rows of places `begin <= N < end`."""
        rows = np.zeros((end - begin, self._predictor.vocab_size), dtype=np.float64)
        mine = self._layout.edges[self._mine.start], self._layout.edges[self._mine.stop]
        for first, logits_SV, norm_S in self._blocks(max(begin, int(mine[0])), min(end, int(mine[1]))):
            low, high = max(first, begin), min(first + len(logits_SV), end)
            part = logits_SV[low - first : high - first].double() - norm_S[low - first : high - first, None]
            rows[low - begin : high - begin] = part.cpu().numpy()
        return self._predictor.ranks.add_array(rows)

    def _blocks(self, begin: int, end: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For blocks that hold this rank's places `begin <= N < end`: first place, logits [S, V], log-sum-exp [S]."""
        size = max(32, HEAD_LOGITS // self._predictor.vocab_size)
        with torch.no_grad():
            while begin < end:
                base, states_nD = self._batch_at(begin)
                first = (begin - base) // size * size
                logits_SV = lean_logits(self._predictor.model, states_nD[first : first + size])
                top_S1 = logits_SV.amax(dim=1, keepdim=True)
                # Exponentials in float32 are exact to 1e-7 each; only their sum needs float64.
                total_S = (logits_SV - top_S1).exp_().sum(dim=1, dtype=torch.float64)
                yield base + first, logits_SV, total_S.log() + top_S1[:, 0].double()
                begin = base + first + len(logits_SV)

    def _frames(self, batch: int) -> range:
        size = self._predictor.frames_per_batch
        return self._mine[batch * size : (batch + 1) * size]

    def _batch(self, batch: int) -> Tensor:
        """States [n, D] of the kept rows of one batch, from the cache or computed."""
        known = self._states.get(batch)
        if known is None:
            known = self._states[batch] = self._computed(self._frames(batch))
        return known

    def _computed(self, frames: range) -> Tensor:
        predictor, layout = self._predictor, self._layout
        window, stride = predictor.grid.window, predictor.grid.stride
        inputs_FW = np.full((predictor.frames_per_batch, window), predictor.boundary_id, dtype=np.int64)
        inputs_FW[: len(frames)] = layout.inputs_FW[frames.start : frames.stop]
        first_F = layout.first_F[frames.start : frames.stop]
        # All frames but the first of a text keep rows of their last stride alone: two shapes in all.
        last = stride if int(first_F.min()) >= window - stride else window
        edges = layout.edges[frames.start : frames.stop + 1]
        slots = np.repeat(np.arange(len(frames)), np.diff(edges))
        offset = np.arange(edges[0], edges[-1]) - edges[slots] + first_F[slots] - (window - last)
        tokens_FW = torch.from_numpy(inputs_FW).to(self._device())
        h_FTD = lean_hidden(predictor.model, tokens_FW, None if last == window else last)
        kept = torch.from_numpy(slots * last + offset).to(self._device())
        return h_FTD.reshape(-1, h_FTD.shape[-1])[kept]

    def _device(self) -> torch.device:
        return self._predictor.model.embedding.weight.device
