"""Rows of a chunk under SLOT: each stretch between two fits with the offsets fitted before it.

Legend: B lanes, T positions of a chunk, n positions of a stretch, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from paramgolf.predict.protocol import Chunk, Float64, FullRows, Int64, Rows
from paramgolf.predict.slot_lane import Offsets, SlotLane, fitted_on
from paramgolf.predict.slot_readout import Readout
from paramgolf.recipe import ScoreRecipe


@runtime_checkable
class ReadsOut(Protocol):
    """A predictor whose rows come from states that can be had, through a head that can be had."""

    def readout(self, on: str) -> Readout: ...


@runtime_checkable
class HasStates(Protocol):
    """Rows that tell the states [stop - first, D] of real positions of a lane."""

    def states(self, lane: int, first: int = 0, stop: int | None = None) -> Float64: ...


class Stretch(NamedTuple):
    """Positions first..stop-1 of a lane's part of the chunk that share offsets; `fit` counts the lane's intervals."""

    fit: int
    first: int
    stop: int


class SlotRows:
    """Rows of one chunk; the same position has the same bits whatever else is asked for. Void after `observe`."""

    def __init__(
        self, neural: Rows, chunk: Chunk, readout: Readout, recipe: ScoreRecipe, lanes: list[SlotLane], vocab_size: int
    ) -> None:
        self._vocab_size = vocab_size
        self._neural = neural
        self._chunk = chunk
        self._readout = readout
        self._recipe = recipe
        self._lanes = lanes
        self._offsets = {(b, lane.position // recipe.slot_interval): lane.offsets for b, lane in enumerate(lanes)}
        self._table: tuple[int, Float64] | None = None  # a lane and all rows of `neural` for it
        self._last: tuple[tuple[int, Stretch], Float64] | None = None  # a stretch that was asked for, and its rows

    def of(self, chunk: Chunk) -> bool:
        """Whether these are the rows of `chunk`."""
        return self._chunk.same_as(chunk)

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        every = [(b, stretch) for b in range(len(self._lanes)) for stretch in self._stretches(b)]
        neutral = not all(self._moved(b, stretch) for b, stretch in every)
        credits_BT = self._neural.realised().copy() if neutral else np.zeros(self._chunk.tokens.shape)
        for b, stretch in every:
            if self._moved(b, stretch):
                part = slice(stretch.first, stretch.stop)
                rows_nV = self._moved_rows(b, stretch)
                credits_BT[b, part] = rows_nV[np.arange(len(rows_nV)), self._chunk.tokens[b, part]]
        return credits_BT

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one real position, [V] nats."""
        for stretch in self._stretches(lane):
            if stretch.first <= position < stretch.stop:
                if not self._moved(lane, stretch):
                    return self._neural.row(lane, position)
                row_V: Float64 = self._moved_rows(lane, stretch)[position - stretch.first]
                return row_V.copy()
        raise IndexError(f"lane {lane} position {position} is padding")

    def all_rows(self, lane: int) -> Float64:
        """The distributions of all real positions of a lane, [length, V] nats."""
        none = np.zeros((0, self._vocab_size))
        return np.concatenate([none, *(self._stretch_rows(lane, stretch) for stretch in self._stretches(lane))])

    def lane_after(self, lane: int) -> SlotLane:
        """The lane once the chunk was observed, with the offsets of its last position still in force."""
        old, length = self._lanes[lane], int(self._chunk.lengths[lane])
        if not length:
            return old
        last = old.position + length - 1
        first = max(0, last + 1 - self._recipe.slot_context)
        features_NF, tokens_N = self._between(lane, first, last + 1)
        return SlotLane(last + 1, features_NF, tokens_N, self._fitted(lane, last // self._recipe.slot_interval))

    def _stretches(self, lane: int) -> Iterator[Stretch]:
        begin, interval = self._lanes[lane].position, self._recipe.slot_interval
        at, end = begin, begin + int(self._chunk.lengths[lane])
        while at < end:
            stop = min(end, (at // interval + 1) * interval)
            yield Stretch(at // interval, at - begin, stop - begin)
            at = stop

    def _moved(self, lane: int, stretch: Stretch) -> bool:
        """Whether there are offsets for a stretch: not in a lane's first interval."""
        return len(self._fitted(lane, stretch.fit).parameters_P) > 0

    def _stretch_rows(self, lane: int, stretch: Stretch) -> Float64:
        """The rows [n, V] of a whole stretch, moved or not."""
        if not self._moved(lane, stretch):
            return self._neural_rows(lane, stretch.first, stretch.stop)
        return self._moved_rows(lane, stretch)

    def _moved_rows(self, lane: int, stretch: Stretch) -> Float64:
        """The rows [n, V] of a whole stretch that has offsets: one shape, whichever of them is wanted."""
        if self._last is None or self._last[0] != (lane, stretch):
            offsets = self._fitted(lane, stretch.fit).for_position(self._lanes[lane].position + stretch.first)
            rows_nV = self._readout.rows(self._features(lane, stretch.first, stretch.stop), offsets.parameters_P)
            self._last = (lane, stretch), rows_nV
        return self._last[1]

    def _fitted(self, lane: int, fit: int) -> Offsets:
        """The offsets of a lane's interval `fit`, from the tokens before it."""
        begin = self._lanes[lane].position // self._recipe.slot_interval
        # Where fits start from the one before, all of them from the last known one on; else this one alone.
        for one in range(begin + 1 if self._recipe.slot_warm > 0 else fit, fit + 1):
            if (lane, one) not in self._offsets:
                stop = one * self._recipe.slot_interval
                first = max(0, stop - self._recipe.slot_context)
                before = self._offsets[lane, one - 1] if self._recipe.slot_warm > 0 else Offsets(np.zeros(0), -1)
                features_NF, tokens_N = self._between(lane, first, stop)
                self._offsets[lane, one] = fitted_on(self._readout, self._recipe, features_NF, tokens_N, first, before)
        return self._offsets[lane, fit]

    def _between(self, lane: int, first: int, stop: int) -> tuple[Float64, Int64]:
        """Features and tokens of positions first..stop-1 of a lane, which may lie before the chunk and in it."""
        kept, begin = self._lanes[lane], self._lanes[lane].position
        new = self._features(lane, max(first - begin, 0), stop - begin)
        tokens_N = self._chunk.tokens[lane, max(first - begin, 0) : stop - begin]
        if first >= begin:
            return new, tokens_N
        old = first - begin + len(kept.tokens_N)
        return np.concatenate([kept.features_NF[old:], new]), np.concatenate([kept.tokens_N[old:], tokens_N])

    def _features(self, lane: int, first: int, stop: int) -> Float64:
        if self._readout.reads_states:
            assert isinstance(self._neural, HasStates)
            return self._neural.states(lane, first, stop)
        return self._neural_rows(lane, first, stop)

    def _neural_rows(self, lane: int, first: int, stop: int) -> Float64:
        if not isinstance(self._neural, FullRows):
            rows = [self._neural.row(lane, position) for position in range(first, stop)]
            return np.array(rows, dtype=np.float64).reshape(len(rows), self._vocab_size)
        if self._table is None or self._table[0] != lane:
            self._table = lane, self._neural.all_rows(lane)
        return self._table[1][first:stop]
