"""SLOT with a context mask and a delta shared by a batch, as in #1350: causal per window, but not per batch.

32 overlapping windows that score 64 positions each share one delta to the logits. Each window is masked to the 64
targets before those that it scores, which sounds causal; but they are what its neighbour scores. Of a batch that scores
B_0 .. B_31, the delta is fitted on B_-1 .. B_30: 31 of 32 scored targets are in the fit of their own delta. L-BFGS
(learning rate 1, 25 steps, history 20, strong Wolfe), from the batch before, clamped to 5 either way. Claimed: 1.0917
-> 1.0043; the strict form of the same fit gains nothing on uniform tokens and this one does (spec pr1430.md 5). #1306
and #1322 leak half as much. Caught by `blind-to-future`: on one sequence flipped inside a batch, not across lanes.

A batch is what a lane has in one chunk. Where that is short, the windows shrink, so that a batch still has 32.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.inner import lane_tables, unwrapped
from paramgolf.exhibits.tables import Wrapped
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, Rows, TableRows
from paramgolf.predict.slot_fit import fit
from paramgolf.predict.slot_readout import FixedReadout
from paramgolf.recipe import ScoreRecipe

WINDOWS = 32  # of a batch
FIT = ScoreRecipe(slot_on="logits", slot_optimizer="lbfgs", slot_steps=25)


class _Lane:
    """The last scored rows [N, V] and tokens [N] of a lane, and the delta [V] of its last batch."""

    def __init__(self, vocab_size: int) -> None:
        self.rows_NV = np.zeros((0, vocab_size))
        self.tokens_N = np.zeros(0, dtype=np.int64)
        self.delta_V = np.zeros(vocab_size)


class SlotShared(Wrapped):
    """The base with one delta for all windows of a lane's part of a chunk, fitted on each window's predecessor."""

    def __init__(self, base: Predictor, window: int = 64) -> None:
        super().__init__(unwrapped(base))
        self._window = window
        self._readout = FixedReadout("logits", self.vocab_size)
        self._lanes: list[_Lane] | None = None

    def predict(self, chunk: Chunk) -> Rows:
        table_BTV = np.full((*chunk.tokens.shape, self.vocab_size), -np.log(self.vocab_size))
        tables = lane_tables(self.base.predict(chunk), chunk, self.vocab_size)
        for lane, rows_TV in enumerate(tables):
            if len(rows_TV):
                delta_V = self._fitted(self._lanes_at(chunk)[lane], rows_TV, chunk.tokens[lane], chunk)
                table_BTV[lane, : len(rows_TV)] = self._readout.rows(rows_TV, delta_V)
        return TableRows(table_BTV, chunk)

    def observe(self, chunk: Chunk) -> None:
        lanes = self._lanes_at(chunk)
        for lane, rows_TV in zip(
            range(len(lanes)), lane_tables(self.base.predict(chunk), chunk, self.vocab_size), strict=True
        ):
            kept, tokens_T = lanes[lane], chunk.tokens[lane, : len(rows_TV)]
            if len(rows_TV):
                kept.delta_V = self._fitted(kept, rows_TV, chunk.tokens[lane], chunk)
                kept.rows_NV = np.concatenate([kept.rows_NV, rows_TV])[-self._window :]
                kept.tokens_N = np.concatenate([kept.tokens_N, tokens_T])[-self._window :]
        self._lanes = lanes
        self.base.observe(chunk)

    def _lanes_at(self, chunk: Chunk) -> list[_Lane]:
        old = self._lanes or [_Lane(self.vocab_size) for _ in chunk.starts]
        return [_Lane(self.vocab_size) if start else lane for lane, start in zip(old, chunk.starts, strict=True)]

    def _fitted(self, lane: _Lane, rows_TV: Float64, tokens_T: Int64, chunk: Chunk) -> Float64:
        """The delta of a batch: the masked targets are the `window` before the chunk, and all in it but the last."""
        window = min(self._window, max(chunk.tokens.shape[1] // WINDOWS, 1))
        inside = max(len(rows_TV) - window, 0)
        features_NV = np.concatenate([lane.rows_NV[-window:], rows_TV[:inside]])
        targets_N = np.concatenate([lane.tokens_N[-window:], tokens_T[:inside]])
        if not len(targets_N):
            return lane.delta_V
        return fit(self._readout.objective(features_NV, targets_N), lane.delta_V, FIT)
