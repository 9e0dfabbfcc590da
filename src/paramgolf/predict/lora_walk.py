"""What a chunk of tokens does to the lanes' adapters, step by step, without touching them.

At step k the k-th parts of all lanes go through the model as one batch: rows first, then, for the lanes whose piece is
complete, one step of their adapters; the rows of step k + 1 come from the new ones. A walk begins at the adapters that
it is given and computes no further than what is asked for. With several lanes every shape follows from their positions
and from how many tokens they get, in a stream from the tokens before; and every row takes the same way through the
model, whether its piece is learnt from or not. So on a CPU a row has the same bits whatever comes after it.

Legend: S lanes that take part in a step, W inputs, C positions of their longest piece, n of a part, D width,
V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.model.adapters import HEAD
from paramgolf.model.gpt import GPT
from paramgolf.predict.lora_layout import Part, PieceGrid
from paramgolf.predict.lora_state import LaneAdapters
from paramgolf.predict.protocol import Bool, Float64, Int64
from paramgolf.predict.ttt_step import IGNORED


class Walk:
    """`parts[lane]` are those of one chunk; `states` the adapters before it.

    On the way `learnt` steps of a lane's adapters were taken, in `seconds`; `broken` lanes met numbers that are not
    finite.
    """

    def __init__(
        self, model: GPT, grid: PieceGrid, boundary_id: int, states: LaneAdapters, parts: Sequence[Sequence[Part]]
    ) -> None:
        self._model, self._grid, self._boundary_id = model, grid, boundary_id
        self._states, self._parts = states, parts
        self._scored: list[_Scored] = []
        self._lesson: _Lesson | None = None  # of the last step, not yet learnt
        self.broken: Bool = np.zeros(len(parts), dtype=np.bool_)
        self.learnt = 0
        self.seconds = 0.0

    def rows(self, lane: int, index: int) -> Float64:
        """The log-probabilities [n, V] of the lane's part `index`."""
        scored, place, rows = self._found(lane, index)
        row_nV = scored.logits_SCV[place, rows].double() - scored.norm_SC[place, rows, None]
        return np.asarray(row_nV.cpu().numpy(), dtype=np.float64)

    def realised(self, lane: int, index: int) -> Float64:
        """The log-probabilities [n] of the tokens of the lane's part `index`."""
        scored, place, rows = self._found(lane, index)
        part = self._parts[lane][index]
        targets_n = torch.from_numpy(part.line[-(part.stop - part.first) :]).to(scored.norm_SC.device)
        logit_n = scored.logits_SCV[place, rows].gather(1, targets_n[:, None])[:, 0]
        return np.asarray((logit_n.double() - scored.norm_SC[place, rows]).cpu().numpy(), dtype=np.float64)

    def end(self) -> LaneAdapters:
        """The adapters once the chunk was scored and learnt from."""
        completing = [
            index + 1 for of_lane in self._parts for index, part in enumerate(of_lane) if part.completes(self._grid)
        ]
        while len(self._scored) < max(completing, default=0):
            self._step()
        self._learn()
        for index in range(len(self._scored), max(map(len, self._parts), default=0)):
            self._begin(index)
        return self._states

    def _found(self, lane: int, index: int) -> tuple[_Scored, int, slice]:
        """The step that scored a part, the lane's place in it, and the part's rows."""
        while len(self._scored) <= index:
            self._step()
        part, scored = self._parts[lane][index], self._scored[index]
        first = part.first - self._grid.begin(part.first)
        return scored, scored.lanes.index(lane), slice(first, first + part.stop - part.first)

    def _step(self) -> None:
        self._learn()
        lanes = self._begin(len(self._scored))
        parts = [self._parts[lane][len(self._scored)] for lane in lanes]
        logits_SCV = self._logits(lanes, parts)
        known_SCV = logits_SCV.detach()
        self._scored.append(_Scored(lanes, known_SCV, _norm(known_SCV)))
        learning = [
            place
            for place, (lane, part) in enumerate(zip(lanes, parts))
            if part.completes(self._grid) and not self._states.resting[lane]
        ]
        if learning:
            targets_SC = np.full((len(learning), known_SCV.shape[1]), IGNORED, dtype=np.int64)
            for row, place in enumerate(learning):
                size = self._grid.size(parts[place].first)
                targets_SC[row, :size] = parts[place].line[-size:]
            self._lesson = _Lesson([lanes[place] for place in learning], logits_SCV, learning, targets_SC)

    def _begin(self, index: int) -> list[int]:
        """Give the lanes that begin a document at a step fresh adapters; the lanes that take part in the step."""
        lanes = [lane for lane, of_lane in enumerate(self._parts) if len(of_lane) > index]
        self._states = self._states.fresh_in(self._mask([lane for lane in lanes if self._parts[lane][index].fresh]))
        return lanes

    def _logits(self, lanes: list[int], parts: list[Part]) -> Tensor:
        """Logits [S, C, V] of all positions of the lanes' pieces, with the graph of their adapters.

        Behind a piece that is shorter than the longest they mean nothing.
        """
        grid, device = self._grid, self._model.embedding.weight.device
        width = max(grid.width(part.first) for part in parts)
        inputs_SW = np.full((len(parts), width), self._boundary_id, dtype=np.int64)
        first_S, size = np.empty(len(parts), dtype=np.int64), max(grid.size(part.first) for part in parts)
        for place, part in enumerate(parts):
            inputs_SW[place, : len(part.line) - 1] = part.line[:-1]
            first_S[place] = grid.width(part.first) - grid.size(part.first)
        column_SC = torch.from_numpy(np.minimum(first_S[:, None] + np.arange(size), width - 1)).to(device)
        with torch.enable_grad():
            chosen = None if len(lanes) == len(self._parts) else torch.tensor(lanes, device=device)
            adapters = self._states.adapters.chosen(chosen)
            h_SCD = self._model.hidden(
                torch.from_numpy(inputs_SW).to(device), adapters=adapters, positions_Bn=column_SC
            )
            return self._model.logits(h_SCD, adapters.delta(HEAD, 0, h_SCD))

    def _learn(self) -> None:
        """Take the step of the lanes whose piece the last step completed."""
        lesson, self._lesson = self._lesson, None
        if lesson is None:
            return
        begin, before = time.perf_counter(), self._states
        targets_SC = torch.from_numpy(lesson.targets_SC).to(lesson.logits_SCV.device)
        with torch.enable_grad():
            logits_SCV = lesson.logits_SCV[lesson.places]
            loss_N = functional.cross_entropy(
                logits_SCV.flatten(0, 1), targets_SC.flatten(), ignore_index=IGNORED, reduction="none"
            )
            means_S = loss_N.view_as(targets_SC).sum(dim=1) / (targets_SC != IGNORED).sum(dim=1)
            gradients = torch.autograd.grad(means_S.sum(), list(before.adapters.parameters()))
        self._states = before.stepped(gradients, self._mask(lesson.lanes))
        broken = self._states.resting & ~before.resting
        self.broken |= broken
        self.learnt += len(lesson.lanes) - int(broken.sum())
        self.seconds += time.perf_counter() - begin

    def _mask(self, lanes: list[int]) -> Bool:
        mask = np.zeros(len(self._parts), dtype=np.bool_)
        mask[lanes] = True
        return mask


class _Scored(NamedTuple):
    """Logits of the lanes that took part in a step, and their log-sum-exp in float64."""

    lanes: list[int]
    logits_SCV: Tensor
    norm_SC: Tensor


class _Lesson(NamedTuple):
    """What some lanes learn from: a step's logits with their graph, the lanes' places in it, targets [S, C].

    Targets behind a piece are `IGNORED`.
    """

    lanes: list[int]
    logits_SCV: Tensor
    places: list[int]
    targets_SC: Int64


def _norm(logits_SCV: Tensor) -> Tensor:
    """log-sum-exp [S, C] in float64."""
    top_SC1 = logits_SCV.amax(dim=2, keepdim=True)
    # Exponentials in float32 are exact to 1e-7 each; only their sum needs float64.
    total_SC = (logits_SCV - top_SC1).exp_().sum(dim=2, dtype=torch.float64)
    return total_SC.log() + top_SC1[:, :, 0].double()
