"""Which token is predicted when: a pure function of document lengths.

The order must be the same in every run, or the text could not be decoded. So there are no work queues, no clock and no
randomness here: `plan` looks at the lengths and nothing else. Documents come in the stream's order or from the longest
to the shortest (`orders.py`).

Legend: B lanes of one rank, T positions of a chunk, G = world x lanes, D documents, S segments. A *segment* is a run of
tokens of one document that lies in one chunk.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TextError
from paramgolf.predict.orders import permutation_bits, processing_order
from paramgolf.predict.protocol import Chunk, Int64

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Segments:
    """Runs of tokens in the order in which they are credited; six int64 arrays of equal length [S]."""

    step: Int64  # which chunk
    lane: Int64  # which lane, counted over all ranks
    document: Int64
    offset: Int64  # first position in the document
    length: Int64
    column: Int64  # first position in the chunk

    def take(self, chosen: npt.NDArray[np.bool_] | Int64) -> Segments:
        """The chosen segments, in the order of the choice."""
        columns = (self.step, self.lane, self.document, self.offset, self.length, self.column)
        return Segments(*(column[chosen] for column in columns))


@dataclass(frozen=True)
class Plan:
    """The order of one scoring run, as one rank sees it. Made by `plan`.

    `steps` chunks are fed to every rank (idle lanes have length 0). `side_bits` is what a decoder must be told besides
    the tokens: with one lane in the stream's order, whose boundary tokens are paid for, how many tokens there are; with
    several, or in another order, the length of every document, from which the order follows.
    """

    lengths: Int64 = field(repr=False)
    lanes: int
    chunk: int
    rank: int
    world: int
    steps: int
    side_bits: int
    segments: Segments = field(repr=False)
    order: str = "stream"

    @property
    def permutation_bits(self) -> float:
        """What naming the order alone would take (`orders.permutation_bits`); the contest does not charge it."""
        return permutation_bits(self.order, self.lengths)

    @property
    def boundaries(self) -> bool:
        """Whether boundary tokens are in the stream, predicted and paid."""
        return self.lanes * self.world == 1

    @property
    def token_count(self) -> int:
        """Tokens that this rank credits, boundary tokens included."""
        return int(self.segments.length.sum())

    def document_index(self) -> Int32:
        """For every credited token in plan order: its document [token_count]."""
        return np.repeat(self.segments.document, self.segments.length).astype(np.int32)

    def position_index(self) -> Int32:
        """For every credited token in plan order: its position in the document (the boundary token's is the length)."""
        length = self.segments.length
        first = np.cumsum(length) - length
        position = np.arange(self.token_count) + np.repeat(self.segments.offset - first, length)
        return np.asarray(position, dtype=np.int32)

    def chunks(self, tokens_by_document: Sequence[npt.ArrayLike], boundary_id: int) -> Iterator[Chunk]:
        """The chunks of this rank, `steps` of them, padded with token 0 to one shape [B, T].

        Raise `TextError` at once if a document is not as long as the plan was told.
        """
        found = [len(np.asarray(ids)) for ids in tokens_by_document]
        if found != self.lengths.tolist():
            raise TextError(f"the plan is for {_summary(self.lengths)}, the text has {_summary(np.array(found))}")
        return self._chunks(tokens_by_document, boundary_id)

    def _chunks(self, tokens_by_document: Sequence[npt.ArrayLike], boundary_id: int) -> Iterator[Chunk]:
        rows = self.segments
        edges = np.searchsorted(rows.step, np.arange(self.steps + 1)).tolist()
        lane = (rows.lane - self.rank * self.lanes).tolist()
        document, offset, length, column = (a.tolist() for a in (rows.document, rows.offset, rows.length, rows.column))
        for step in range(self.steps):
            tokens = np.zeros((self.lanes, self.chunk), dtype=np.int64)
            lengths = np.zeros(self.lanes, dtype=np.int64)
            starts = np.zeros(self.lanes, dtype=np.bool_)
            for s in range(edges[step], edges[step + 1]):
                part = np.asarray(tokens_by_document[document[s]])[offset[s] : offset[s] + length[s]]
                filled = column[s] + len(part)
                tokens[lane[s], column[s] : filled] = part
                if len(part) < length[s]:
                    tokens[lane[s], filled] = boundary_id
                lengths[lane[s]] += length[s]
                starts[lane[s]] |= (step == 0) if self.boundaries else (offset[s] == 0)
            yield Chunk(tokens, lengths, starts)


def plan(
    lengths: Sequence[int], *, lanes: int = 1, chunk: int, rank: int = 0, world: int = 1, order: str = "stream"
) -> Plan:
    """The order in which documents of `lengths` tokens are scored; see docs/architecture.md, "Stream".

    `order` (`orders.py`) says which document comes when. One lane overall: all documents in one stream, each followed
    by the boundary token; the number of tokens is side information, or, in another order than the stream's, the
    lengths. Several: each document goes, in order, to the lane that is free first (ties: the lowest), begins a chunk
    there and keeps the lane to its end; the lengths are side information. All are coded as Elias gamma of n + 1.
    Lanes are numbered over ranks (rank r has the `lanes` lanes from r*lanes on), so 1 rank x 4 lanes visits what 2
    ranks x 2 lanes do. Raises `RecipeError` for an order that is not known.
    """
    if min(lanes, chunk, world) < 1 or not 0 <= rank < world:
        raise ValueError(f"plan: lanes={lanes}, chunk={chunk}, world={world} must be positive, rank={rank} below world")
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if (sizes < 0).any():
        raise ValueError(f"plan: document {int(np.argmin(sizes))} has length {int(sizes.min())}")
    everyone = lanes * world
    processed = processing_order(order, sizes)
    placed = _stream(sizes[processed], chunk) if everyone == 1 else _lanes(sizes[processed], chunk, everyone)
    segments = replace(placed, document=processed[placed.document])
    steps = int(segments.step.max(initial=-1)) + 1
    mine = segments.take(segments.lane // lanes == rank)
    told = segments.length.sum(keepdims=True) if everyone == 1 and order == "stream" else sizes
    return Plan(sizes, lanes, chunk, rank, world, steps, elias_gamma_bits(told + 1), mine, order)


def elias_gamma_bits(numbers: npt.ArrayLike) -> int:
    """Bits of the Elias gamma codes of positive integers: 2 floor(log2 n) + 1 each."""
    _, exponent = np.frexp(np.asarray(numbers, dtype=np.float64))
    return int((2 * (exponent.astype(np.int64) - 1) + 1).sum())


def _stream(sizes: Int64, chunk: int) -> Segments:
    ends = np.cumsum(sizes + 1)
    starts = ends - (sizes + 1)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.union1d(starts, np.arange(0, total, chunk, dtype=np.int64))
    document = np.searchsorted(starts, cuts, side="right") - 1
    length = np.diff(np.append(cuts, total))
    return Segments(cuts // chunk, np.zeros_like(cuts), document, cuts - starts[document], length, cuts % chunk)


def _lanes(sizes: Int64, chunk: int, everyone: int) -> Segments:
    pieces = -(-sizes // chunk)
    begin, lane = _assign(pieces.tolist(), everyone)
    document = np.repeat(np.arange(len(sizes), dtype=np.int64), pieces)
    piece = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offset = piece * chunk
    length = np.minimum(chunk, sizes[document] - offset)
    step, lane = begin[document] + piece, lane[document]
    return Segments(step, lane, document, offset, length, np.zeros_like(step)).take(np.lexsort((lane, step)))


def _assign(pieces: list[int], everyone: int) -> tuple[Int64, Int64]:
    """For each document the step at which it begins and its lane [D]; empty documents take no time."""
    free = [(0, lane) for lane in range(everyone)]
    chosen = []
    for count in pieces:
        step, lane = free[0]
        chosen.append((step, lane))
        heapq.heapreplace(free, (step + count, lane))
    table = np.asarray(chosen, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _summary(lengths: Int64) -> str:
    return f"{len(lengths)} documents, {int(lengths.sum())} tokens"
