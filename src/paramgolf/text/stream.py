"""Training batches in the order of the shards, as the contest's loader draws them (spec pr549.md 1.4).

Shapes: S sequences of this rank, T tokens a sequence. The batch of a step is `spans` pieces of L + 1 consecutive
tokens, one after the other in the circular stream; a piece is cut into sequences of T inputs (its first L tokens) and
T targets (its last L). So the first token of a piece is no target of its step, and nothing is shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.text.token_stream import Int64, TokenStream

CONTEST_SPANS = 8  # of a global batch: 8 ranks, or one that accumulates over 8 passes


class StreamWindows:
    """`batch(step, sequences)` is a pure function of step, rank and world: resuming needs no state.

    The sequences of one step depend on `sequences * world` only, and rank r takes the r-th part of them, so every
    number of ranks sees the same stream in the same steps; ranks that divide `spans` get whole pieces, as published.
    Raises `TextError` if the shards hold fewer than `sequence + 1` tokens; shorter than a piece, they are read round
    and round.
    """

    def __init__(
        self,
        shards: Sequence[npt.NDArray[np.integer]],
        sequence: int,
        rank: int = 0,
        world: int = 1,
        *,
        spans: int = CONTEST_SPANS,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is outside 0..world-1={world - 1}")
        if sequence < 1 or spans < 1:
            raise ValueError(f"sequence={sequence} and spans={spans} must be positive")
        self._shards, self._stream = shards, TokenStream(shards)
        self._stream.require_window(sequence)
        self.tokens = self._stream.tokens
        self.sequence, self.spans = sequence, spans
        self._rank, self._world = rank, world

    def batch(self, step: int, sequences: int) -> tuple[Int64, Int64]:
        """Inputs and targets (the inputs moved on by one token), int64 [S, T] each.

        Raises `RecipeError` if the sequences of all ranks do not divide into pieces.
        """
        if step < 0 or sequences < 1:
            raise ValueError(f"step={step} must not be negative and sequences={sequences} must be positive")
        per_span = self._sequences_of_a_span(sequences)
        advance = self._tokens_of_a_step(per_span)
        windows_ST1 = np.empty((sequences, self.sequence + 1), dtype=np.int64)
        for row in range(sequences):
            span, index = divmod(self._rank * sequences + row, per_span)
            # One token more for every piece that is behind.
            start = step * advance + span * (per_span * self.sequence + 1) + index * self.sequence
            self._stream.read(start, windows_ST1[row])
        return windows_ST1[:, :-1].copy(), windows_ST1[:, 1:].copy()

    def rows(self, tokens: int, rows: int) -> StreamWindows:
        """The same stream in batches of `rows` sequences (of all ranks) of `tokens` tokens each, every one a piece.

        A row is what packed training takes at once: `tokens + 1` consecutive tokens (spec pr2140.md 3.1).
        """
        return StreamWindows(self._shards, tokens, self._rank, self._world, spans=rows)

    def epoch(self, step: int, sequences: int) -> float:
        """Rounds of the stream that the run has seen when `step` begins."""
        return step * self._tokens_of_a_step(self._sequences_of_a_span(sequences)) / self.tokens

    def _tokens_of_a_step(self, per_span: int) -> int:
        return self.spans * (per_span * self.sequence + 1)

    def _sequences_of_a_span(self, sequences: int) -> int:
        total = sequences * self._world
        if total % self.spans:
            raise RecipeError(
                f"train.batch_tokens={total * self.sequence} is {total} sequences of train.sequence={self.sequence}, "
                f"which train.order=stream cannot cut into {self.spans} pieces; make it a multiple of "
                f"{self.spans * self.sequence}, or use --train.order shuffled"
            )
        return total // self.spans
