"""Ids to bytes by table: what both tokenizers share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TokenizerError

_AT_ONCE = 1 << 16  # ids decoded together; bounds the memory of the gather below


def checked_ids(ids: npt.ArrayLike, vocab_size: int) -> npt.NDArray[np.integer]:
    """`ids` as a flat integer array; raise `TokenizerError` if one is not an integer in 0..vocab_size-1."""
    array = np.asarray(ids).ravel()
    if array.size == 0:
        return np.zeros(0, dtype=np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise TokenizerError(f"token ids should be integers, found {array.dtype}")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= vocab_size:
        bad = lowest if lowest < 0 else highest
        raise TokenizerError(f"token id {bad} is outside the vocabulary of {vocab_size} ids (0..{vocab_size - 1})")
    return array


class PieceBytes:
    """The bytes of every piece, laid end to end, so that ids decode by one gather.

    `lengths` int64 [V] is the number of bytes of each piece, `flat` uint8 all of them, and `ends` int64 [V] where each
    piece ends there.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        spelled = list(pieces)
        self.lengths = np.array([len(piece) for piece in spelled], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self._starts = self.ends - self.lengths
        self.flat = np.frombuffer(b"".join(spelled), dtype=np.uint8)

    def decode(self, ids: npt.ArrayLike) -> bytes:
        """The bytes of all ids, one after the other; raise `TokenizerError` for an id outside the vocabulary."""
        array = checked_ids(ids, len(self.lengths))
        return b"".join(self._gather(array[at : at + _AT_ONCE]) for at in range(0, len(array), _AT_ONCE))

    def _gather(self, ids: npt.NDArray[np.integer]) -> bytes:
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        # Byte k of the output is byte k - (start of its piece there) of the piece.
        source = np.arange(ends[-1]) + np.repeat(self._starts[ids] - (ends - lengths), lengths)
        gathered: bytes = self.flat[source].tobytes()
        return gathered
