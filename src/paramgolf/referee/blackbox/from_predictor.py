"""Any predictor of this project, or built like one, as a black box: all interfaces of the tests at once.

B lanes, T positions of a chunk, V vocabulary, N targets. Nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor
from paramgolf.referee.blackbox.guarded import GuardedTokens
from paramgolf.referee.blackbox.scorer import Batched, BlackBox, Books, Layout

Make = Callable[[Sequence[Int64], int], Predictor]
"""`make(documents, lanes)`: a fresh predictor for the documents about to be scored, which an honest one ignores."""


def from_predictor(
    name: str,
    make: Make,
    vocab_size: int,
    *,
    chunk: int,
    boundary_id: int,
    lanes: int = 3,
    books: Books | None = None,
) -> BlackBox:
    """The predictor that `make` builds, fed in chunks of `chunk` tokens; several texts go side by side in `lanes`.

    Token 0 of a text is shown and not credited. What a rogue `make` reads of the documents is counted in T12.
    """
    feed = _Feed(make, chunk)

    def fresh() -> Callable[[Int64, int, int], Float64]:
        return lambda tokens, declared, seed: feed.costs(tokens)

    return BlackBox(
        name,
        vocab_size,
        fresh,
        Layout(stride=1, block=chunk),
        logprobs=feed.row,
        batched=Batched(
            lambda texts, batch, seed: _side_by_side(make, texts, batch, chunk, boundary_id),
            batch=lanes,
            targets=3 * chunk,
            steps=lambda lengths, batch: _steps(lengths, batch, chunk),
        ),
        books=books,
        stream=lambda tokens, declared, seed: feed.run(tokens, tokens.after(1)),
    )


class _Feed:
    """One text in one lane: its first token, then chunks of one fixed shape."""

    def __init__(self, make: Make, chunk: int) -> None:
        self._make, self._chunk = make, chunk

    def costs(self, tokens: Int64) -> Float64:
        parts = [cost for _, cost in self.run(tokens, tokens[1:])]
        return np.concatenate(parts) if parts else np.zeros(0)

    def run(self, tokens: Int64 | GuardedTokens, document: Int64 | GuardedTokens) -> Iterator[tuple[Int64, Float64]]:
        """Targets and costs, chunk by chunk."""
        predictor = self._start(tokens, document)
        for first in range(1, len(tokens), self._chunk):
            chunk = self._chunk_at(tokens, first)
            count = int(chunk.lengths[0])
            cost = -predictor.predict(chunk).realised()[0, :count]
            yield np.arange(first, first + count), cost
            predictor.observe(chunk)

    def row(self, tokens: Int64, target: int) -> Float64:
        """The row [V] from which `target` is credited."""
        predictor = self._start(tokens, tokens[1:])
        for first in range(1, len(tokens), self._chunk):
            chunk = self._chunk_at(tokens, first)
            rows = predictor.predict(chunk)
            if target < first + self._chunk:
                return rows.row(0, target - first)
            predictor.observe(chunk)
        raise ValueError(f"target {target} of {len(tokens) - 1}")

    def _start(self, tokens: Int64 | GuardedTokens, document: Int64 | GuardedTokens) -> Predictor:
        # A guarded view reads like an array; a rogue that turns it into one has read all of it.
        documents: Sequence[Int64] = [document]  # type: ignore[list-item]  # GuardedTokens stands in for an array
        predictor = self._make(documents, 1)
        padded = np.zeros((1, self._chunk), dtype=np.int64)
        padded[0, 0] = tokens[0]
        predictor.observe(Chunk(padded, np.array([1], dtype=np.int64), np.array([True])))
        return predictor

    def _chunk_at(self, tokens: Int64 | GuardedTokens, first: int) -> Chunk:
        part = tokens[first : first + self._chunk]
        padded = np.zeros((1, self._chunk), dtype=np.int64)
        padded[0, : len(part)] = part
        return Chunk(padded, np.array([len(part)], dtype=np.int64), np.array([False]))


def _side_by_side(make: Make, texts: Sequence[Int64], lanes: int, chunk: int, boundary_id: int) -> list[Float64]:
    """Costs of all texts, each without its first token, in the lanes and the order of the plan."""
    documents = [np.asarray(text[1:], dtype=np.int64) for text in texts]
    order = plan([len(document) for document in documents], lanes=lanes, chunk=chunk)
    predictor = make(documents, lanes)
    credits: list[Float64] = []
    for part in order.chunks(documents, boundary_id):
        credits.append(-predictor.predict(part).realised())
        predictor.observe(part)
    cost = [np.full(len(document), np.nan) for document in documents]
    rows = order.segments
    for s in range(len(rows.step)):
        document, offset, column = int(rows.document[s]), int(rows.offset[s]), int(rows.column[s])
        count = min(int(rows.length[s]), len(documents[document]) - offset)  # without the boundary of a single lane
        part_T = credits[int(rows.step[s])][int(rows.lane[s])]
        cost[document][offset : offset + count] = part_T[column : column + count]
    return cost


def _steps(lengths: Sequence[int], lanes: int, chunk: int) -> list[Int64]:
    """The chunk in which every target of every text is credited."""
    rows = plan(lengths, lanes=lanes, chunk=chunk).segments
    steps = [np.zeros(length, dtype=np.int64) for length in lengths]
    for s in range(len(rows.step)):
        offset = int(rows.offset[s])
        steps[int(rows.document[s])][offset : offset + int(rows.length[s])] = rows.step[s]
    return steps
