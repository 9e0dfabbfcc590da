"""What a run folder holds, read for its page: each part is there, or None and shown as "not measured"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.artifact.container import read_container
from paramgolf.errors import RunError
from paramgolf.predict.score_file import read_arrays, read_json, read_record

Record = dict[str, Any]


@dataclass(frozen=True)
class Bits:
    """Cost of every token in plan order: `bits` float64 [N], and the `document` int32 [N] it belongs to."""

    bits: npt.NDArray[np.float64]
    document: npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunData:
    """A run folder in memory; `members` are the stored bytes of each file in `model.pyz`."""

    folder: Path
    recipe: Record | None
    environment: Record | None
    metrics: list[Record] | None
    ledger: list[Record] | None
    score: Record | None
    bits: Bits | None
    verdict: Record | None
    peers: Record | None
    parts: Record | None
    proof: Record | None
    sizes: Record | None
    sample: str | None
    artifact_bytes: int | None
    members: dict[str, int] | None


def read_run(folder: Path) -> RunData:
    """Read what is there. Raises `RunError` if `folder` is no run, or names the file that is damaged."""
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}; give one that train, score --out or quickstart wrote")
    artifact = folder / "model.pyz"
    data = RunData(
        folder=folder,
        recipe=_record(folder / "recipe.json"),
        environment=_record(folder / "env.json"),
        metrics=_lines(folder / "metrics.jsonl"),
        ledger=_list(folder / "ledger.json"),
        score=_record(folder / "score.json"),
        bits=_bits(folder / "bits.npz"),
        verdict=_record(folder / "verdict.json"),
        peers=_record(folder / "peers.json"),
        parts=_record(folder / "parts.json"),
        proof=_record(folder / "proof.json"),
        sizes=_record(folder / "sizes.json"),
        sample=_printable(_text(folder / "sample.txt")),
        artifact_bytes=artifact.stat().st_size if artifact.is_file() else None,
        members=_members(artifact),
    )
    if data.recipe is None and data.score is None and data.metrics is None:
        raise RunError(f"{folder} has no recipe.json, metrics.jsonl or score.json; is this the folder of a run?")
    return data


def _record(path: Path) -> Record | None:
    return read_record(path) if path.is_file() else None


def _list(path: Path) -> list[Record] | None:
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RunError(f"{path} should hold a list of objects")
    return value


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None


def _printable(text: str | None) -> str | None:
    """Control characters other than line ends and tabs, which HTML cannot hold, as the replacement character."""
    if text is None:
        return None
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


def _lines(path: Path) -> list[Record] | None:
    text = _text(path)
    if text is None:
        return None
    records = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):  # a killed run may leave its last line half written
                break
            raise RunError(f"{path} line {number} is not JSON: {line[:60]!r}") from None
        if isinstance(record, dict):
            records.append(record)
    return records


def _bits(path: Path) -> Bits | None:
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    bits, document = arrays["bits"], arrays["document"]
    if bits.shape != document.shape:
        raise RunError(f"{path} is damaged: {bits.shape} bits for {document.shape} documents")
    return Bits(bits, document)


def _members(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    return dict(read_container(path).stored)
