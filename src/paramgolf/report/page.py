"""One self-contained HTML page of a run: no script, no address, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramgolf.report import plots
from paramgolf.report.facts import Facts, facts_of
from paramgolf.report.run_data import RunData, read_run

PEER_NAMES = {
    "xz": "xz -9e",
    "brotli": "brotli 11",
    "zstd": "zstd 22",
    "ppmd": "PPMd",
    "ppmd_primed": "PPMd, primed",
}
THIS = "this artifact"


@dataclass(frozen=True)
class Figure:
    """One plot: what it shows, how it was made; `svg` is None if the run did not measure it."""

    key: str
    title: str
    caption: str
    svg: str | None


def write_page(run: Path) -> Path:
    """Render `run`'s page to `run/report.html`, anew each time, and return its path.

    Raises `RunError` if the folder is no run or one of its files is damaged, `OutputError` if it cannot be written.
    """
    from paramgolf.run_folder import write_atomically

    return write_atomically(run / "report.html", render(run).encode())


def render(run: Path) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    data = read_run(run)
    facts = facts_of(data)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        facts=facts,
        figures=figures_of(data, facts),
        data=data,
        style=(Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
    )


def figures_of(data: RunData, facts: Facts) -> list[Figure]:
    """All figures of the page, in order; those of unmeasured parts without a drawing."""
    bits = None if data.bits is None else plots.position_plot(data.bits.bits, data.bits.document)
    peer_rows = _peer_rows(data)
    part_rows = _part_rows(data)
    tensors = tensor_groups((data.sizes or {}).get("tensors") or {})
    return [
        Figure(
            "peers",
            "Beside other compressors",
            f"Bits per byte on the same {facts.text_says}; lower is better. A peer reads the documents joined, without "
            "paying for boundaries. Primed PPMd has read the whole training text first.",
            plots.bpb_plot(peer_rows, THIS, "bits per byte beside other compressors") if peer_rows else None,
        ),
        Figure(
            "parts",
            "What each part is worth",
            f"Bits per byte of the same artifact on the same text, one part added at a time. {facts.hardware_says}",
            plots.bpb_plot(part_rows, part_rows[-1][0], "bits per byte by part") if part_rows else None,
        ),
        Figure(
            "loss",
            "Loss against seconds",
            f"Training loss of each step, faint, and its running mean. {facts.budget_says} {facts.hardware_says}",
            plots.loss_plot(data.metrics or []),
        ),
        Figure(
            "position",
            "Bits by document position",
            f"Mean cost of a token by how much of its document was already read, {facts.text_says}.",
            bits,
        ),
        Figure(
            "ledger",
            "Where the time went",
            "Every phase from start to end. Phases on the clock count against the budget; the pale ones do not, and "
            "are listed all the same. The evaluation has a clock of its own and is drawn after the run.",
            plots.ledger_plot(data.ledger or []),
        ),
        Figure(
            "tensors",
            "Bytes by tensor",
            "Stored bytes of the squeezed weights, summed over the blocks.",
            plots.bytes_plot(tensors, "bytes by tensor"),
        ),
        Figure(
            "members",
            "Bytes by part of the file",
            f"What the {facts.artifact_says} of model.pyz hold, as stored in the file.",
            plots.bytes_plot(member_groups(data.members or {}), "bytes by part of the file"),
        ),
    ]


def tensor_groups(tensors: Mapping[str, int]) -> dict[str, int]:
    """Bytes by kind of tensor: the same tensor of all blocks is one group."""
    groups: dict[str, int] = {}
    for name, size in tensors.items():
        kind = re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".weight")
        groups[kind] = groups.get(kind, 0) + int(size)
    return groups


def member_groups(members: Mapping[str, int]) -> dict[str, int]:
    """Stored bytes by member of the zip; all Python source is one group."""
    groups: dict[str, int] = {}
    for name, size in members.items():
        kind = "runtime source" if name.endswith(".py") else name
        groups[kind] = groups.get(kind, 0) + size
    return groups


def _peer_rows(data: RunData) -> list[tuple[str, float | None]]:
    peers: Mapping[str, Any] | None = None if data.peers is None else data.peers.get("peers")
    if not peers:
        return []
    rows = [(PEER_NAMES.get(name, name), _bpb(entry)) for name, entry in peers.items()]
    ours = None if data.score is None else _bpb(data.score)
    return [*sorted(rows, key=lambda row: -(row[1] or 0.0)), (THIS, ours)]


def _part_rows(data: RunData) -> list[tuple[str, float | None]]:
    rows = [] if data.parts is None else data.parts.get("rows") or []
    return [(str(row["name"]), _bpb(row)) for row in rows]


def _bpb(entry: Any) -> float | None:
    value = entry.get("bpb") if isinstance(entry, Mapping) else entry
    return float(value) if isinstance(value, (int, float)) else None
