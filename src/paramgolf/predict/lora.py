"""Test-time training of a low-rank adapter for each document, many documents at once (PR #1855, #2014, #2140).

Every lane has adapters of its own, fresh when a document begins. The rows of a piece of `lora_chunks` tokens come from
the model with the adapters as they are; once the piece is complete the adapters take one step of AdamW on the mean loss
of exactly its tokens, and the next piece follows. The last, incomplete piece of a document is never learnt from. All
lanes go through the model as one batch. Optionally, once `global_documents` documents were scored, all weights train on
them (`global_phase.py`). Rules: `lora_layout.py`; settings: `ScoreRecipe`; spec pr2140.md 5.2 to 5.4.

Legend: B lanes, T positions of a chunk, V vocabulary.
"""

from __future__ import annotations

import bisect
import copy

import numpy as np
import torch

from paramgolf.errors import RecipeError
from paramgolf.model.adapters import LoraAdapters
from paramgolf.model.gpt import GPT
from paramgolf.predict.global_phase import GlobalPhases
from paramgolf.predict.learning import Learning
from paramgolf.predict.lora_layout import DocumentLane, Part, PieceGrid, lane_parts
from paramgolf.predict.lora_state import LaneAdapters
from paramgolf.predict.lora_walk import Walk
from paramgolf.predict.protocol import Chunk, Float64
from paramgolf.predict.token_ids import refuse_unknown
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks


class LoraPredictor:
    """A predictor of `window`'s model and lanes with adapters that learn; the model of `window` never does.

    A document begins where a chunk's `starts` says so and, with one lane, after each boundary token. Fresh adapters are
    the same in every lane, so a document's rows depend on no other document, unless `lora_keeps_inner` or a global
    phase carries something over; then they depend on the plan. Once a phase has moved the weights every lane has fresh
    adapters, also in the midst of a document: what it had learnt was fitted to the old weights.

    Chunks may have any length. Only with one lane and a global phase must `chunk`, the length of the chunks that will
    come (None: `score.chunk`), divide `score.chunk`, where alone the weights may move: `RecipeError` otherwise, and
    `ValueError` for a chunk that straddles such a place. `RecipeError` too if one of `lora_chunks` is above `window`.
    `tokens` is how many the text has, if that is known: no phase is run after the last.

    With several ranks each has some of the lanes; all must ask for the same, and get the same answers. Where a lane's
    numbers are not finite its adapters stay as they were until its document ends; where the weights' are not, they go
    back and stay there. `learning.stopped` says so. `TokenizerError` for ids outside 0..V - 1 before anything changes.
    """

    def __init__(self, window: WindowPredictor, *, chunk: int | None = None, tokens: int | None = None) -> None:
        recipe = window.recipe
        chunk = recipe.chunk if chunk is None else chunk
        if max(recipe.lora_chunks) > recipe.window:
            raise RecipeError(
                f"score.lora_chunks={','.join(map(str, recipe.lora_chunks))} names more than "
                f"score.window={recipe.window}"
            )
        if window.lanes == 1 and recipe.global_documents and recipe.chunk % chunk:
            raise RecipeError(
                f"score.chunk={recipe.chunk} is no multiple of chunks of {chunk}: with one lane the weights may only "
                "move between chunks"
            )
        self.recipe = recipe
        self.vocab_size = window.vocab_size
        self.ranks: Ranks = window.ranks
        self.learning = Learning()
        self.own = range(  # lanes of this rank
            window.lanes * self.ranks.rank // self.ranks.world, window.lanes * (self.ranks.rank + 1) // self.ranks.world
        )
        self._boundary_id = window.boundary_id
        self._model = copy.deepcopy(window.model).requires_grad_(False)
        self._grid = PieceGrid(recipe.lora_chunks, recipe.lora_chunks_until, recipe.window)
        self._lanes = [DocumentLane.fresh(window.boundary_id) for _ in range(window.lanes)]
        self._states = LaneAdapters(self._first_adapters(), recipe)
        self._phases = GlobalPhases(self._model, recipe, window.boundary_id, window.lanes, window.ranks)
        self._tokens, self._observed = tokens, 0
        self._walked: tuple[Chunk, Walk] | None = None

    @property
    def model(self) -> GPT:
        """The model that the adapters are added to; not to be changed."""
        return self._model

    @property
    def adapters(self) -> LoraAdapters:
        """The adapters of this rank's lanes as they are now; not to be changed."""
        return self._states.adapters

    def predict(self, chunk: Chunk) -> LoraRows:
        """Rows of the chunk [B, T], computed when they are asked for."""
        self._refuse_straddling(chunk)
        parts, _ = self._parts(chunk)
        walk = self._walk(parts)
        # A caller may write the next token into the chunk that it showed.
        self._walked = (Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy()), walk)
        return LoraRows(self, walk, parts, chunk)

    def observe(self, chunk: Chunk) -> None:
        """Append the chunk's tokens and learn from the pieces that they complete."""
        self._refuse_straddling(chunk)
        parts, lanes = self._parts(chunk)
        (asked, walk), self._walked = self._walked or (None, None), None
        if walk is None or asked is None or not asked.same_as(chunk):
            walk = self._walk(parts)
        self._states = walk.end()
        self._lanes = lanes
        self._observed += int(chunk.lengths.sum())
        self._count(parts, walk)
        self._phases.add(chunk, parts)
        if self._observed != self._tokens and self._phases.run_if_due(self._observed, self.learning):
            self._states = LaneAdapters(self._first_adapters(), self.recipe)

    def _first_adapters(self) -> LoraAdapters:
        recipe, model = self.recipe, self._model
        adapters = LoraAdapters(
            model.recipe, self.vocab_size, len(self.own), recipe.lora_rank, recipe.lora_alpha, recipe.lora_query_value
        )
        return adapters.to(model.embedding.weight.device)

    def _parts(self, chunk: Chunk) -> tuple[list[list[Part]], list[DocumentLane]]:
        """The parts of every lane's tokens, and the lanes after them."""
        if len(chunk.tokens) != len(self._lanes):
            raise ValueError(f"a chunk of {len(chunk.tokens)} lanes for a predictor of {len(self._lanes)}")
        refuse_unknown(chunk, self.vocab_size)
        parts: list[list[Part]] = []
        after: list[DocumentLane] = []
        for b, lane in enumerate(self._lanes):
            lane = DocumentLane.fresh(self._boundary_id) if chunk.starts[b] else lane
            tokens = chunk.tokens[b, : chunk.lengths[b]]
            stream = len(self._lanes) == 1
            found = list(lane_parts(lane, tokens, self._boundary_id, self._grid, stream=stream))
            parts.append([part for part, _ in found])
            after.append(found[-1][1] if found else lane)
        return parts, after

    def _walk(self, parts: list[list[Part]]) -> Walk:
        return Walk(self._model, self._grid, self._boundary_id, self._states, [parts[b] for b in self.own])

    def _refuse_straddling(self, chunk: Chunk) -> None:
        if len(self._lanes) > 1 or not self.recipe.global_documents:
            return
        before, count = self._observed % self.recipe.chunk, int(chunk.lengths.sum())
        if before + count > self.recipe.chunk:
            raise ValueError(
                f"a chunk of {count} tokens straddles a place where all weights may move: {before} tokens of "
                f"score.chunk={self.recipe.chunk} were observed before it"
            )

    def _count(self, parts: list[list[Part]], walk: Walk) -> None:
        """Add to what was learnt, the same on all ranks."""
        if not any(part.completes(self._grid) for of_lane in parts for part in of_lane):
            return
        shared = torch.zeros(len(self._lanes) + 1, dtype=torch.float64)
        shared[-1] = walk.learnt
        shared[self.own.start : self.own.stop] = torch.from_numpy(walk.broken).double()
        *broken, learnt = self.ranks.add(shared).tolist()
        learning = self.learning
        learning.updates += int(learnt)
        learning.seconds += walk.seconds
        if any(broken) and not learning.stopped:
            learning.stopped = (
                f"the adapters of lane {broken.index(1.0)}, by {self._observed:,} tokens, met numbers that are not "
                "finite: such lanes stay as they are until their document ends"
            )


