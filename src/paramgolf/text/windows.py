"""Training windows in a seeded order that any step can be asked for directly.

Shapes: S sequences of this rank, T tokens a sequence. The shards are read as one circular stream of N tokens. An epoch
is M = N // T windows of T + 1 tokens, each starting T after the last, so every token but N % T is a target once; a new
epoch shifts all starts by a random offset and visits the windows in a new order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.text.permutation import permute, random_below
from paramgolf.text.token_stream import Int64, TokenStream


class TrainingWindows:
    """`batch(step, sequences)` is a pure function of seed, step, rank and world: resuming needs no state.

    The windows of one step depend on `sequences * world` only; rank r takes the r-th part of them. They are disjoint as
    long as the step does not cross the end of an epoch. Memory does not grow with the number of tokens. Raises
    `TextError` if the shards hold fewer than `sequence + 1` tokens.
    """

    def __init__(
        self, shards: Sequence[npt.NDArray[np.integer]], sequence: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is outside 0..world-1={world - 1}")
        if sequence < 1:
            raise ValueError(f"sequence={sequence} must be positive")
        self._stream = TokenStream(shards)
        self._stream.require_window(sequence)
        self.tokens = self._stream.tokens
        self.sequence = sequence
        self.windows_per_epoch = self.tokens // sequence
        self._seed, self._rank, self._world = seed, rank, world

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]:
        """Inputs and targets (the inputs moved on by one token), int64 [S, T] each."""
        if step < 0 or sequences < 1:
            raise ValueError(f"step={step} must not be negative and sequences={sequences} must be positive")
        first = (step * self._world + self._rank) * sequences
        windows_ST1 = np.empty((sequences, self.sequence + 1), dtype=np.int64)
        for row, start in enumerate(self._window_starts(first, sequences)):
            self._stream.read(start, windows_ST1[row])
        return windows_ST1[:, :-1].copy(), windows_ST1[:, 1:].copy()

    def epoch(self, step: int, sequences: int) -> float:
        """Epochs that the run has seen when `step` begins."""
        return step * self._world * sequences / self.windows_per_epoch

    def _window_starts(self, first: int, count: int) -> list[int]:
        """Where in the stream the windows number `first` .. `first + count - 1` of the run begin."""
        starts: list[int] = []
        while len(starts) < count:
            epoch, index = divmod(first + len(starts), self.windows_per_epoch)
            size = min(count - len(starts), self.windows_per_epoch - index)
            order = permute(np.arange(index, index + size), self.windows_per_epoch, self._seed, epoch)
            offset = random_below(self.tokens, self._seed, epoch)
            starts.extend(((order * self.sequence + offset) % self.tokens).tolist())
        return starts
