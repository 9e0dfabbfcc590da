"""Update before scoring: take gradient steps on a chunk when asked about it, then answer.

Reporting the score after the weights have adapted to the document or chunk (V02): #512 (claimed 0.9512), #548, #568
(0.7853), #620 (0.9443), #762 (0.7139 after 5 epochs, 1.1570 with the score of the first), #991 (score, train, rescore:
1.1145, legally 1.1188). Here the adapter is trained on the chunk inside `predict`, so each ask leaves the predictor
changed. Caught by `predict-is-pure`; a version that puts its weights back after every ask is `slot`.
"""

from __future__ import annotations

from paramgolf.exhibits.adapter import Adapter
from paramgolf.exhibits.tables import BaseFactory
from paramgolf.exhibits.train_first import Adapted
from paramgolf.predict.protocol import Chunk, Rows


class UpdateBeforeScoring(Adapted):
    """Trains on the chunk inside `predict`, `steps` Adam steps an ask."""

    def __init__(self, base: BaseFactory, steps: int = 3) -> None:
        super().__init__(base, Adapter(base().vocab_size))
        self._steps = steps

    def predict(self, chunk: Chunk) -> Rows:
        self.fit(chunk, self._steps)
        return super().predict(chunk)
