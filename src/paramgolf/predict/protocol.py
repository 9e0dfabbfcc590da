"""A predictor is a sequence of distributions: ask for the rows, then show it what happened.

Shapes: B lanes, T positions of a chunk, V entries of the vocabulary. Probabilities are natural logarithms (nats) in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chunk:
    """The next tokens of every lane.

    `tokens` int64 [B, T]; only the first `lengths[b]` of lane b are real (the rest is padding, never credited);
    `starts[b]` says that lane b begins a new document with this chunk, so that its earlier context ends. Row (b, t) may
    depend on the predictor's state and on `tokens[b, :t]` only: not on `tokens[b, t:]` nor on any other lane's tokens.
    """

    tokens: Int64
    lengths: Int64
    starts: Bool

    def real(self) -> Bool:
        """Which positions [B, T] hold real tokens."""
        return np.arange(self.tokens.shape[1])[None, :] < self.lengths[:, None]

    def same_as(self, other: Chunk) -> bool:
        """Whether both hold the same tokens, padding included, in the same places."""
        return (
            np.array_equal(self.tokens, other.tokens)
            and np.array_equal(self.lengths, other.lengths)
            and np.array_equal(self.starts, other.starts)
        )


class Rows(Protocol):
    """Normalised distributions for all positions of one chunk; may be lazy, and is void once `observe` was called."""

    def realised(self) -> Float64:
        """Log-probability in nats of each token of the chunk, [B, T]; padding positions hold 0."""
        ...

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one position, [V] nats; `exp` of it sums to one."""
        ...


@runtime_checkable
class FullRows(Protocol):
    """Rows that also give all of a lane at once."""

    def all_rows(self, lane: int) -> Float64:
        """The distributions at all real positions of a lane, [length, V] nats."""
        ...


class Predictor(Protocol):
    """See the module docstring. `predict` changes nothing; `observe` is the only place where the state changes."""

    @property
    def vocab_size(self) -> int: ...

    def predict(self, chunk: Chunk) -> Rows: ...

    def observe(self, chunk: Chunk) -> None: ...


class TableRows:
    """Rows held as one array of log-probabilities [B, T, V]; the plainest implementation."""

    def __init__(self, logprob_BTV: Float64, chunk: Chunk) -> None:
        self._logprob_BTV = logprob_BTV
        self._chunk = chunk

    def realised(self) -> Float64:
        picked = np.take_along_axis(self._logprob_BTV, self._chunk.tokens[:, :, None], axis=2)[:, :, 0]
        return np.where(self._chunk.real(), picked, 0.0)

    def row(self, lane: int, position: int) -> Float64:
        row_V: Float64 = self._logprob_BTV[lane, position]
        return row_V


def single_token(token: int, *, start: bool = False) -> Chunk:
    """A chunk of one lane and one token, as the codec feeds them."""
    return Chunk(np.array([[token]], dtype=np.int64), np.array([1], dtype=np.int64), np.array([start]))
