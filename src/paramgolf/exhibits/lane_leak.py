"""The lane leak: a row learns from the tokens that other lanes hold in the same chunk.

Documents scored side by side are not yet scored when a lane is asked: adapting on half of a batch and scoring the rest
(#136), adapters trained on other documents of the same batch (#2139, claimed 1.0575), one delta shared by 32 windows
(#1350), batch statistics over samples. Here: token frequencies of the other lanes' current chunk, blended in. With one
lane there is nothing to leak. Caught by `lanes-apart`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import Wrapped, blend, table_of
from paramgolf.predict.protocol import Chunk, Predictor, Rows, TableRows


class LaneLeak(Wrapped):
    """The base blended with the token frequencies of the other lanes' chunk."""

    def __init__(self, base: Predictor, weight: float = 0.2) -> None:
        super().__init__(base)
        self._weight = weight

    def predict(self, chunk: Chunk) -> Rows:
        logprob_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        real = chunk.real()
        counts_BV = np.stack(
            [np.bincount(tokens[kept], minlength=self.vocab_size) for tokens, kept in zip(chunk.tokens, real)]
        )
        others_BV = counts_BV.sum(axis=0) - counts_BV
        for lane in range(len(chunk.tokens)):
            if others_BV[lane].any():
                share_V = others_BV[lane] / others_BV[lane].sum()
                logprob_BTV[lane] = blend(logprob_BTV[lane], share_V, self._weight)
        return TableRows(logprob_BTV, chunk)
