"""The tilt of #2140 as corrected: no gate looks at the target, but hints and scores follow two different orders.

Hints are made in one pass over the whole validation text, each document knowing those before it in *that* order; the
documents are scored, and learnt from, in another one (there: hints in the order of the stream, scores from the longest
document to the shortest). So a document is scored with hints from documents that are not scored yet. Every row is a
distribution, and every hint comes from "the past", but no one order makes all factors depend on coded tokens only: on
the smallest text the scores of all outcomes add up to 1.64 (spec pr2140.md, 6.6). Caught by `score-before-update`.

Here the scorer follows the stream, whatever the recipe's order, and hints are made from the shortest document to the
longest, of equal ones from the last to the first. Share and boost are the published ones; contexts have 2 tokens, not
15, so that the probes of a short text show it too.

Legend: B lanes, T positions.
"""

from __future__ import annotations

import numpy as np

from paramgolf.exhibits.tables import Documents, Wrapped
from paramgolf.predict.protocol import Chunk, Int64, Predictor, Rows
from paramgolf.predict.tilt import Expert, TiltPredictor
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_hints import Hints, lane_tokens, no_hints


class HintsMadeBefore:
    """Hints of a whole text, made in one pass over its documents in `order`; found again by place.

    Told nothing but the chunks, it knows where they are from: documents begin in the order of the plan that is scored,
    `scored` [D], and in a single lane they stand one after the other, each with its boundary.
    """

    def __init__(self, vocab_size: int, documents: Documents, order: Int64, scored: Int64, context: int) -> None:
        self.vocab_size = vocab_size
        made: dict[int, Hints] = {}
        counts = ContextHints(vocab_size, 0, exact=context)
        for document in order.tolist():
            chunk = _alone(documents[document])
            made[document] = counts.hints(chunk, 0)
            counts.observe(chunk)
        self._made = made
        self._stream = _joined([_with_boundary(made[document]) for document in scored.tolist()])
        self._lanes = [document for document in scored.tolist() if len(documents[document])]
        self._begun = 0
        self._at: dict[int, tuple[int, int]] = {}

    def hints(self, chunk: Chunk, lane: int) -> Hints:
        """What was made for the place where the lane stands."""
        length = len(lane_tokens(chunk, lane))
        if len(chunk.tokens) == 1:
            first = self._at.get(0, (0, 0))[1]
            return _cut(self._stream, first, length)
        document, offset = self._places(chunk)[0].get(lane, (-1, 0))
        return _cut(self._made[document], offset, length) if document >= 0 else no_hints(length)

    def observe(self, chunk: Chunk) -> None:
        """Move on."""
        if len(chunk.tokens) == 1:
            self._at = {0: (0, self._at.get(0, (0, 0))[1] + int(chunk.lengths[0]))}
            return
        places, self._begun = self._places(chunk)
        self._at = {lane: (document, at + int(chunk.lengths[lane])) for lane, (document, at) in places.items()}

    def _places(self, chunk: Chunk) -> tuple[dict[int, tuple[int, int]], int]:
        """Document and offset of every lane that reads one, and how many documents have begun."""
        places, begun = dict(self._at), self._begun
        for lane in np.flatnonzero(chunk.starts).tolist():
            if begun < len(self._lanes):
                places[lane] = (self._lanes[begun], 0)
                begun += 1
        return places, begun


class TwoOrders(Wrapped):
    """A tilt whose hints were made along another order than the one that is scored."""

    def __init__(
        self, base: Predictor, held_out: Documents, *, context: int = 2, share: float = 0.8, boost: float = 2.625
    ) -> None:
        super().__init__(base)
        lengths = np.array([len(document) for document in held_out], dtype=np.int64)
        scored = np.arange(len(lengths))
        order = np.lexsort((-scored, lengths))  # equal lengths last first: two orders on any text
        hints = HintsMadeBefore(base.vocab_size, held_out, order, scored, context)
        self.tilt = TiltPredictor(base, [Expert(hints, share, boost)])

    def predict(self, chunk: Chunk) -> Rows:
        return self.tilt.predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        self.tilt.observe(chunk)


def _alone(document: Int64) -> Chunk:
    tokens = np.asarray(document, dtype=np.int64)
    return Chunk(tokens[None], np.array([len(tokens)]), np.array([True]))


def _with_boundary(hints: Hints) -> Hints:
    return _joined([hints, no_hints(1)])


def _joined(parts: list[Hints]) -> Hints:
    return Hints(*(np.concatenate([no_hints(0)[column], *(part[column] for part in parts)]) for column in range(3)))


def _cut(hints: Hints, first: int, length: int) -> Hints:
    """Hints from a place on, none where nothing was made."""
    known = Hints(*(part[first : first + length] for part in hints))
    return _joined([known, no_hints(length - len(known.token_T))])
