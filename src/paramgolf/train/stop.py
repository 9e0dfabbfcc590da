"""A polite end: SIGINT or SIGTERM lets the running step finish, so that the run can be saved and continued."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from paramgolf.errors import RunError

# torchrun passes a Ctrl-C on to ranks that the terminal told already: two signals of one wish.
SAME_WISH_SECONDS = 1.0


class TrainingStopped(RunError):
    """A signal stopped the run after its state was saved; the message says how to go on. Exit status as a shell's."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


class StopRequest:
    """`number` is the signal that came, or 0."""

    number = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM instead of dying of it; one more, a second or later, acts as it did before.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not request.number:
            request.number, first = number, time.monotonic()
        elif time.monotonic() - first >= SAME_WISH_SECONDS:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
