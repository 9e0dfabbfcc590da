"""The passes of the referee over a text: each feeds a fresh predictor and writes down what it said.

B lanes, T positions of a chunk, V vocabulary; nats. A *place* is (chunk, lane, position). All passes feed the true
chunks in plan order; they differ in what is asked before a chunk is observed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from paramgolf.predict.audit import PositionAudit, ask_audited, largest_difference
from paramgolf.predict.plan import Plan, plan
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor

Place = tuple[int, int, int]


@runtime_checkable
class Fingerprinted(Protocol):
    """A predictor that can name its state: equal fingerprints, equal state. Optional; checked where offered."""

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Probed:
    """The text as the referee feeds it, and the places it will look at."""

    plan: Plan
    chunks: list[Chunk]
    documents: list[Int64]
    places: dict[int, list[tuple[int, int]]]  # chunk -> (lane, position)s in decoding order


@dataclass
class Trace:
    """What a predictor said during one pass: the credits of every chunk [B, T] and the row at every place [V]."""

    realised: list[Float64] = field(default_factory=list)
    rows: dict[Place, Float64] = field(default_factory=dict)

    def differs(self, other: Trace) -> float:
        """Largest difference in nats over the chunks and places that both have."""
        credits = [largest_difference(one, two) for one, two in zip(self.realised, other.realised)]
        shared = self.rows.keys() & other.rows.keys()
        return max([0.0, *credits, *(largest_difference(self.rows[place], other.rows[place]) for place in shared)])

    def bits(self, chunks: Sequence[Chunk]) -> Float64:
        """The credits as bits per token in plan order."""
        parts = [-realised[chunk.real()] / np.log(2.0) for realised, chunk in zip(self.realised, chunks)]
        return np.concatenate(parts) if parts else np.empty(0)


def lay_out(
    tokens_by_document: Sequence[Int64],
    *,
    lanes: int,
    chunk: int,
    boundary_id: int,
    positions: int,
    rng: np.random.Generator,
) -> Probed:
    """Plan the text and draw the places, every real position alike. A text of less than four chunks is cut finer."""
    documents = [np.asarray(document, dtype=np.int64) for document in tokens_by_document]
    lengths = [len(document) for document in documents]
    order = plan(lengths, lanes=lanes, chunk=finer(chunk, sum(lengths) // (4 * lanes)))
    chunks = list(order.chunks(documents, boundary_id))
    every = np.array([(step, *place) for step, part in enumerate(chunks) for place in np.argwhere(part.real())])
    drawn = rng.permutation(len(every))[:positions]
    places: dict[int, list[tuple[int, int]]] = {}
    for step, lane, position in sorted(every[drawn].tolist(), key=lambda place: (place[0], place[2], place[1])):
        places.setdefault(step, []).append((lane, position))
    return Probed(order, chunks, documents, places)


def finer(chunk: int, most: int) -> int:
    """The chunk length divided by its smallest factors until it is at most `most`: it still divides what it divided."""
    while chunk > max(most, 1):
        chunk //= next((factor for factor in range(2, math.isqrt(chunk) + 1) if chunk % factor == 0), chunk)
    return chunk


def plain_pass(predictor: Predictor, probed: Probed, until: int | None = None) -> Trace:
    """What a scorer does and nothing else: one ask a chunk, then observe. `until` stops before that chunk."""
    trace = Trace()
    for step, chunk in enumerate(probed.chunks[:until]):
        rows = predictor.predict(copy_of(chunk))
        trace.realised.append(as_array(rows.realised()))
        for lane, position in probed.places.get(step, []):
            trace.rows[step, lane, position] = as_array(rows.row(lane, position))
        predictor.observe(copy_of(chunk))
    return trace


@dataclass
class Questioning:
    """What the questioned pass found besides its trace."""

    trace: Trace = field(default_factory=Trace)
    audits: list[PositionAudit] = field(default_factory=list)
    fingerprints: int = 0
    fingerprints_changed: int = 0


def questioned_pass(predictor: Predictor, probed: Probed, rng: np.random.Generator) -> Questioning:
    """Audit every drawn place (see `predict.audit`), and ask about a foreign chunk too, at a random moment."""
    found = Questioning()
    for step, chunk in enumerate(probed.chunks):
        before = _fingerprint(predictor)
        foreign_first = bool(rng.random() < 0.5)
        if foreign_first:
            _ask_foreign(predictor, chunk, rng)
        realised, audits, _ = ask_audited(predictor, chunk, probed.places.get(step, []), rng)
        if not foreign_first:
            _ask_foreign(predictor, chunk, rng)
        found.trace.realised.append(realised)
        found.audits += audits
        if before is not None:
            found.fingerprints += 1
            found.fingerprints_changed += _fingerprint(predictor) != before
        predictor.observe(copy_of(chunk))
    return found


def blind_pass(predictor: Predictor, probed: Probed) -> Trace:
    """A decoder's view: before a place's row is given, its token and all that follows, in every lane, are withheld (0).

    The true chunk is shown only in `observe`. Credits are left out: a decoder has none.
    """
    trace = Trace()
    for step, chunk in enumerate(probed.chunks):
        for lane, position in probed.places.get(step, []):
            withheld = copy_of(chunk)
            withheld.tokens[:, position:] = 0
            trace.rows[step, lane, position] = as_array(predictor.predict(withheld).row(lane, position))
        predictor.observe(copy_of(chunk))
    return trace


def noise(probed: Probed, vocab_size: int, rng: np.random.Generator, from_chunk: int = 0) -> list[Int64]:
    """The documents with every token that is scored in chunk `from_chunk` or later replaced by uniform noise."""
    documents = [document.copy() for document in probed.documents]
    late = probed.plan.segments.take(probed.plan.segments.step >= from_chunk)
    for document, offset, length in zip(late.document.tolist(), late.offset.tolist(), late.length.tolist()):
        part = documents[document][offset : offset + length]
        part[:] = rng.integers(0, vocab_size, len(part))
    return documents


def _ask_foreign(predictor: Predictor, chunk: Chunk, rng: np.random.Generator) -> None:
    """Ask about quite another text at the same place; the answer is thrown away."""
    tokens = rng.integers(0, predictor.vocab_size, chunk.tokens.shape)
    foreign = dataclasses.replace(copy_of(chunk), tokens=tokens)
    predictor.predict(foreign).realised()


def _fingerprint(predictor: Predictor) -> str | None:
    return predictor.fingerprint() if isinstance(predictor, Fingerprinted) else None


def as_array(values: Float64) -> Float64:
    """A copy: the predictor may reuse its buffers."""
    return np.array(values, dtype=np.float64)


def copy_of(chunk: Chunk) -> Chunk:
    """Arrays of its own for the predictor, which may overwrite them."""
    return Chunk(chunk.tokens.copy(), chunk.lengths.copy(), chunk.starts.copy())
