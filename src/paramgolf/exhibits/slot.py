"""SLOT as published in #1430: offsets fitted on the targets that they then score.

Before a window of 64 positions is scored, a delta to the final states and a bias after the softcap are fitted on 63 of
those same 64 targets: AdamW, 24 steps, betas 0.6 / 0.5, eps 1e-5, weight decay 1e-8, learning rate 0.432 falling on a
cosine to 0.001, from zero in every window. (Each window is a batch of its own here; #1430 fits 128 at once, which
touches only how Adam's eps weighs.) Rows are normalised, asking twice gives the same, nothing is kept: but each row
knows the window's other targets and its own. Claimed: #1229 0.9300, #1321 0.7406, #1329 0.6361, #1507 0.2282, #1430
0.3964 (with an n-gram cache); #1240 showed that every scored pair of positions reacts to a flipped target. The strict
form is `predict.slot`. Caught by `blind-to-future`.

Over a base that does not give its states the bias is fitted alone; it does the memorising.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.inner import lane_tables, unwrapped
from paramgolf.exhibits.tables import Wrapped
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, Rows, TableRows
from paramgolf.predict.slot_fit import fit_adamw, learning_rates
from paramgolf.predict.slot_readout import FixedReadout, Readout
from paramgolf.predict.slot_rows import HasStates, ReadsOut

STEPS, HIGHEST_RATE, LEAST_RATE = 24, 0.432, 0.001


class Slot(Wrapped):
    """Per lane and window the offsets that suit the targets they are then scored on."""

    def __init__(self, base: Predictor, window: int = 64) -> None:
        super().__init__(unwrapped(base))
        self._window = window

    def predict(self, chunk: Chunk) -> Rows:
        rows, readout = self.base.predict(chunk), self._readout()
        table_BTV = np.full((*chunk.tokens.shape, self.vocab_size), -np.log(self.vocab_size))
        for lane, features_NF in enumerate(self._features(rows, readout, chunk)):
            for first in range(0, len(features_NF), self._window):
                window = slice(first, min(first + self._window, len(features_NF)))
                table_BTV[lane, window] = fitted_rows(readout, features_NF[window], chunk.tokens[lane, window])
        return TableRows(table_BTV, chunk)

    def _readout(self) -> Readout:
        return self.base.readout("both") if isinstance(self.base, ReadsOut) else FixedReadout("logits", self.vocab_size)

    def _features(self, rows: Rows, readout: Readout, chunk: Chunk) -> list[Float64]:
        """Of every lane the states [length, D], or the rows [length, V]."""
        if readout.reads_states:
            assert isinstance(rows, HasStates)
            return [rows.states(lane) for lane in range(len(chunk.tokens))]
        return lane_tables(rows, chunk, self.vocab_size)


def fitted_rows(readout: Readout, features_NF: Float64, targets_N: Int64) -> Float64:
    """The rows [N, V] of a window after a fit on all its targets but the last (which the published loss leaves out)."""
    seen = max(len(targets_N) - 1, 1)
    objective = readout.objective(features_NF[:seen], targets_N[:seen])
    rates = learning_rates(HIGHEST_RATE, LEAST_RATE, STEPS)
    return readout.rows(features_NF, fit_adamw(objective, np.zeros(readout.parameters), rates))
