"""The ranks of a run: one process, or several that torchrun started (gloo on CPUs, nccl on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from paramgolf.errors import RunError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them. With one rank every method returns what it was given."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """Rank 0's value on every rank, bitwise; all ranks must call it."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self._wire())
        dist.broadcast(shared, src=0)
        return float(shared.item())

    def average(self, values: Sequence[float]) -> list[float]:
        """Mean over the ranks of each value; all ranks must call it."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self._wire())
        dist.all_reduce(shared)
        return [float(value) / self.world for value in shared]

    @torch.no_grad()
    def average_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one collective; all ranks must call it."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _wire(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment, or stand alone; leaves the group at the end.

    The device is the rank's GPU if there is one, else the CPU. Raises `RunError` if torchrun's variables are
    incomplete, or there are more ranks than GPUs on this machine.
    """
    given = [name for name in _TORCHRUN if name in os.environ]
    if "RANK" not in given and "WORLD_SIZE" not in given:
        yield Ranks(device=pick_device(0))
        return
    missing = [name for name in _TORCHRUN if name not in given]
    if missing:
        raise RunError(f"torchrun sets {', '.join(_TORCHRUN)}; missing: {', '.join(missing)}")
    rank, world, local = (_integer(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = pick_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()


def pick_device(local_rank: int) -> torch.device:
    """The GPU of this rank, or the CPU of a machine without any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise RunError(f"LOCAL_RANK={local_rank} but this machine has {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _integer(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise RunError(f"{name}={os.environ[name]!r} should be a whole number") from None
