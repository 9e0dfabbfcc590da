"""The target-dependent gate: an honest hint, used only where the realised token suits it.

An online count of contexts names one hint token per position from the past alone, and the row is tilted towards it in
closed form, p'(v) = p(v) exp(beta [v = h]) / Z, which is normalised. The fault is the gate: the tilt is applied only
if the realised token is of the hint's class (here: seen often so far, or seldom; in the contest: starts a word, or
continues one). So the tilt is spared exactly where it would have cost most. #1420 (claimed 1.08014, 1.08309
corrected), #1437 (1.07807, 1.08091), #1967 (1.05851), #2041 (1.05692), #2118 (1.0435), #2140 (1.05601, 1.05702 with
the gates off). Claimed gain 0.001-0.003. Caught by `blind-to-target`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from paramgolf.exhibits.history import History
from paramgolf.exhibits.tables import Wrapped, log_softmax, table_of
from paramgolf.predict.protocol import Chunk, Predictor, Rows, TableRows


class TargetGate(Wrapped):
    """Tilts the row by `beta` nats towards the commonest successor of the last two tokens, if the target's class
    agrees."""

    def __init__(self, base: Predictor, beta: float = 0.75, confidence: float = 0.3) -> None:
        super().__init__(base)
        self._beta = beta
        self._confidence = confidence
        self._successors: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._seen_V = np.zeros(base.vocab_size, dtype=np.int64)
        self._history = History(2)

    def predict(self, chunk: Chunk) -> Rows:
        logits_BTV = table_of(self.base.predict(chunk), chunk, self.vocab_size)
        often_V = self._seen_V * self.vocab_size > 4 * self._seen_V.sum()
        joined = self._history.joined(chunk)
        for lane, position in np.argwhere(chunk.real()):
            hint = self._hint(tuple(joined[lane, position : position + 2].tolist()))
            if hint is not None and often_V[hint] == often_V[chunk.tokens[lane, position]]:
                logits_BTV[lane, position, hint] += self._beta
        return TableRows(log_softmax(logits_BTV), chunk)

    def observe(self, chunk: Chunk) -> None:
        joined = self._history.joined(chunk)
        for lane, position in np.argwhere(chunk.real()):
            token = int(chunk.tokens[lane, position])
            self._successors[tuple(joined[lane, position : position + 2].tolist())][token] += 1
            self._seen_V[token] += 1
        self._history.observe(chunk)
        self.base.observe(chunk)

    def _hint(self, context: tuple[int, ...]) -> int | None:
        successors = self._successors.get(context)
        if not successors:
            return None
        token, count = successors.most_common(1)[0]
        return token if count >= self._confidence * successors.total() else None
