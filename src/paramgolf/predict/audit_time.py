"""How many positions of a chunk may be audited, and how thoroughly, so that audits stay a share of the time.

A chunk gets at least the audits that it is `required` to have: an end of the text has one, and without enough in all
nothing is proven. Where a row takes long (a frame of 2,048 tokens through 27 million parameters: a second on two
cores), audits become narrow and few; where it does not, nothing is spared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paramgolf.predict.audit import Asked, ask_audited
from paramgolf.predict.protocol import Chunk, Float64, Predictor

SHARE, SPARE = 0.2, 3.0  # of the time without audits, and so many seconds more
SLOW_ROW = 0.2  # seconds; where one row takes this long, asking for whole chunks is not even tried


class AuditTime:
    """Audits the chunks of one run; `now` tells the seconds of the run, the same on all ranks."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds = 0.0  # that audits took
        self._now = now
        self._begin = now()
        self._row_seconds: float | None = None
        self._ask_seconds: float | None = None

    def credits(self, predictor: Predictor, chunk: Chunk) -> Float64:
        """The credits of a chunk that is not audited."""
        begin = self._now()
        realised = np.asarray(predictor.predict(chunk).realised(), dtype=np.float64)
        self._ask_seconds = self._now() - begin
        return realised

    def ask(
        self,
        predictor: Predictor,
        chunk: Chunk,
        places: list[tuple[int, int]],
        rng: np.random.Generator,
        *,
        required: int,
    ) -> Asked:
        """The credits of a chunk and audits of some of the `places` (in random order), of `required` ones at least."""
        begin = self._now()
        if self._row_seconds is None:
            self._measure(predictor, chunk, rng)
        lanes_asks = int(len(chunk.lengths) > 1)
        allowed = SPARE + SHARE * (begin - self._begin - self.seconds) - self.seconds
        narrow = self._ask_seconds is None or (4 + lanes_asks) * len(places) * self._ask_seconds > allowed
        if narrow:
            rows = int(allowed / max(self._row_seconds or 0.0, 1e-9)) - 1
            places = places[: max(rows // (1 + lanes_asks), required)]
        if not places:
            return Asked(self.credits(predictor, chunk), [], 0.0)
        asked = ask_audited(predictor, chunk, places, rng, narrow=narrow, now=self._now)
        spent = self._now() - begin
        self.seconds += max(0.0, spent - asked.seconds)
        self._ask_seconds = asked.seconds if self._ask_seconds is not None else None
        return asked

    def _measure(self, predictor: Predictor, chunk: Chunk, rng: np.random.Generator) -> None:
        """How long a row and a chunk take, asked about noise: none of the true tokens has been shown yet."""
        noise = Chunk(
            rng.integers(0, predictor.vocab_size, chunk.tokens.shape), chunk.lengths.copy(), chunk.starts.copy()
        )
        lane = int(chunk.lengths.argmax())
        begin = self._now()
        rows = predictor.predict(noise)
        rows.row(lane, int(chunk.lengths[lane]) - 1)
        self._row_seconds = self._now() - begin
        if self._ask_seconds is None and self._row_seconds < SLOW_ROW:
            rows.realised()
            self._ask_seconds = self._now() - begin
