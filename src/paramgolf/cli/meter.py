"""How far a long job is, on stderr: one line redrawn on a terminal, one line every ten seconds in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO

LIVE_SECONDS = 0.2
PLAIN_SECONDS = 10.0


class Meter:
    """A context manager; `update(done, total)` as often as it pleases the job."""

    def __init__(
        self, label: str, unit: str, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._unit, self._now = label, unit, now
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._begin = self._shown = now()
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn and self._live:
            print(file=self._stream, flush=True)

    def update(self, done: int, total: int, says: str = "") -> None:
        """`done` of `total` units; `says` is added to the line."""
        time_now = self._now()
        wait = LIVE_SECONDS if self._live else PLAIN_SECONDS
        if time_now - self._shown < wait and not (self._drawn and done >= total):
            return
        self._shown, self._drawn = time_now, True
        line = f"{self._label} {describe(done, total, time_now - self._begin, self._unit)}{says and f'  {says}'}"
        print(f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)


@contextlib.contextmanager
def announced(line: str, stream: TextIO | None = None) -> Iterator[None]:
    """Show `line` while a job of unknown length runs; a terminal's line is cleared after it."""
    stream = sys.stderr if stream is None else stream
    live = stream.isatty()
    print(line, end="" if live else "\n", file=stream, flush=True)
    try:
        yield
    finally:
        if live:
            print("\r\x1b[K", end="", file=stream, flush=True)


def describe(done: int, total: int, seconds: float, unit: str) -> str:
    """Share, speed and seconds left of a job that has run for `seconds`."""
    speed = done / seconds if seconds > 0 else 0.0
    left = f"ETA {(total - done) / speed:,.0f} s" if speed > 0 else "ETA unknown"
    share = 100 * done / total if total else 100.0
    return f"{share:3.0f} %  {done:,} of {total:,} {unit}  {speed:,.0f} {unit}/s  {left}"