class LoraRows:
    """Rows of one chunk; the same position has the same bits whatever else is asked for."""

    def __init__(self, predictor: LoraPredictor, walk: Walk, parts: list[list[Part]], chunk: Chunk) -> None:
        self._ranks, self._own, self._vocab_size = predictor.ranks, predictor.own, predictor.vocab_size
        self._walk, self._parts, self._chunk = walk, parts, chunk

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        credits_BT = np.zeros(self._chunk.tokens.shape, dtype=np.float64)
        for b in self._own:
            for index, part in enumerate(self._parts[b]):
                columns = slice(part.column, part.column + part.stop - part.first)
                credits_BT[b, columns] = self._walk.realised(b - self._own.start, index)
        return self._ranks.add_array(credits_BT)

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        if not 0 <= position < self._chunk.lengths[lane]:
            raise IndexError(f"lane {lane} position {position} is padding")
        row_V = np.zeros(self._vocab_size, dtype=np.float64)
        if lane in self._own:
            index = bisect.bisect_right([part.column for part in self._parts[lane]], position) - 1
            column = self._parts[lane][index].column
            row_V = self._walk.rows(lane - self._own.start, index)[position - column]
        return self._ranks.add_array(row_V)

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        rows = np.zeros((int(self._chunk.lengths[lane]), self._vocab_size), dtype=np.float64)
        if lane in self._own:
            for index, part in enumerate(self._parts[lane]):
                columns = slice(part.column, part.column + part.stop - part.first)
                rows[columns] = self._walk.rows(lane - self._own.start, index)
        return self._ranks.add_array(rows)
