"""The documents of a stream of shards: each begins with the boundary token, and may straddle shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


def documents_of(shards: Sequence[npt.NDArray[np.integer]], boundary_id: int) -> Iterator[Int32]:
    """Ids int32 of each document, without its boundary token.

    Tokens before the first boundary, which only shards of other making have, are a document too.
    """
    rest: list[npt.NDArray[np.integer]] = []
    for shard in shards:
        ids = np.asarray(shard)
        head, *documents = np.split(ids, np.flatnonzero(ids == boundary_id))
        rest.append(head)
        for document in documents:
            if sum(map(len, rest)):
                yield _without_boundary(rest, boundary_id)
            rest = [document]
    if sum(map(len, rest)):
        yield _without_boundary(rest, boundary_id)


def _without_boundary(parts: Sequence[npt.NDArray[np.integer]], boundary_id: int) -> Int32:
    ids = np.concatenate(parts).astype(np.int32)
    return ids[1:] if ids[0] == boundary_id else ids
