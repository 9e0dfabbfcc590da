"""The ranks of a run: one process, or several that torchrun started (gloo between CPUs, nccl between GPUs).

Single numbers always go over gloo: agreeing on the clock does not make a GPU wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from paramgolf.errors import RunError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# A rank that compiles while the others wait needs minutes; one that died is noticed at once by gloo, and by nccl only
# after this time (torchrun ends the others half a minute after the first, whatever they do).
TIMEOUT_SECONDS = 600.0

# torch 2.13 renamed both and warns of the older names; 2.9 has the older ones alone.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class RankLost(RunError):
    """Another rank died, or did not answer in time: no collective can end, so this rank must stop too."""


class Pending:
    """A collective under way: its tensors may be touched only after `wait`, which may be called once."""

    def __init__(self, work: Any = None, divide: Tensor | None = None, by: int = 1, says: str = "") -> None:
        self._work, self._divide, self._by, self._says = work, divide, by, says

    def wait(self) -> None:
        """Let the work that follows (on a GPU: its stream, not this process) wait. Raises `RankLost`."""
        if self._work is None:
            return
        with _answered(self._says):
            self._work.wait()
        if self._divide is not None:
            self._divide /= self._by


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; every method must be called by all. Each may raise `RankLost`.

    With one rank every method returns what it was given.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """Rank 0's value on every rank, bitwise."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        with _answered(self._says()):
            dist.broadcast(shared, src=0)
        return float(shared.item())

    def average(self, values: Sequence[float]) -> list[float]:
        """Mean over the ranks of each value."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        with _answered(self._says()):
            dist.all_reduce(shared)
        return [float(value) / self.world for value in shared]

    def add(self, tensor: Tensor) -> Tensor:
        """`tensor` itself, which becomes its sum over the ranks; no wait for the GPU."""
        if self.world > 1:
            with _answered(self._says()):
                dist.all_reduce(tensor)
        return tensor

    def add_array(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum of the ranks' arrays: what each computed of a whole, 0 where it is another's part, put together."""
        return np.asarray(self.add(torch.from_numpy(values)).numpy(), dtype=np.float64)

    @torch.no_grad()
    def average_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one collective."""
        if self.world == 1 or not tensors:
            return
        flat = self.add(torch.cat([tensor.reshape(-1) for tensor in tensors])) / self.world
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def start_average_scatter(self, part: Tensor, whole: Tensor) -> Pending:
        """Begin to fill `part` with this rank's piece of the mean of `whole` over the ranks; contiguous, dim 0 cut.

        `whole` has `world` times the rows of `part`. With one rank there is nothing to scatter: a ValueError.
        """
        if self.world == 1:
            raise ValueError("one rank has all pieces; there is nothing to scatter")
        with _answered(self._says()):
            if whole.is_cuda:
                return Pending(_reduce_scatter(part, whole, op=dist.ReduceOp.AVG, async_op=True), says=self._says())
            # gloo has no mean in older versions of torch.
            work = _reduce_scatter(part, whole, op=dist.ReduceOp.SUM, async_op=True)
            return Pending(work, part, self.world, self._says())

    def start_gather(self, whole: Tensor, part: Tensor) -> Pending:
        """Begin to fill `whole` with the `part` of every rank, one after the other along dim 0; both contiguous."""
        if self.world == 1:
            whole.copy_(part)
            return Pending()
        with _answered(self._says()):
            return Pending(_all_gather(whole, part, async_op=True), says=self._says())

    def _says(self) -> str:
        return f"rank {self.rank} of {self.world}"


@contextmanager
def open_ranks(timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment, or stand alone; leaves the group at the end.

    The device is the rank's GPU if there is one, else the CPU. No collective waits longer than `timeout_seconds`.
    Raises `RunError` if torchrun's variables are incomplete, or there are more ranks than GPUs on this machine, and
    `RankLost` if the other ranks do not come.
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
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _answered(f"rank {rank} of {world}"):
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield Ranks(rank, world, device)
    except RankLost:
        raise  # leaving the group in order would wait for the rank that is gone
    except BaseException:
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def pick_device(local_rank: int) -> torch.device:
    """The GPU of this rank, or the CPU of a machine without any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise RunError(f"LOCAL_RANK={local_rank} but this machine has {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def _answered(says: str) -> Iterator[None]:
    """Turn torch's many ways to say that a collective cannot end into `RankLost`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = re.sub(r"^(\[[^\]]*\]:?\s*)+", "", first)  # where in gloo's sources
        raise RankLost(f"{says} lost the others: {reason.split('. ')[0]}") from error


def _integer(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise RunError(f"{name}={os.environ[name]!r} should be a whole number") from None
