"""A neural model and n-gram counts, mixed with weights that are learnt in `observe`.

Legend: B lanes, T positions of a chunk, E kinds of evidence, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from paramgolf.predict.mix_kernel import FIRST_SHARE, mix_row, mix_tokens
from paramgolf.predict.ngram import NgramPredictor, NgramRows
from paramgolf.predict.protocol import Chunk, Float64, Predictor, Rows


class MixPredictor:
    """P = (1 - s) P_ngram + s P_neural with one share s for each kind of evidence that the counts have.

    The evidence (how long a context matched, how often, how varied) is known before the token is. The shares follow the
    gradient of the log-loss from token to token, inside a chunk as well (each lane for itself; `predict` on a copy).
    """

    def __init__(self, neural: Predictor, ngram: NgramPredictor) -> None:
        if neural.vocab_size != ngram.vocab_size:
            raise ValueError(f"vocabularies differ: {neural.vocab_size} and {ngram.vocab_size}")
        self.vocab_size = neural.vocab_size
        self.neural = neural
        self.ngram = ngram
        self._shares_E = np.full(ngram.evidence_values(), FIRST_SHARE)
        self._latest: MixRows | None = None

    def predict(self, chunk: Chunk) -> MixRows:
        """Rows of the chunk [B, T]."""
        rows = MixRows(chunk, self.neural.predict(chunk), self.ngram.predict(chunk), self._shares_E)
        self._latest = rows
        return rows

    def observe(self, chunk: Chunk) -> None:
        """Move the shares over the chunk's tokens, lane after lane, then show the chunk to both predictors."""
        latest, self._latest = self._latest, None
        if latest is None or not latest.of(chunk):  # the same rows, if they were asked for already
            latest = MixRows(chunk, self.neural.predict(chunk), self.ngram.predict(chunk), self._shares_E)
        latest.learn(self._shares_E)
        self.neural.observe(chunk)
        self.ngram.observe(chunk)


class MixRows:
    """Mixed rows; void after `observe`."""

    def __init__(self, chunk: Chunk, neural: Rows, ngram: NgramRows, shares_E: Float64) -> None:
        self._chunk = chunk
        self._neural = neural
        self._ngram = ngram
        self._shares_E = shares_E
        self._neural_BT: Float64 | None = None
        self._mixed: tuple[Float64, Float64] | None = None

    def of(self, chunk: Chunk) -> bool:
        """Whether these are the rows of `chunk`."""
        return self._chunk.same_as(chunk)

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        return self._mix()[0]

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one position, [V] nats."""
        share = self._first_share(lane) if position == 0 else float(self._mix()[1][lane, position])
        row_V = np.empty(self._neural_row(lane, position).shape)
        mix_row(self._neural_row(lane, position), self._ngram.row_probability(lane, position), share, row_V)
        return row_V

    def learn(self, shares_E: Float64) -> None:
        """Move `shares_E` over all tokens, lane after lane."""
        scratch_2T = np.empty((2, self._chunk.tokens.shape[1]))
        for b, length in enumerate(self._chunk.lengths):
            self._mix_lane(b, int(length), shares_E, scratch_2T[0], scratch_2T[1])

    def _neural_row(self, lane: int, position: int) -> Float64:
        return np.ascontiguousarray(self._neural.row(lane, position), dtype=np.float64)

    def _first_share(self, lane: int) -> float:
        """The share at a lane's first position, which no token of the chunk has moved: what a decoder asks for."""
        return float(self._shares_E[self._ngram.first_evidence(lane)])

    def _mix(self) -> tuple[Float64, Float64]:
        if self._mixed is None:
            mixed_BT, share_BT = np.zeros(self._chunk.tokens.shape), np.zeros(self._chunk.tokens.shape)
            for b, length in enumerate(self._chunk.lengths):
                self._mix_lane(b, int(length), self._shares_E.copy(), mixed_BT[b], share_BT[b])
            self._mixed = mixed_BT, share_BT
        return self._mixed

    def _mix_lane(self, lane: int, length: int, shares_E: Float64, out_T: Float64, share_T: Float64) -> None:
        if self._neural_BT is None:
            self._neural_BT = self._neural.realised()
        mix_tokens(
            self._neural_BT[lane, :length],
            self._ngram.probability(lane),
            self._ngram.evidence(lane),
            shares_E,
            out_T[:length],
            share_T[:length],
        )
