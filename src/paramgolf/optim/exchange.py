"""One bank's traffic between the ranks: gradients go out, each rank gets its share of their mean, updates come back.

Legend: N matrices of the bank, S of a rank's share (the last shares may lack some, which then are padding),
P = S times the number of ranks, n matrices that this rank really owns, R rows, C columns.
Source: spec pr549.md 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramgolf.ranks import Pending, Ranks


def owned(matrices: int, rank: int, world: int) -> range:
    """Which matrices of a bank `rank` works on: equal runs one after the other, the last ones short or empty."""
    share = share_size(matrices, world)
    return range(min(rank * share, matrices), min((rank + 1) * share, matrices))


def share_size(matrices: int, world: int) -> int:
    """Matrices of one rank's share, padding included."""
    return -(-matrices // world)


class Exchange:
    """Buffers of one bank and the collective that is under way; with one rank there are neither.

    `send`, `receive`, `send_back`, `receive_back` follow each other in this order; the first and third return at once.
    On a GPU bfloat16 travels (half the bytes, as published), on a CPU the bank's own dtype.
    """

    def __init__(self, bank_NRC: Tensor, ranks: Ranks) -> None:
        self._ranks, self._matrices = ranks, len(bank_NRC)
        self.owned = owned(len(bank_NRC), ranks.rank, ranks.world)
        self._pending = Pending()
        if ranks.world == 1:
            self._whole_PRC = self._share_SRC = bank_NRC.new_empty(0)
            return
        share, dtype = share_size(len(bank_NRC), ranks.world), torch.bfloat16 if bank_NRC.is_cuda else bank_NRC.dtype
        # Padding is zero at the start and stays so: the mean of zeros goes out, zeros come back.
        self._whole_PRC = bank_NRC.new_zeros((share * ranks.world, *bank_NRC.shape[1:]), dtype=dtype)
        self._share_SRC = bank_NRC.new_zeros((share, *bank_NRC.shape[1:]), dtype=dtype)

    def send(self, gradient_NRC: Tensor) -> None:
        """Begin to average a gradient over the ranks."""
        if self._ranks.world == 1:
            self._share_SRC = gradient_NRC
            return
        self._whole_PRC[: self._matrices].copy_(gradient_NRC)
        self._pending = self._ranks.start_average_scatter(self._share_SRC, self._whole_PRC)

    def receive(self) -> Tensor:
        """The averaged gradient [n, R, C] of the matrices that this rank owns; valid until `send_back`."""
        self._pending.wait()
        self._pending = Pending()
        return self._share_SRC[: len(self.owned)]

    def send_back(self, update_nRC: Tensor) -> None:
        """Begin to gather the updates of all ranks."""
        if self._ranks.world == 1:
            self._whole_PRC = update_nRC
            return
        self._share_SRC[: len(self.owned)].copy_(update_nRC)
        self._pending = self._ranks.start_gather(self._whole_PRC, self._share_SRC)

    def receive_back(self) -> Tensor:
        """The updates [N, R, C] of the whole bank; valid until the next `send`."""
        self._pending.wait()
        self._pending = Pending()
        return self._whole_PRC[: self._matrices]

    def gather(self, part_nRC: Tensor) -> Tensor:
        """Every rank's part of a state, at once and in its own dtype, as a whole bank [N, R, C] of its own memory."""
        if self._ranks.world == 1:
            return part_nRC.clone()
        share, matrix = share_size(self._matrices, self._ranks.world), part_nRC.shape[1:]
        padded_SRC = part_nRC.new_zeros((share, *matrix))
        padded_SRC[: len(part_nRC)] = part_nRC
        whole_PRC = part_nRC.new_empty((share * self._ranks.world, *matrix))
        self._ranks.start_gather(whole_PRC, padded_SRC).wait()
        return whole_PRC[: self._matrices]
