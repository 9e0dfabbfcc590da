"""Ranks that are threads of one process, for tests of what several of them do together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from paramgolf.ranks import Pending, Ranks

T = TypeVar("T")


class Meeting:
    """Where the threads exchange values: a place for each rank's, and two meetings a collective."""

    def __init__(self, world: int) -> None:
        self.given: list[Any] = [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.given[rank] = value
        self.barrier.wait()
        taken = list(self.given)
        self.barrier.wait()
        return taken


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads; a collective that not all of them enter times out. Sums go in the order of the ranks."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def agree(self, value: float) -> float:
        return float(self.meeting.exchange(self.rank, value)[0])

    def add(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self._sum(tensor))

    def start_average_scatter(self, part: Tensor, whole: Tensor) -> Pending:
        self._require_pieces(part, whole)
        mean = self._sum(whole) / self.world
        part.copy_(mean[self.rank * len(part) : (self.rank + 1) * len(part)])
        return Pending()

    def start_gather(self, whole: Tensor, part: Tensor) -> Pending:
        self._require_pieces(part, whole)
        whole.copy_(torch.cat(self.meeting.exchange(self.rank, part.clone())))
        return Pending()

    def _sum(self, tensor: Tensor) -> Tensor:
        parts = self.meeting.exchange(self.rank, tensor.clone())
        assert len({part.shape for part in parts}) == 1
        return sum(parts[1:], parts[0])

    def _require_pieces(self, part: Tensor, whole: Tensor) -> None:
        assert part.is_contiguous() and whole.is_contiguous() and len(whole) == self.world * len(part)


def on_ranks(world: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` gives on each of `world` ranks; where one fails the others stop waiting for it."""
    meeting = Meeting(world)

    def of_rank(rank: int) -> T:
        try:
            return work(ThreadRanks(rank, world, meeting=meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        done = [pool.submit(of_rank, rank) for rank in range(world)]
    # The failure itself comes before those of the ranks that waited.
    for each in sorted(done, key=lambda one: isinstance(one.exception(), threading.BrokenBarrierError)):
        each.result()
    return [each.result() for each in done]
