"""The rule about time: every phase is listed, and those that learn or predict fit their limits (C7; O3, O4)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from paramgolf.clock import Entry
from paramgolf.errors import RunError
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.limits import Limits
from paramgolf.referee.rules_calibration import calibration_time

TRAINING, CALIBRATION = "train", "calibrate"  # phases on the clock, as train and pack name them
LONGEST = 1e12  # seconds; an integer of a stranger may be too large for a float
# What reads the training text to set weights is training, on the clock or not (ruling of 24 March, #609).
_LEARNS = re.compile(r"train|calibrat|gptq|hessian|finetune|fine-tune", re.IGNORECASE)
_CALIBRATES = re.compile(r"calibrat|gptq|hessian", re.IGNORECASE)
_EVALUATES = re.compile(r"score|scoring|eval|test-time|ttt", re.IGNORECASE)


def ledger(found: Evidence, limits: Limits) -> Finding:
    """Training with calibration, and evaluation, each within its seconds; off-clock phases are named."""
    entries = found.ledger
    if entries is None:
        damaged = "ledger.json" in found.problems
        says = f"nobody knows how long it took: {found.trouble('ledger.json')}."
        return Finding("ledger", "FAIL" if damaged else "UNPROVEN", says)
    if any(not 0 <= entry.seconds < LONGEST for entry in entries):
        return Finding("ledger", "FAIL", "ledger.json lists a phase of negative or endless duration.")
    train = sum(entry.seconds for entry in entries if _is_training(entry))
    evaluation = _evaluation(found, entries)
    off = [entry for entry in entries if not entry.on_clock and not _is_training(entry) and not evaluates(entry)]
    numbers: Numbers = {
        "train_seconds": train,
        "train_limit": limits.train_seconds,
        "eval_seconds": math.nan if evaluation is None else evaluation,
        "eval_limit": limits.eval_seconds,
        "off_clock_seconds": sum(entry.seconds for entry in off),
        "phases": len(entries),
    }
    aside = f" Off the clock: {_listed(off)}." if off else " Nothing is off the clock."
    if train > limits.train_seconds + limits.train_slack:
        says = f"training took {train:.1f} s, {limits.train_seconds:g} s are allowed."
        return Finding("ledger", "FAIL", says + aside, numbers)
    if evaluation is not None and evaluation > limits.eval_seconds:
        says = f"evaluation took {evaluation:.1f} s, {limits.eval_seconds:g} s are allowed."
        return Finding("ledger", "FAIL", says + aside, numbers)
    calibrated = [entry for entry in entries if _is_training(entry) and calibrates(entry)]
    status, says = calibration_time(found, sum(entry.seconds for entry in calibrated) if calibrated else None)
    if status != "PASS":
        return Finding("ledger", status, says + aside, numbers)
    if not any(_LEARNS.search(entry.name) for entry in entries):
        return Finding("ledger", "UNPROVEN", f"ledger.json lists no training among {_listed(entries)}.", numbers)
    if evaluation is None:
        return Finding(
            "ledger", "UNPROVEN", f"training took {train:.1f} s; nobody timed the evaluation." + aside, numbers
        )
    says = f"training took {train:.1f} of {limits.train_seconds:g} s,"
    says += f" evaluation {evaluation:.1f} of {limits.eval_seconds:g} s."
    return Finding("ledger", "PASS", says + aside, numbers)


def _is_training(entry: Entry) -> bool:
    if _EVALUATES.search(entry.name):
        return False
    return entry.on_clock or _LEARNS.search(entry.name) is not None


def training_phases(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The last training phase, which includes those before a resume, and the calibration after it; () without training.

    Raises `RunError` where a phase took no time that a clock can show.
    """
    last = max((index for index, entry in enumerate(entries) if entry.name == TRAINING), default=len(entries))
    after = [entry for entry in entries[last + 1 :] if entry.on_clock and entry.name in (TRAINING, CALIBRATION)]
    found = (*entries[last : last + 1], *after)
    for entry in found:
        if not 0 <= entry.seconds < LONGEST:
            raise RunError(f"phase {entry.name!r} lasts {str(entry.seconds)[:20]} s, which no clock shows")
    return found


def calibrates(entry: Entry) -> bool:
    """Whether a phase is a calibration on training text, by its name."""
    return _CALIBRATES.search(entry.name) is not None


def evaluates(entry: Entry) -> bool:
    """Whether a phase is part of the evaluation, by its name."""
    return _EVALUATES.search(entry.name) is not None


def _evaluation(found: Evidence, entries: Iterable[Entry]) -> float | None:
    """The longer of what the ledger and the score say."""
    seconds = (found.score or {}).get("seconds")
    listed = [entry.seconds for entry in entries if evaluates(entry)]
    told = [float(min(seconds, LONGEST))] if isinstance(seconds, int | float) and seconds >= 0 else []
    return max([sum(listed), *told]) if listed or told else None


def _listed(entries: Iterable[Entry]) -> str:
    return ", ".join(f"{entry.name[:40]} {entry.seconds:.1f} s" for entry in entries) or "nothing"
