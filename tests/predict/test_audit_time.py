"""How much is audited when rows take long: a share of the time, the first and the last chunk always."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.clock import Phase
from paramgolf.predict.audit_record import ENOUGH_POSITIONS
from paramgolf.predict.audit_time import SHARE, SPARE
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Float64
from paramgolf.predict.score import Score, score

V, BOUNDARY, CHUNK = 6, 5, 32


class Slow:
    """Uniform rows; a row takes `row_seconds` of a clock that is moved by hand, the credits of a chunk 32 of them."""

    vocab_size = V

    def __init__(self, row_seconds: float) -> None:
        self.row_seconds, self.time = row_seconds, 0.0
        self.asked: list[list[str]] = [[]]

    def predict(self, chunk: Chunk) -> SlowRows:
        return SlowRows(self, chunk)

    def observe(self, chunk: Chunk) -> None:
        self.asked.append([])


class SlowRows:
    def __init__(self, owner: Slow, chunk: Chunk) -> None:
        self._owner, self._chunk = owner, chunk
        self._known: set[int] = set()  # a row that was computed costs nothing again

    def _spend(self, what: str, rows: range) -> None:
        self._owner.time += len(set(rows) - self._known) * self._owner.row_seconds
        self._owner.asked[-1].append(what)
        self._known |= set(rows)

    def realised(self) -> Float64:
        self._spend("credits", range(self._chunk.tokens.shape[1]))
        return np.where(self._chunk.real(), -np.log(V), 0.0)

    def row(self, lane: int, position: int) -> Float64:
        self._spend("row", range(position, position + 1))
        return np.full(V, -np.log(V))


def scored(row_seconds: float, tokens: int = 1000) -> tuple[Score, Slow]:
    predictor = Slow(row_seconds)
    documents = [np.random.default_rng(0).integers(0, 5, tokens - 1)]
    phase = Phase("score", True, None, 0.0, lambda: predictor.time)
    order = plan([tokens - 1], chunk=CHUNK)
    facts = {"raw_bytes": tokens, "text_digest": "ab", "audit_positions": 32, "seed": 3, "phase": phase}
    return score(predictor, documents, order, BOUNDARY, **facts), predictor


def test_fast_rows_are_audited_in_full() -> None:
    """Where asking costs nothing every drawn position is audited with all its asks."""
    found, predictor = scored(1e-6)
    assert 32 <= found.audit.positions <= 34
    assert sum(asks.count("credits") for asks in predictor.asked) > 4 * 32


@pytest.mark.parametrize("row_seconds", [0.1, 1.0, 20.0])
def test_slow_rows_are_audited_within_a_share_of_the_time(row_seconds: float) -> None:
    """Both ends have a position, eight are audited at any price; the rest keeps to the share, and the cost is told."""
    found, predictor = scored(row_seconds)
    steps = len(predictor.asked) - 1
    assert steps == 32 and found.audit.passed()
    assert predictor.asked[0].count("row") > 1 and predictor.asked[-2].count("row") > 1
    plain = 1024 * row_seconds  # every chunk asked for once, the last one padded
    required = (ENOUGH_POSITIONS + 2) * 2 * row_seconds
    spent = predictor.time - plain
    assert spent <= SPARE + SHARE * plain + required
    assert found.audit_seconds == pytest.approx(spent)
    assert found.audit.positions >= ENOUGH_POSITIONS


def test_a_very_slow_row_still_leaves_an_audit() -> None:
    """Where one row takes longer than all that is allowed, what proves something is audited, and nothing else."""
    found, _ = scored(1000.0, tokens=60)
    assert found.audit.positions in range(ENOUGH_POSITIONS, ENOUGH_POSITIONS + 3) and found.audit.passed()
