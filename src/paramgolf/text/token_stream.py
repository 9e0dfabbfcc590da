"""All shards as one circular stream of tokens: after the last token comes the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TextError

Int64 = npt.NDArray[np.int64]


class TokenStream:
    """`tokens` ids in the order of the shards; memory does not grow with them."""

    def __init__(self, shards: Sequence[npt.NDArray[np.integer]]) -> None:
        # Plain views: slicing a memory map through its own class costs ten times as much.
        self._shards = [np.asarray(shard) for shard in shards if len(shard)]
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)])
        self.tokens = int(self._starts[-1])

    def require_window(self, sequence: int) -> None:
        """Raise `TextError` if the shards hold fewer than `sequence + 1` tokens: inputs and their targets."""
        if self.tokens < sequence + 1:
            raise TextError(
                f"the training shards hold {self.tokens} tokens, a window of sequence={sequence} needs {sequence + 1}; "
                "give more text or a shorter sequence"
            )

    def read(self, start: int, into: Int64) -> None:
        """Fill `into` with the tokens from `start` on; `start` may be any number of rounds ahead."""
        done = 0
        start %= self.tokens
        while done < len(into):
            shard = int(np.searchsorted(self._starts, start, side="right")) - 1
            at = start - int(self._starts[shard])
            part = self._shards[shard][at : at + len(into) - done]
            into[done : done + len(part)] = part
            done += len(part)
            start = (start + len(part)) % self.tokens
