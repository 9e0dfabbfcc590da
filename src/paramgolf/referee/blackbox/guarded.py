"""Tokens behind a counter: whoever reads them leaves the highest index behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paramgolf.predict.protocol import Int64


class GuardedTokens:
    """An array of token ids that remembers the highest index that was read; -1 before the first read.

    It takes an index, a slice or an array of indices, and becomes an array (all of it read) where numpy asks for one.
    """

    def __init__(self, tokens: Int64) -> None:
        self._tokens = tokens
        self._highest = -1

    @property
    def highest(self) -> int:
        """The highest index read so far."""
        return self._highest

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: Any, /) -> Any:
        where = np.arange(len(self._tokens))[index]
        if np.size(where):
            self._highest = max(self._highest, int(np.max(where)))
        found = self._tokens[where]
        return int(found) if np.ndim(found) == 0 else found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)
