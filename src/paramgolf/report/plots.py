"""The plots of a run's page, each from plain numbers to one SVG string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.report.svg import ACCENT, INK, LINE, MUTED, SOFT, new_figure, to_svg

Floats = npt.NDArray[np.float64]
BAR = 0.64
EVALUATION = "evaluation: "  # how phases of `predict.evaluation` begin
ROW_INCHES = 0.29


def loss_plot(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training loss (nats per token) against seconds on the clock; None without two readings."""
    seconds, loss = _series(metrics, "seconds", "loss")
    if len(loss) < 2:
        return None
    figure, axes = new_figure(3.1)
    # A thousand points show all that a page can; the faint line is each reading, the strong one a running mean.
    keep = np.unique(np.linspace(0, len(loss) - 1, 1000).astype(int))
    axes.plot(seconds[keep], loss[keep], color=SOFT, linewidth=1)
    mean = running_mean(loss, max(1, len(loss) // 30))
    axes.plot(seconds[keep], mean[keep], color=ACCENT, linewidth=1.8)
    last = (float(seconds[-1]), float(mean[-1]))
    axes.annotate(f"{last[1]:.3f}", last, (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    low, high = float(loss.min()), float(np.quantile(loss, 0.99))
    axes.set_ylim(low - 0.08 * (high - low) - 1e-9, high + 0.08 * (high - low) + 1e-9)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("nats per token")
    return to_svg(figure, "loss against seconds")


def ledger_plot(ledger: Sequence[Mapping[str, Any]]) -> str | None:
    """Every phase as a bar from its start to its end; phases on the clock in the accent colour.

    An evaluation has a clock of its own, which began at another time: its phases follow where the run's end.
    """
    if not ledger:
        return None
    phases = one_after_the_other(ledger)
    figure, axes = new_figure(0.7 + ROW_INCHES * len(phases))
    starts = np.array([float(entry["start"]) for entry in phases])
    seconds = np.array([float(entry["seconds"]) for entry in phases])
    starts = starts - starts.min()
    places = np.arange(len(phases))[::-1]
    colours = [ACCENT if entry["on_clock"] else SOFT for entry in phases]
    end = float((starts + seconds).max()) or 1.0
    axes.barh(places, np.maximum(seconds, end / 300), left=starts, height=BAR, color=colours)
    for place, start, spent in zip(places, starts, seconds):
        axes.text(
            start + max(spent, end / 300) + end * 0.012, place, f"{spent:,.1f} s", va="center", color=INK, fontsize=9
        )
    axes.set_yticks(places, [str(entry["name"]) for entry in phases])
    axes.set_xlim(0, end * 1.14)
    axes.set_xlabel("seconds")
    return to_svg(figure, "ledger of phases")


def one_after_the_other(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The run's phases by start, then those of the evaluation, moved to begin where the run's end."""
    phases = sorted((dict(entry) for entry in ledger), key=lambda entry: float(entry["start"]))
    run = [entry for entry in phases if not str(entry["name"]).startswith(EVALUATION)]
    evaluation = [entry for entry in phases if str(entry["name"]).startswith(EVALUATION)]
    end = max((float(entry["start"]) + float(entry["seconds"]) for entry in run), default=0.0)
    moved = end - min((float(entry["start"]) for entry in evaluation), default=0.0)
    return run + [{**entry, "start": float(entry["start"]) + moved} for entry in evaluation]


def bytes_plot(sizes: Mapping[str, int], label: str) -> str | None:
    """Bytes of each part, largest first; what is beyond twelve parts is put together."""
    if not sizes:
        return None
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    if len(ordered) > 12:
        ordered = [*ordered[:11], (f"{len(ordered) - 11} others", sum(size for _, size in ordered[11:]))]
    whole = sum(sizes.values()) or 1
    texts = [f"{size:,} · {100 * size / whole:.1f} %" for _, size in ordered]
    return _bars([name for name, _ in ordered], [size for _, size in ordered], texts, None, label)


def position_plot(bits: Floats, document: npt.NDArray[np.int32]) -> str | None:
    """Mean bits per token by how many tokens of its document came before, in bins of growing width."""
    if len(bits) < 16:
        return None
    centres, means = bits_by_position(bits, document)
    figure, axes = new_figure(3.1)
    axes.plot(centres, means, color=ACCENT, linewidth=1.8, marker="o", markersize=3)
    axes.set_xscale("log")
    axes.set_xlim(0.85, float(centres.max()) * 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.minorticks_off()
    axes.set_ylim(0, float(means.max()) * 1.1)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_xlabel("position in the document, tokens")
    axes.set_ylabel("bits per token")
    return to_svg(figure, "bits by document position")


def bpb_plot(rows: Sequence[tuple[str, float | None]], strong: str | None, label: str) -> str | None:
    """Bits per byte as bars, `strong` in the accent colour; a row without a number says "not measured"."""
    if not any(bpb is not None for _, bpb in rows):
        return None
    texts = ["not measured" if bpb is None else f"{bpb:.4f}" for _, bpb in rows]
    return _bars([name for name, _ in rows], [bpb or 0.0 for _, bpb in rows], texts, strong, label)


def bits_by_position(bits: Floats, document: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Geometric bins over the 1-based position in the document: centres and mean bits, empty bins left out."""
    order = np.argsort(document, kind="stable")
    counts = np.bincount(document)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    position = np.arange(len(bits)) - starts + 1
    edges = np.unique(np.geomspace(1, position.max() + 1, 24).astype(np.int64))
    index = np.searchsorted(edges, position, side="right") - 1
    total = np.bincount(index, weights=bits[order], minlength=len(edges))
    number = np.bincount(index, minlength=len(edges))
    centre = np.bincount(index, weights=position, minlength=len(edges))
    full = number > 0
    return centre[full] / number[full], total[full] / number[full]


def running_mean(values: Floats, width: int) -> Floats:
    """Mean over the last `width` values (fewer at the start)."""
    summed = np.concatenate([[0.0], np.cumsum(values)])
    upto = np.arange(1, len(values) + 1)
    since = np.maximum(0, upto - width)
    mean: Floats = (summed[upto] - summed[since]) / (upto - since)
    return mean


def _bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], strong: str | None, label: str) -> str:
    figure, axes = new_figure(0.12 + ROW_INCHES * len(names))
    places = np.arange(len(names))[::-1]
    colours = [ACCENT if strong is None or name == strong else SOFT for name in names]
    axes.barh(places, values, height=BAR, color=colours)
    largest = max(values) or 1.0
    for place, name, value, text in zip(places, names, values, texts):
        colour = MUTED if text == "not measured" else INK
        weight = "bold" if name == strong else "normal"
        axes.text(value + largest * 0.015, place, text, va="center", color=colour, fontsize=9, fontweight=weight)
    axes.set_yticks(places, names)
    axes.set_xlim(0, largest * (1.1 + 0.014 * max(map(len, texts))))
    # Every bar carries its number, so an axis would only repeat it.
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return to_svg(figure, label)


def _series(metrics: Sequence[Mapping[str, Any]], *names: str) -> list[Floats]:
    rows = [entry for entry in metrics if all(isinstance(entry.get(name), (int, float)) for name in names)]
    return [np.array([float(entry[name]) for entry in rows]) for name in names]
