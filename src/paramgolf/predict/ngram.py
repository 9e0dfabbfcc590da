"""Exact token n-gram counts as a predictor: contexts of up to eight tokens, learnt from every token shown.

Legend: B lanes, T positions of a chunk, K orders (contexts of 0..order tokens), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.predict.ngram_kernel import evidence, evidence_count, first_escapes, log_into, walk
from paramgolf.predict.ngram_table import ABSENT, PARENT, ROOT, TOTAL, copy_trie, find_row, new_table
from paramgolf.predict.protocol import Chunk, Float64, Int64

FULLEST = 0.6  # share of occupied rows above which the table doubles
LARGEST_ORDER = 8
PRIMED_AT_ONCE = 1 << 16  # tokens: what is set aside for them stays small beside the table


class NgramPredictor:
    """Counts of all n-grams of up to `order` + 1 tokens, mixed by escapes (`ngram_kernel`), shared by all lanes.

    Inside a chunk, position t already knows the chunk's earlier tokens of its own lane: `predict` counts them for the
    while and takes them back. So rows do not depend on how one lane's stream is cut into chunks. Memory: 32 bytes a row
    of a table that is at most 60 % full; about `order` rows a token of varied text. `expected_tokens` sizes it at once.
    """

    def __init__(
        self, order: int, vocab_size: int, boundary_id: int, lanes: int = 1, expected_tokens: int = 1 << 14
    ) -> None:
        if not 0 <= order <= LARGEST_ORDER:
            raise RecipeError(f"n-gram order {order} is outside 0..{LARGEST_ORDER}")
        self.vocab_size = vocab_size
        self.boundary_id = boundary_id
        self.orders = order + 1
        self._escapes = first_escapes(self.orders)
        self._used_1 = np.ones(1, dtype=np.int64)
        # Half of the n-grams of real text repeat an earlier one; a table that is too small doubles by itself.
        self._table = new_table(1 << max(10, int(expected_tokens * self.orders * 0.5 / FULLEST).bit_length()))
        self._contexts_BK = np.stack([self._fresh() for _ in range(lanes)])

    def evidence_values(self) -> int:
        """How many values `NgramRows.evidence` takes."""
        return evidence_count(self.orders)

    def prime(self, documents: Sequence[npt.NDArray[np.int32]]) -> None:
        """Learn training documents, each closed by a boundary token, before the first row is asked for."""
        contexts_K = self._fresh()
        for document in documents:
            tokens = np.append(document, self.boundary_id).astype(np.int64)
            for first in range(0, len(tokens), PRIMED_AT_ONCE):
                self._learn(contexts_K, tokens[first : first + PRIMED_AT_ONCE])
        self._contexts_BK = np.stack([self._fresh() for _ in self._contexts_BK])

    def predict(self, chunk: Chunk) -> NgramRows:
        """Rows of the chunk [B, T]; nothing is computed before it is asked for."""
        self._reserve(chunk.tokens.shape[1], self._contexts_BK)
        return NgramRows(self, chunk)

    def observe(self, chunk: Chunk) -> None:
        """Learn the chunk's tokens, lane after lane."""
        for b in range(len(chunk.tokens)):
            if chunk.starts[b]:
                self._contexts_BK[b] = self._fresh()
            self._learn(self._contexts_BK[b], np.ascontiguousarray(chunk.tokens[b, : chunk.lengths[b]]))

    def foresee_lane(self, chunk: Chunk, lane: int, length: int, row_V: Float64) -> tuple[Float64, Int64]:
        """Probability of the first `length` tokens of a lane and the evidence before each, both [length].

        `row_V` (empty, or of the vocabulary's size) receives the distribution that follows them.
        """
        contexts_K = self._fresh() if chunk.starts[lane] else self._contexts_BK[lane].copy()
        tokens = np.ascontiguousarray(chunk.tokens[lane, :length])
        probability_T, evidence_T = np.empty(length), np.empty(length, dtype=np.int64)
        walk(
            self._table,
            self._used_1,
            contexts_K,
            self._escapes.copy(),
            tokens,
            False,
            probability_T,
            evidence_T,
            row_V,
            self.vocab_size,
        )
        return probability_T, evidence_T

    def first_evidence(self, chunk: Chunk, lane: int) -> int:
        """The evidence before the first token that `chunk` has for a lane."""
        return int(evidence(self._table, self._fresh() if chunk.starts[lane] else self._contexts_BK[lane]))

    def _learn(self, contexts_K: Int64, tokens: Int64) -> None:
        """Read and keep `tokens` in the lane whose contexts are given."""
        self._reserve(len(tokens), contexts_K[None])
        walk(
            self._table,
            self._used_1,
            contexts_K,
            self._escapes,
            tokens,
            True,
            np.empty(len(tokens)),
            np.empty(len(tokens), dtype=np.int64),
            np.empty(0),
            self.vocab_size,
        )

    def _fresh(self) -> Int64:
        """Contexts after nothing but the virtual boundary token, which is one once a boundary has been counted."""
        contexts_K = np.full(self.orders, ABSENT, dtype=np.int64)
        contexts_K[0] = ROOT
        if self.orders > 1:
            row = find_row(self._table, ROOT, self.boundary_id)
            contexts_K[1] = row if self._table[row, PARENT] != 0 and self._table[row, TOTAL] > 0 else ABSENT
        return contexts_K

    def _reserve(self, tokens: int, contexts_BK: Int64) -> None:
        """Make room for `tokens` more; the rows that the lanes' contexts and `contexts_BK` name move along."""
        needed = int(self._used_1[0]) + tokens * self.orders
        if needed <= FULLEST * len(self._table):
            return
        larger = new_table(1 << int(needed / FULLEST).bit_length())
        moved = np.zeros(len(self._table), dtype=np.int32)
        copy_trie(self._table, larger, moved)
        apart = [] if np.shares_memory(contexts_BK, self._contexts_BK) else [contexts_BK]
        for contexts in [self._contexts_BK, *apart]:
            contexts[:] = np.where(contexts >= 0, moved[contexts], contexts)
        self._table = larger


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
        """What the counts know before each real token of a lane, [length]; see `ngram_kernel.evidence`."""
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
