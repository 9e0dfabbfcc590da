"""The published evaluation's rules for documents, their order, chunks and windows (spec pr2140.md 5.1 and 5.3).

Nothing legal runs by them: the chunk size follows from the longest document of a batch, and the last chunk's window
from where the document ends, so a row depends on tokens that are not decoded yet (spec pr2140.md 8, item 3).
`lora_layout.py` has the rule that decodes; these are here so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK_SIZES = ((256, 16), (2000, 32))  # longest document of the batch, tokens of its chunks
LONG_CHUNK = 64


class Span(NamedTuple):
    """A document in a stream: its first token and how many, the next document's first included as the last target."""

    start: int
    length: int


class PublishedWindow(NamedTuple):
    """What the model reads for one chunk, and which of it is scored: `scored` positions from `offset` on."""

    start: int
    length: int
    offset: int
    scored: int


def published_documents(tokens: npt.ArrayLike, first_id: int) -> list[Span]:
    """The documents of a stream in which each begins with `first_id`."""
    ids = np.asarray(tokens)
    starts = np.flatnonzero(ids == first_id).tolist()
    ends = [start + 1 for start in starts[1:]] + [len(ids)]
    return [Span(start, end - start) for start, end in zip(starts, ends)]


def published_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which documents go through the model together, in the order in which they do: the longest first."""
    ascending = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [ascending[first : first + size] for first in range(0, len(ascending), size)][::-1]


def published_chunk(longest: int) -> int:
    """Tokens of a chunk where the longest document of the batch has `longest`."""
    return next((size for most, size in CHUNK_SIZES if longest <= most), LONG_CHUNK)


def published_window(index: int, targets: int, chunks: int, size: int, window: int) -> PublishedWindow:
    """The window of chunk `index` of `chunks` in a document of `targets` targets, chunks of `size`."""
    first = index * size
    end = targets if index == chunks - 1 else first + size
    start = max(0, end - window)
    return PublishedWindow(start, end - start, first - start, end - first)
