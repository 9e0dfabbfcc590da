"""What a predictor did on the way, for whoever shows a score: test-time training, forgetting. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable


@dataclass
class Learning:
    """Updates made so far, the seconds that they took, and why there will be no more ("" while there may be)."""

    updates: int = 0
    seconds: float = 0.0
    stopped: str = ""

    def record(self) -> dict[str, int | float | str]:
        """As JSON values."""
        return asdict(self)


@runtime_checkable
class Learner(Protocol):
    """A predictor whose weights move in `observe`."""

    learning: Learning


@runtime_checkable
class _Wrapped(Protocol):
    neural: object


@runtime_checkable
class _Bounded(Protocol):
    @property
    def forgotten(self) -> int: ...


def learning_of(predictor: object) -> Learning | None:
    """What a predictor, or the model inside its wrappers, has learnt; None if its weights stand still."""
    while isinstance(predictor, _Wrapped):
        predictor = predictor.neural
    return predictor.learning if isinstance(predictor, Learner) else None


def forgotten_by(predictor: object) -> int:
    """How much the counts of a predictor, or of a mixture, have forgotten because their memory is bounded."""
    for part in (predictor, getattr(predictor, "ngram", None), getattr(predictor, "counts", None)):
        if isinstance(part, _Bounded):
            return part.forgotten
    return 0
