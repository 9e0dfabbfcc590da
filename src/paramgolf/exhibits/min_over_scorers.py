"""Min over scorers: keep two predictors and take, token by token, the one that did better on the truth.

Both predictors are legal alone: the base, and the base with an adapter trained in `observe` on what was already
scored. But which of the two is credited is decided by the realised token, so the credits of all possible tokens sum to
more than one: up to two. The min was taken over scorers (#659, claimed 1.0920), over epochs or passes (#573 1.0523,
#596 0.6430, #611 0.5601, #614 0.6864) or as a "safety gate" (#685 1.0366). Each row that it shows is normalised and
holds the credit; only crediting every token in turn (or replacing the target) shows the choice. Caught by
`counterfactual-sum`.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.adapter import Adapter
from paramgolf.exhibits.tables import BaseFactory
from paramgolf.exhibits.train_first import Adapted
from paramgolf.predict.protocol import Chunk, Rows, TableRows


class MinOverScorers(Adapted):
    """The better of base and adapted base at each target; the adapter learns in `observe` (score first)."""

    def __init__(self, base: BaseFactory, steps: int = 2) -> None:
        super().__init__(base, Adapter(base().vocab_size))
        self._steps = steps

    def predict(self, chunk: Chunk) -> Rows:
        plain_BTV = self.base_table(chunk)
        flat = self.adapter.rows(plain_BTV.reshape(-1, self.vocab_size), self.before(chunk).reshape(-1))
        adapted_BTV = flat.reshape(plain_BTV.shape)
        target_BT1 = chunk.tokens[:, :, None]
        better = np.take_along_axis(adapted_BTV, target_BT1, 2) > np.take_along_axis(plain_BTV, target_BT1, 2)
        return TableRows(np.where(better, adapted_BTV, plain_BTV), chunk)

    def observe(self, chunk: Chunk) -> None:
        self.fit(chunk, self._steps)
        super().observe(chunk)
