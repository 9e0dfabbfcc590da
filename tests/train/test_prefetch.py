"""Batches read ahead by a thread: the same ones in the same order, faults where they belong, and a clean end."""

import threading
import time

import numpy as np
import pytest

from paramgolf.train.prefetch import AHEAD, Prefetched


class Recording:
    """Windows that remember who asked for what; some steps fail, and reading can be held up."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.asked: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self.fails, self.gate = fails, threading.Event()
        self.gate.set()

    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        self.gate.wait(20)
        self.asked.append((step, sequences))
        self.threads.add(threading.current_thread().name)
        if step in self.fails:
            raise OSError(f"shard of step {step} is gone")
        return np.full((sequences, 2), step), np.full((sequences, 2), step + 1)


def settled(windows: Recording, count: int) -> list[tuple[int, int]]:
    """What was asked once `count` reads are done."""
    deadline = time.monotonic() + 20
    while len(windows.asked) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return windows.asked


def test_order_and_values_are_unchanged() -> None:
    """Every step gets its own batch, each read once, in order, by one other thread, two ahead and no more."""
    windows = Recording()
    with Prefetched(windows) as ahead:
        assert not windows.asked  # nothing is read before anything is wanted
        for step in range(10):
            inputs, targets = ahead.batch(step, 3)
            assert (inputs == step).all() and (targets == step + 1).all() and inputs.shape == (3, 2)
            assert settled(windows, step + 1 + AHEAD) == [(n, 3) for n in range(step + 1 + AHEAD)]
    (thread,) = windows.threads
    assert thread != threading.main_thread().name
    assert AHEAD == 2


def test_reading_runs_beside_the_step() -> None:
    """While the caller works, the next batches are read: asking for them does not wait for a read of their own."""
    windows = Recording()
    with Prefetched(windows) as ahead:
        ahead.batch(0, 1)
        settled(windows, 3)
        windows.gate.clear()
        done: list[int] = []
        for step in (1, 2):
            done.append(int(ahead.batch(step, 1)[0][0, 0]))
        windows.gate.set()
    assert done == [1, 2]


def test_a_jump_drops_what_was_not_wanted() -> None:
    """After warm-up the steps begin again, and another size is another batch: the right one comes, whatever waited."""
    windows = Recording()
    with Prefetched(windows) as ahead:
        for step, sequences in ((0, 2), (1, 2), (0, 2), (1, 2), (1, 5), (40, 5), (41, 5)):
            inputs, _ = ahead.batch(step, sequences)
            assert inputs.tolist() == [[step, step]] * sequences


def test_a_fault_surfaces_where_it_is_wanted() -> None:
    """What a read raised is raised at its step, in the caller, with its message; earlier steps are served before."""
    windows = Recording(fails=(2,))
    with Prefetched(windows) as ahead:
        for step in (0, 1):
            assert ahead.batch(step, 1)[0][0, 0] == step
        with pytest.raises(OSError, match="shard of step 2 is gone"):
            ahead.batch(2, 1)
        assert ahead.batch(3, 1)[0][0, 0] == 3


def test_a_fault_that_nobody_wants_is_silent() -> None:
    """A run that ends before a bad batch is asked for never hears of it."""
    windows = Recording(fails=(1, 2))
    with Prefetched(windows) as ahead:
        assert ahead.batch(0, 1)[0][0, 0] == 0
        settled(windows, 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_with_the_run(error: type[BaseException]) -> None:
    """However the run ends, the thread is gone afterwards and what it had not begun is never read."""
    windows, before = Recording(), set(threading.enumerate())
    with pytest.raises(error), Prefetched(windows, ahead=50) as ahead:
        ahead.batch(0, 1)
        windows.gate.clear()
        threading.Timer(0.05, windows.gate.set).start()
        raise error
    left = {thread for thread in threading.enumerate() if thread.name.startswith("batches")}
    assert not left - before
    assert len(windows.asked) < 51
