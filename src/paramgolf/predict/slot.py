"""Strict SLOT: offsets to a model's states or logits, fitted on tokens already scored and used for later ones alone.

#1430 fits such offsets on the very targets that it then scores; here a fit sees the last `slot_context` tokens before
the positions that it is used for (spec pr1430.md 5, "strict version"). Settings: `ScoreRecipe.slot_*`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from paramgolf.errors import RecipeError
from paramgolf.predict.protocol import Chunk, Predictor
from paramgolf.predict.slot_lane import SlotLane
from paramgolf.predict.slot_readout import FixedReadout, Readout
from paramgolf.predict.slot_rows import ReadsOut, SlotRows
from paramgolf.recipe import ScoreRecipe


class SlotPredictor:
    """The rows of `neural`, moved by offsets that are fitted anew at every `slot_interval`-th position of a lane.

    The fit at position p of a lane (positions count from its last start) sees positions `p - slot_context .. p - 1`
    and serves p .. p + slot_interval - 1; the first `slot_interval` rows of a lane are those of `neural`, bit for bit.
    So rows do not depend on how a lane is cut into chunks, beyond what `neural`'s own do. `observe` makes the fit that
    the next chunk begins with; `predict` makes those at later positions of its chunk, and keeps none.

    Over a `StepPredictor` the rows are the same bits on every machine. With `slot_on` "hidden" or "both", `neural` must
    give its states (`WindowPredictor`, `StepPredictor`, `TttPredictor` do): `RecipeError` otherwise. Raises
    `ValueError` for another number of lanes than `lanes`, and for tokens outside the vocabulary.
    """

    def __init__(self, neural: Predictor, recipe: ScoreRecipe, lanes: int = 1) -> None:
        if recipe.slot_on != "logits" and not isinstance(neural, ReadsOut):
            raise RecipeError(
                f"score.slot_on={recipe.slot_on!r} needs a model whose states can be had, not {type(neural).__name__}; "
                "take 'logits'"
            )
        self.neural = neural
        self.recipe = recipe
        self.vocab_size = neural.vocab_size
        self._lanes = [SlotLane.fresh() for _ in range(lanes)]
        self._latest: SlotRows | None = None

    def predict(self, chunk: Chunk) -> SlotRows:
        """Rows of the chunk [B, T], computed when they are asked for."""
        self._latest = self._rows(chunk)
        return self._latest

    def observe(self, chunk: Chunk) -> None:
        """Keep what a fit may see of the chunk, show it to `neural`, and fit where an interval has ended."""
        latest, self._latest = self._latest, None
        if latest is None or not latest.of(chunk):  # the same rows, if they were asked for already
            latest = self._rows(chunk)
        lanes = [latest.lane_after(lane) for lane in range(len(self._lanes))]
        self.neural.observe(chunk)
        readout = self._readout()  # of the weights that the next row comes from
        self._lanes = [lane.fitted(readout, self.recipe) for lane in lanes]

    def _rows(self, chunk: Chunk) -> SlotRows:
        if len(chunk.tokens) != len(self._lanes):
            raise ValueError(f"a chunk of {len(chunk.tokens)} lanes for a predictor of {len(self._lanes)}")
        chunk = _copied(chunk)
        real = chunk.tokens[chunk.real()]
        if len(real) and not 0 <= int(real.min()) <= int(real.max()) < self.vocab_size:
            raise ValueError(f"tokens {int(real.min())}..{int(real.max())} are outside 0..{self.vocab_size - 1}")
        lanes = [SlotLane.fresh() if start else lane for lane, start in zip(self._lanes, chunk.starts, strict=True)]
        return SlotRows(self.neural.predict(chunk), chunk, self._readout(), self.recipe, lanes, self.vocab_size)

    def _readout(self) -> Readout:
        if isinstance(self.neural, ReadsOut):
            return self.neural.readout(self.recipe.slot_on)
        return FixedReadout(self.recipe.slot_on, self.vocab_size)


def _copied(chunk: Chunk) -> Chunk:
    """Tokens of our own: rows are computed late, and a caller may fill the same array with the next chunk."""
    return dataclasses.replace(chunk, tokens=np.array(chunk.tokens, dtype=np.int64))
