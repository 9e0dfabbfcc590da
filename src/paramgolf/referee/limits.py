"""The limits of a rule set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes and seconds that a run may use, and whether the tokenizer must give every document back (`lossless`).

    `train_slack` is the step that may still be running when the time is up: 600.0 to 600.5 s were accepted (O3).
    """

    artifact_bytes: int = 16_000_000
    train_seconds: float = 600.0
    eval_seconds: float = 600.0
    train_slack: float = 0.5
    lossless: bool = False
