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

Make = Callable[[Sequence[Int64], int, int], Predictor]
"""`make(documents, lanes, tokens)`: a fresh predictor. `documents` are those about to be scored, which an honest one
ignores; `tokens` is how many the whole text has, which a schedule may know: it stays when the text is cut short."""


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

    Alone, a text starts with its token 0, whose cost is left out; so chunks begin where the predictor's own do. Side by
    side, texts start with token 1. What a rogue `make` reads of the documents is counted in T12.
    """
    feed = _Feed(make, chunk)

    def fresh() -> Callable[[Int64, int, int], Float64]:
        return lambda tokens, declared, seed: feed.costs(tokens, declared)

    return BlackBox(
        name,
        vocab_size,
        fresh,
        Layout(stride=1, block=chunk, first=chunk - 1),
        logprobs=feed.row,
        batched=Batched(
            lambda texts, batch, seed: _side_by_side(make, texts, batch, chunk, boundary_id),
            batch=lanes,
            targets=3 * chunk,
            steps=lambda lengths, batch: _steps(lengths, batch, chunk),
        ),
        books=books,
        stream=lambda tokens, declared, seed: feed.run(tokens, declared),
    )


class _Feed:
    """One text in one lane, in chunks of one fixed shape; `declared` counts the targets of the whole text."""

    def __init__(self, make: Make, chunk: int) -> None:
        self._make, self._chunk = make, chunk

    def costs(self, tokens: Int64, declared: int) -> Float64:
        parts = [cost for _, cost in self.run(tokens, declared)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def run(self, tokens: Int64 | GuardedTokens, declared: int) -> Iterator[tuple[Int64, Float64]]:
        """Targets and costs, chunk by chunk."""
        predictor = self._start(tokens, declared)
        for first in range(0, len(tokens), self._chunk):
            chunk = self._chunk_at(tokens, first)
            count = int(chunk.lengths[0])
            cost = -predictor.predict(chunk).realised()[0, :count]
            given = int(first == 0)
            if count > given:
                yield np.arange(first + given, first + count), cost[given:]
            predictor.observe(chunk)

    def row(self, tokens: Int64, target: int) -> Float64:
        """The row [V] from which `target` is credited."""
        if not 0 <= target < len(tokens):
            raise ValueError(f"target {target} of {len(tokens)} tokens")
        predictor = self._start(tokens, len(tokens) - 1)
        for first in range(0, target - self._chunk + 1, self._chunk):
            chunk = self._chunk_at(tokens, first)
            predictor.predict(chunk)
            predictor.observe(chunk)
        first = target // self._chunk * self._chunk
        return predictor.predict(self._chunk_at(tokens, first)).row(0, target - first)

    def _start(self, tokens: Int64 | GuardedTokens, declared: int) -> Predictor:
        # A guarded view reads like an array; a rogue that turns it into one has read all of it.
        documents: Sequence[Int64] = [tokens]  # type: ignore[list-item]  # GuardedTokens stands in for an array
        return self._make(documents, 1, declared + 1)

    def _chunk_at(self, tokens: Int64 | GuardedTokens, first: int) -> Chunk:
        part = tokens[first : first + self._chunk]
        padded = np.zeros((1, self._chunk), dtype=np.int64)
        padded[0, : len(part)] = part
        return Chunk(padded, np.array([len(part)], dtype=np.int64), np.array([first == 0]))


def _side_by_side(make: Make, texts: Sequence[Int64], lanes: int, chunk: int, boundary_id: int) -> list[Float64]:
    """Costs of all texts, each without its first token, in the lanes and the order of the plan."""
    documents = [np.asarray(text[1:], dtype=np.int64) for text in texts]
    order = plan([len(document) for document in documents], lanes=lanes, chunk=chunk)
    predictor = make(documents, lanes, order.token_count)
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
