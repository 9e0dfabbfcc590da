"""The clock of one evaluation: its phases share one limit, and go into the ledger of the score.

Everything that a contest counts is on it: opening the artifact, reading and tokenising the text, building the
predictor, scoring with test-time training and the audit inside. What the referee asks afterwards is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paramgolf.clock import Clock, Entry, Phase
from paramgolf.predict.score import ScoreIncomplete
from paramgolf.ranks import Ranks

PREFIX = "evaluation: "


class Evaluation:
    """Phases of one evaluation on the `ranks`; `limit` seconds for all of them together, or None for no limit."""

    def __init__(self, limit: float | None = None, ranks: Ranks | None = None, *, used: float = 0.0) -> None:
        self.limit = limit
        self.ranks = ranks or Ranks()
        self._clock = Clock(agree=self.ranks.agree)
        self._used = used  # seconds before the clock began, counted with the first phase

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Run a block as an on-clock phase, whose limit is what is left; `ScoreIncomplete` if nothing is."""
        used, self._used = self._used, 0.0
        left = None if self.limit is None else self.ranks.agree(self.limit - sum(e.seconds for e in self.entries()))
        if left is not None and left <= 0:
            raise ScoreIncomplete.before(f"{PREFIX}{name}", self.limit or 0.0)
        with self._clock.phase(f"{PREFIX}{name}", on_clock=True, limit=left, used=used) as phase:
            yield phase

    def entries(self) -> tuple[Entry, ...]:
        """The phases so far."""
        return tuple(self._clock.ledger)
