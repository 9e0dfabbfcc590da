"""How many threads torch may use for a while."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads, at least one; without torch in the process there is nothing to do.

    Sums over several threads are cut elsewhere for another number of them, which moves the last bits of a row: what
    must come out the same twice runs with one.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
