"""What the user sees while a model trains: a live bar on a terminal, one line every ten seconds in a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from paramgolf.train.metrics import Point

PLAIN_SECONDS = 10.0


class Display(Protocol):
    """Shows points, and notes between them; a context manager, so that the terminal is left clean."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, point: Point) -> None: ...

    def note(self, line: str) -> None: ...


class SilentDisplay:
    """Shows nothing: ranks other than the first, and tests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, point: Point) -> None:
        return None

    def note(self, line: str) -> None:
        return None


class PlainDisplay(SilentDisplay):
    """One line at the first point, one every ten seconds of the clock, one at the end."""

    def __init__(self, budget_seconds: float, predicted_bytes: int, stream: TextIO) -> None:
        self._budget, self._bytes, self._stream = budget_seconds, predicted_bytes, stream
        self._shown = -PLAIN_SECONDS
        self._last: Point | None = None

    def show(self, point: Point) -> None:
        self._last = point
        if point.seconds - self._shown >= PLAIN_SECONDS:
            self._print(point)

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None and self._last.seconds > self._shown:
            self._print(self._last)

    def _print(self, point: Point) -> None:
        self._shown = point.seconds
        print(f"train {describe(point, self._budget, self._bytes)}", file=self._stream, flush=True)


class LiveDisplay:
    """A bar of the seconds of the budget, redrawn in place."""

    def __init__(self, budget_seconds: float, predicted_bytes: int, console: Console) -> None:
        self._budget, self._bytes = budget_seconds, predicted_bytes
        columns = (TextColumn("train"), BarColumn(bar_width=10), TextColumn("{task.fields[says]}"))
        self._progress = Progress(*columns, console=console, transient=False)
        self._task: TaskID = self._progress.add_task("train", total=budget_seconds, says="warming up")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, point: Point) -> None:
        says = describe_briefly(point, self._budget, self._bytes)
        self._progress.update(self._task, completed=min(point.seconds, self._budget), says=says)

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


def describe(point: Point, budget_seconds: float, predicted_bytes: int) -> str:
    """One line of a point: seconds of the budget, loss in nats a token, speed, seconds left, size to expect."""
    left = max(0.0, budget_seconds - point.seconds)
    return (
        f"{point.seconds:.0f}/{budget_seconds:.0f} s  step {point.step}  loss {point.loss:.3f}  "
        f"{point.tokens_per_second:,.0f} tokens/s  ETA {left:.0f} s  weights ~{predicted_bytes:,} bytes"
    )


def describe_briefly(point: Point, budget_seconds: float, predicted_bytes: int) -> str:
    """`describe` in at most 62 columns for budgets below 10,000 s, so that it fits beside a bar on 80."""
    left = max(0.0, budget_seconds - point.seconds)
    return (
        f"{point.seconds:.0f}/{budget_seconds:.0f} s  loss {point.loss:.3f}  {point.tokens_per_second:,.0f} tok/s  "
        f"ETA {left:.0f} s  ~{predicted_bytes / 1e6:.2f} MB"
    )


def open_display(budget_seconds: float, predicted_bytes: int, *, quiet: bool = False) -> Display:
    """The display that suits stderr; `quiet` for ranks other than the first."""
    if quiet:
        return SilentDisplay()
    if sys.stderr.isatty():
        return LiveDisplay(budget_seconds, predicted_bytes, Console(stderr=True))
    return PlainDisplay(budget_seconds, predicted_bytes, sys.stderr)
