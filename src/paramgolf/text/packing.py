"""Where the documents of one row of tokens lie, when they are laid end to end and none may see another.

Legend: N tokens of a row, E ends of spans, the first 0. Source: spec pr2140.md 3.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BUCKET = 64  # the ends of a row are padded to a multiple of so many: few shapes, few compiled graphs

Int32 = npt.NDArray[np.int32]


def document_ends(tokens_N: npt.NDArray[np.integer], boundary_id: int, context: int = 0, bucket: int = BUCKET) -> Int32:
    """Ends of the spans within which attention stays, int32 [E], from 0 to N; E is a multiple of `bucket`.

    A boundary token begins a document; the row's first token does too, whatever it is. Documents longer than `context`
    (0: any length) are cut every `context` tokens. Padding repeats N: spans of no token.
    """
    if context < 0 or bucket < 1:
        raise ValueError(f"context={context} must not be negative and bucket={bucket} must be positive")
    length = len(tokens_N)
    starts = np.flatnonzero(tokens_N == boundary_id)
    if not len(starts) or starts[0]:
        starts = np.concatenate([[0], starts])
    if context:
        counts = -(-np.diff(starts, append=length) // context)
        first = np.cumsum(counts) - counts  # number of each document's first span
        starts = np.repeat(starts, counts) + context * (np.arange(counts.sum()) - np.repeat(first, counts))
    entries = -(-(len(starts) + 1) // bucket) * bucket
    ends_E = np.full(entries, length, dtype=np.int32)
    ends_E[: len(starts)] = starts
    return ends_E
