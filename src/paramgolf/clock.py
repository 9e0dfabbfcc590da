"""The clock of a run: named phases with limits, on and off the clock, and a ledger of all of them.

The time is injected (`now`), so tests move it by hand. With several ranks every reading goes through `agree`, which
returns rank 0's value on all of them: then all ranks see the same fraction and expire at the same step. A run that was
stopped carries its used seconds into the next phase (`used`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from paramgolf.errors import RunError

Now = Callable[[], float]
Agree = Callable[[float], float]


@dataclass(frozen=True)
class Entry:
    """One finished phase: `start` is seconds since the clock began, `limit` is None without one.

    Only phases with `on_clock` count against a contest's limit; the others are listed all the same.
    """

    name: str
    on_clock: bool
    start: float
    seconds: float
    limit: float | None = None

    def overrun(self) -> float:
        """Seconds beyond the limit, 0 within it or without one."""
        return 0.0 if self.limit is None else max(0.0, self.seconds - self.limit)


class Phase:
    """A running phase. `seconds()`, `fraction()` and `expired()` each take one agreed reading."""

    def __init__(self, name: str, on_clock: bool, limit: float | None, used: float, read: Now) -> None:
        self.name, self.on_clock, self.limit = name, on_clock, limit
        self._used, self._read = used, read
        self._start = read()

    def seconds(self) -> float:
        """Seconds used by this phase, those before a resume included."""
        return self._used + self._read() - self._start

    def fraction(self) -> float:
        """Share of the limit that is used, 0..1. Raises `RunError` on a phase without a limit."""
        return self.fraction_of(self.seconds())

    def fraction_of(self, seconds: float) -> float:
        """The `fraction` at a reading that was taken already."""
        if self.limit is None:
            raise RunError(f"phase {self.name!r} has no limit, so no fraction of it is used; give it a limit")
        return min(1.0, max(0.0, seconds / self.limit))

    def expired(self) -> bool:
        """Whether the limit is reached; never, without a limit."""
        return self.limit is not None and self.seconds() >= self.limit


class Clock:
    """Hands out phases and keeps the ledger. `now` returns seconds, `agree` makes all ranks use one value."""

    def __init__(self, now: Now = time.perf_counter, agree: Agree | None = None) -> None:
        self._now, self._agree = now, agree
        self._zero = now()
        self.ledger: list[Entry] = []

    @contextmanager
    def phase(self, name: str, *, on_clock: bool, limit: float | None = None, used: float = 0.0) -> Iterator[Phase]:
        """Run a block as a phase and list it, also when it raises. `limit` and `used` are seconds.

        A limit that is not positive, or a negative `used`, raises `RunError`.
        """
        if limit is not None and not limit > 0:
            raise RunError(f"phase {name!r} has limit {limit} s; a limit must be positive")
        if not used >= 0:
            raise RunError(f"phase {name!r} has used={used} s; it must not be negative")
        start = self._now() - self._zero
        running = Phase(name, on_clock, limit, used, self._reading)
        try:
            yield running
        finally:
            # The ledger is each rank's own record: no agreement here, a rank that failed could not answer.
            seconds = used + self._now() - self._zero - start
            self.ledger.append(Entry(name, on_clock, start, seconds, limit))

    def record(self) -> list[dict[str, object]]:
        """The ledger for JSON, in the order in which the phases ended."""
        return [asdict(entry) for entry in self.ledger]

    def restore(self, record: object) -> None:
        """Put the ledger of the run's earlier part in front, so that a resumed run lists all of its phases."""
        self.ledger[:0] = entries_of(record)

    def _reading(self) -> float:
        value = self._now()
        return value if self._agree is None else self._agree(value)


def entries_of(record: object) -> list[Entry]:
    """Read a ledger back from JSON; raise `RunError` that names the entry which is not one."""
    if not isinstance(record, list):
        raise RunError(f"a ledger should be a list of phases, found {type(record).__name__}")
    return [_entry(index, item) for index, item in enumerate(record)]


def _entry(index: int, item: object) -> Entry:
    if not isinstance(item, dict) or set(item) != {"name", "on_clock", "start", "seconds", "limit"}:
        raise RunError(f"ledger entry {index} should have name, on_clock, start, seconds, limit; found {item!r}")
    numbers = [item["start"], item["seconds"]] + ([] if item["limit"] is None else [item["limit"]])
    if not isinstance(item["name"], str) or not isinstance(item["on_clock"], bool):
        raise RunError(f"ledger entry {index} has name={item['name']!r}, on_clock={item['on_clock']!r}")
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise RunError(f"ledger entry {index} ({item['name']}) has times that are no numbers: {numbers}")
    return Entry(**item)


def seconds_on_clock(ledger: list[Entry]) -> float:
    """Sum of the phases that count."""
    return sum(entry.seconds for entry in ledger if entry.on_clock)
