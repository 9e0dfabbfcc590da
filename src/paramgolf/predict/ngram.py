"""Exact token n-gram counts as a predictor: contexts of up to 32 tokens, learnt from every token shown.

Legend: B lanes, T positions of a chunk, K contexts (of 0, 1, ... order tokens), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from paramgolf.predict.evidence import Evidence
from paramgolf.predict.ngram_kernel import (
    chain_tokens,
    distribution,
    evidence_count,
    evidence_value,
    first_escapes,
    log_into,
)
from paramgolf.predict.ngram_standing import Standing, look_ahead
from paramgolf.predict.ngram_table import DISTINCT, TOTAL
from paramgolf.predict.ngram_trial import new_evidence
from paramgolf.predict.ngram_trie import NgramTrie
from paramgolf.predict.protocol import Chunk, Float64, Int64

PRIMED_AT_ONCE = 1 << 16  # tokens: the evidence of so many stays small beside the counts


class NgramPredictor:
    """Counts of all n-grams of up to `order` + 1 tokens, mixed by escapes (`ngram_kernel`), shared by all lanes.

    Inside a chunk, position t already knows the chunk's earlier tokens of its own lane: `predict` counts them for the
    while and takes them back. So rows do not depend on how one lane's stream is cut into chunks, as long as memory is
    not full. `most_bytes` bounds it (0: as much as they need), see `NgramTrie`; `expected_tokens` sizes it at once.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        expected_tokens: int = 1 << 14,
        *,
        most_bytes: int = 0,
    ) -> None:
        self.vocab_size = vocab_size
        self.boundary_id = boundary_id
        self.orders = order + 1
        self._trie = NgramTrie(
            order,
            vocab_size,
            boundary_id,
            lanes,
            opening=False,
            most_bytes=most_bytes,
            expected_tokens=expected_tokens,
        )
        self._escapes = first_escapes(self.orders)

    @property
    def forgotten(self) -> int:
        """How many nodes and single followers were forgotten, because memory is bounded."""
        return self._trie.forgotten

    def bytes_in_memory(self) -> int:
        """What the counts' arrays take."""
        return self._trie.bytes_in_memory()

    def evidence_values(self) -> int:
        """How many values `NgramRows.evidence` takes."""
        return evidence_count(self.orders)

    def prime(self, documents: Sequence[npt.NDArray[np.int32]]) -> None:
        """Learn training documents, each closed by a boundary token, before the first row is asked for."""
        for number, document in enumerate(documents):
            tokens = np.append(document, self.boundary_id).astype(np.int64)
            self._trie.check_tokens(tokens)
            for first in range(0, len(tokens), PRIMED_AT_ONCE):
                self._learn(0, number == first == 0, tokens[first : first + PRIMED_AT_ONCE])
        self._trie.restart()

    def predict(self, chunk: Chunk) -> NgramRows:
        """Rows of the chunk [B, T]; nothing is computed before it is asked for."""
        self._trie.check(chunk)
        return NgramRows(self, chunk)

    def observe(self, chunk: Chunk) -> None:
        """Learn the chunk's tokens, lane after lane."""
        self._trie.check(chunk)
        for b in range(len(chunk.tokens)):
            self._learn(b, bool(chunk.starts[b]), np.ascontiguousarray(chunk.tokens[b, : chunk.lengths[b]]))

    def foresee_lane(self, chunk: Chunk, lane: int, length: int, row_V: Float64) -> tuple[Float64, Int64]:
        """Probability of the first `length` tokens of a lane and the value of the evidence before each, both [length].

        `row_V` (empty, or of the vocabulary's size) receives the distribution that follows them.
        """
        evidence, escapes = new_evidence(length, self.orders), self._escapes.copy()
        with self._ahead(chunk, lane, length, evidence) as standing:
            found = self._chain(evidence, escapes)
            if len(row_V):
                trie = standing.trie
                distribution(trie.nodes, trie.history, standing.cursors_K, standing.known, escapes, row_V)
        return found

    def first_evidence(self, chunk: Chunk, lane: int) -> int:
        """The value of the evidence before the first token that `chunk` has for a lane."""
        with self._ahead(chunk, lane, 0, self._trie.no_evidence()) as standing:
            if standing.known == 0:
                return 0
            node = standing.trie.nodes[standing.cursors_K[standing.known - 1]]
            return int(evidence_value(standing.known, int(node[TOTAL]), int(node[DISTINCT])))

    @contextmanager
    def _ahead(self, chunk: Chunk, lane: int, length: int, evidence: Evidence) -> Iterator[Standing]:
        tokens = np.ascontiguousarray(chunk.tokens[lane, :length])
        with look_ahead(self._trie, lane, bool(chunk.starts[lane]), tokens, evidence) as standing:
            yield standing

    def _learn(self, lane: int, starts: bool, tokens: Int64) -> None:
        evidence = new_evidence(len(tokens), self.orders)
        self._trie.count(lane, starts, tokens, evidence)
        self._chain(evidence, self._escapes)

    def _chain(self, evidence: Evidence, escapes: Float64) -> tuple[Float64, Int64]:
        probability_T, value_T = np.empty(len(evidence.total_TK)), np.empty(len(evidence.total_TK), dtype=np.int64)
        chain_tokens(*evidence, escapes, self.vocab_size, probability_T, value_T)
        return probability_T, value_T


class NgramRows:
    """Rows that are counted out on demand; void after `observe`."""

    def __init__(self, predictor: NgramPredictor, chunk: Chunk) -> None:
        self._predictor = predictor
        self._chunk = chunk
        self._lanes: dict[int, tuple[Float64, Int64]] = {}

    def realised(self) -> Float64:
        """Log-probability in nats of the chunk's tokens [B, T], 0 at padding."""
        out_BT = np.zeros(self._chunk.tokens.shape)
        for b, length in enumerate(self._chunk.lengths):
            log_into(self.probability(b), out_BT[b, :length])
        return out_BT

    def probability(self, lane: int) -> Float64:
        """Probability of each real token of a lane, [length]."""
        return self._lane(lane)[0]

    def evidence(self, lane: int) -> Int64:
        """What the counts know before each real token of a lane, [length]; see `ngram_kernel.evidence_value`."""
        return self._lane(lane)[1]

    def first_evidence(self, lane: int) -> int:
        """`evidence` of a lane's first position alone; looks at none of the chunk's tokens."""
        return self._predictor.first_evidence(self._chunk, lane)

    def row(self, lane: int, position: int) -> Float64:
        """The whole distribution at one position, [V] nats."""
        row_V = self.row_probability(lane, position)
        log_into(row_V, row_V)
        return row_V

    def row_probability(self, lane: int, position: int) -> Float64:
        """The whole distribution at one position, [V] probabilities."""
        if not 0 <= position < self._chunk.lengths[lane]:
            raise IndexError(f"lane {lane} position {position} is padding")
        row_V = np.empty(self._predictor.vocab_size)
        self._predictor.foresee_lane(self._chunk, lane, position, row_V)
        return row_V

    def _lane(self, lane: int) -> tuple[Float64, Int64]:
        if lane not in self._lanes:
            length = int(self._chunk.lengths[lane])
            self._lanes[lane] = self._predictor.foresee_lane(self._chunk, lane, length, np.empty(0))
        return self._lanes[lane]
