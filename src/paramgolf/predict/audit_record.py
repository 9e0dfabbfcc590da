"""What an audit found: the errors of one position, the worst of many, and how large an error may be.

Everything is in nats (`sum`: a probability).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from paramgolf.errors import RunError


@dataclass(frozen=True)
class Tolerance:
    """Largest error that still passes, in nats (`sum`: as a probability).

    A rogue that hides below the causal tolerance e gains at most about e nats a token: 1e-4 is 0.00014 bits a token,
    some 0.00005 bits a byte. Noise of a repeated ask: 0 on a CPU in one fixed tensor shape, 1e-6..1e-5 when shapes
    change, 1e-5..1e-3 on a GPU in reduced precision.
    """

    sum: float = 1e-4
    credit: float = 1e-4
    repeat: float = 1e-4
    causal: float = 1e-4


ENOUGH_POSITIONS = 8  # audited positions without which nothing is proven (of a text of that many tokens)
TOLERANCE = Tolerance()
GPU_TOLERANCE = Tolerance(sum=1e-3, credit=2e-3, repeat=2e-3, causal=2e-3)


@dataclass(frozen=True)
class PositionAudit:
    """What one position showed; an error is the largest |difference| in nats, and inf where a number was NaN.

    `sum_error` |sum(exp(row)) - 1|; `credit_error` |credited - row[token]|; `repeat_error` the same ask gave something
    else; `target_error` the row moved when only token t was replaced; `future_error` when the tokens after t were;
    `lane_error` when other lanes' tokens were. What could not be tested (last position, one lane) is 0.
    """

    lane: int
    position: int
    sum_error: float
    credit_error: float
    repeat_error: float
    target_error: float
    future_error: float
    lane_error: float


@dataclass(frozen=True)
class Audit:
    """The worst that any audited position showed."""

    seed: int
    positions: int = 0
    max_sum_error: float = 0.0
    max_credit_error: float = 0.0
    max_repeat_error: float = 0.0
    max_target_error: float = 0.0
    max_future_error: float = 0.0
    max_lane_error: float = 0.0

    @property
    def max_causal_error(self) -> float:
        """How far a row moved because of something that it may not know."""
        return max(self.max_target_error, self.max_future_error, self.max_lane_error)

    @staticmethod
    def of(seed: int, audits: Iterable[PositionAudit]) -> Audit:
        """Gather positions; `seed` is what chose them."""
        audit = Audit(seed)
        for position in audits:
            audit = audit.including(position)
        return audit

    def including(self, position: PositionAudit) -> Audit:
        """This audit with one more position."""
        return Audit(
            self.seed,
            self.positions + 1,
            max(self.max_sum_error, position.sum_error),
            max(self.max_credit_error, position.credit_error),
            max(self.max_repeat_error, position.repeat_error),
            max(self.max_target_error, position.target_error),
            max(self.max_future_error, position.future_error),
            max(self.max_lane_error, position.lane_error),
        )

    def passed(self, tolerance: Tolerance = TOLERANCE) -> bool:
        """True if something was audited and no error is above its tolerance."""
        return (
            self.positions > 0
            and self.max_sum_error <= tolerance.sum
            and self.max_credit_error <= tolerance.credit
            and self.max_repeat_error <= tolerance.repeat
            and self.max_causal_error <= tolerance.causal
        )

    def record(self) -> dict[str, float | int | str]:
        """The fields and `max_causal_error` as JSON values; infinity becomes the word "inf"."""
        values = {**dataclasses.asdict(self), "max_causal_error": self.max_causal_error}
        return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}

    def to_json(self) -> str:
        """One line that `from_json` reads back."""
        return json.dumps(self.record(), allow_nan=False)

    @staticmethod
    def from_record(record: object) -> Audit:
        """Read `record()` back; raise `RunError` if a field is missing, or no number that an error can be."""
        if not isinstance(record, dict):
            raise RunError(f"an audit should be an object, found {type(record).__name__}")
        try:
            seed, positions = int(record["seed"]), int(record["positions"])
            errors = [float(record[name]) for name in _ERRORS]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RunError(f"an audit lacks or garbles {error}") from None
        if positions < 0 or not all(value >= 0 for value in errors):
            raise RunError(f"an audit's positions and errors cannot be negative or NaN: {positions} {errors}")
        audit = Audit(seed, positions, *errors)
        if record.get("max_causal_error", audit.record()["max_causal_error"]) != audit.record()["max_causal_error"]:
            raise RunError(f"audit says max_causal_error={record['max_causal_error']!r}, its parts say otherwise")
        return audit

    @staticmethod
    def from_json(text: str) -> Audit:
        """Read `to_json` back; raise `RunError` if it is anything else."""
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"audit is not JSON: {error}") from None
        return Audit.from_record(record)


_ERRORS = tuple(field.name for field in dataclasses.fields(Audit) if field.name.startswith("max_"))
