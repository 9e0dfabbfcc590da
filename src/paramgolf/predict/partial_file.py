"""What is kept of a scoring that ran out of time: `score.partial.json`, which is no score and cannot be read as one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramgolf
from paramgolf.clock import Entry
from paramgolf.predict.score import Partial
from paramgolf.run_folder import write_atomically

PARTIAL_FILE = "score.partial.json"


def partial_record(partial: Partial | None, ledger: Sequence[Entry], says: str) -> dict[str, Any]:
    """What `score.partial.json` holds: facts of a scoring that ran out of time, none of them a score."""
    record: dict[str, Any] = {
        "incomplete": says,
        "ledger": [dataclasses.asdict(entry) for entry in ledger],
        "evaluation_seconds": sum(entry.seconds for entry in ledger),
        "tokens_credited": 0,
        "paramgolf": paramgolf.__version__,
    }
    if partial is None:
        return record
    count, bits = len(partial.bits), float(partial.bits.sum())
    return record | {
        "tokens_credited": count,
        "tokens_of_text": partial.plan.token_count,
        "bits_credited": bits,
        "bits_per_token": bits / count if count else None,
        "seconds_of_scoring": partial.seconds,
        "plan": {"lanes": partial.plan.lanes, "chunk": partial.plan.chunk, "order": partial.plan.order},
        "text_digest": partial.text_digest,
        "partial_audit": partial.audit.record(),
    }


def save_partial(record: dict[str, Any], folder: Path) -> Path:
    """Write `score.partial.json` into a folder, which is made if need be, under a name that is free; that path."""
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / PARTIAL_FILE, 1
    while path.exists():
        number += 1
        path = folder / f"score.partial-{number}.json"
    return write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
