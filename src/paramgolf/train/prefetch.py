"""Batches that a thread reads while the step before runs: two in flight, in the order of the steps."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

AHEAD = 2  # as published (spec pr2140.md 3.1)

Int64 = npt.NDArray[np.int64]


class Windows(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what it would have seen."""

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]: ...


class Prefetched:
    """The same batches as `windows` gives, of which the next ones are being read already. A context manager.

    Which batch a step gets does not change: a step that was not foreseen (after warm-up, or another size) drops what is
    in flight and is read at once. What a read raises is raised where its batch is asked for, in the caller's thread,
    and only if it is asked for. Leaving waits for the one read that is running and forgets the others.
    """

    def __init__(self, windows: Windows, ahead: int = AHEAD) -> None:
        self._windows, self._ahead = windows, ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._in_flight: dict[tuple[int, int], Future[tuple[Int64, Int64]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]:
        """The batch of `step`; those of the next steps are begun."""
        wanted = [(each, sequences) for each in range(step, step + self._ahead + 1)]
        for stale in self._in_flight.keys() - set(wanted):
            self._in_flight.pop(stale).cancel()
        for key in wanted:
            if key not in self._in_flight:
                self._in_flight[key] = self._thread.submit(self._windows.batch, *key)
        return self._in_flight.pop(wanted[0]).result()
