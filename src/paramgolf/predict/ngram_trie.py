"""Exact n-gram counts of several lanes' texts: memory, growth, forgetting, and trials that leave nothing behind.

Legend: B lanes, K contexts (of 0, 1, ... K - 1 tokens), T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.predict.evidence import Evidence
from paramgolf.predict.ngram_count import count_walk
from paramgolf.predict.ngram_forget import forget_history, forget_rarest
from paramgolf.predict.ngram_table import (
    ABSENT,
    PLACES,
    TOTAL,
    USED,
    Int64,
    Trie,
    enter_all,
    new_trie,
)
from paramgolf.predict.ngram_trial import Lane, Trial, enlarged, new_evidence
from paramgolf.predict.ngram_walk import KNOWN, LANE, PLACE, has_room, more_contexts
from paramgolf.predict.protocol import Chunk
from paramgolf.recipe import MOST_ORDER

NODE_BYTES, SLOTS_A_NODE, PLACES_A_NODE = 32, 2, 1
BYTES_A_NODE = NODE_BYTES + 8 * SLOTS_A_NODE + 4 * PLACES_A_NODE  # with its slots and its share of the history
FIXED_BYTES = 64  # of what is neither
LEAST_TOKENS = 256  # that a bounded trie must have room for, beyond the vocabulary
FORGOTTEN_SHARE = 4  # one of so many nodes is forgotten when a bounded trie is full


class NgramTrie:
    """Counts of all n-grams of up to `order` + 1 tokens in the texts of several lanes.

    A lane's text begins after one virtual boundary token. With `opening` that token is a context from the first text
    on, otherwise once a boundary was followed. `most_bytes` bounds the memory of all arrays (0: they grow): when they
    are full, a quarter of the nodes is forgotten (`ngram_forget`), and `forgotten` counts them. Raises `RecipeError`
    for an order that is not offered and for a bound that is too small.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        boundary_id: int,
        lanes: int,
        *,
        opening: bool,
        most_bytes: int = 0,
        expected_tokens: int = 1 << 14,
    ) -> None:
        if not 0 <= order <= MOST_ORDER:
            raise RecipeError(f"n-gram order {order} is outside 0..{MOST_ORDER}")
        self.order, self.vocab_size, self.boundary_id = order, vocab_size, boundary_id
        self.forgotten = 0
        self.bounded = most_bytes > 0
        self._opening = opening
        rows = vocab_size + 1 + 2 * expected_tokens if not self.bounded else (most_bytes - FIXED_BYTES) // BYTES_A_NODE
        least = vocab_size + 1 + LEAST_TOKENS * (order + 1)
        if self.bounded and rows < least:
            raise RecipeError(
                f"score.ngram_bytes={most_bytes} is too small for n-grams of order {order} over {vocab_size} tokens; "
                f"use at least {least * BYTES_A_NODE + FIXED_BYTES}, or 0 for as much as they need"
            )
        rows = min(max(rows, least), (1 << 31) - 1)  # as many as a row's 32-bit number can name
        self.trie = new_trie(vocab_size, rows, SLOTS_A_NODE * rows, PLACES_A_NODE * rows)
        self._rows_BK = np.zeros((lanes, order + 1), dtype=np.int64)
        self._lane_B2 = np.zeros((lanes, LANE), dtype=np.int64)
        self._tails: list[Int64] = [np.empty(0, dtype=np.int64)] * lanes
        self.restart()

    @property
    def lanes(self) -> int:
        """How many texts run side by side."""
        return len(self._rows_BK)

    def bytes_in_memory(self) -> int:
        """What the arrays take, used or not."""
        return sum(array.nbytes for array in self.trie)

    def nodes_in_use(self) -> int:
        """Nodes that are there, those of the single tokens included."""
        return int(self.trie.scalars[USED])

    def bytes_in_use(self) -> int:
        """What is used of the arrays: nodes with their slots, and history."""
        return self.nodes_in_use() * (NODE_BYTES + 8 * SLOTS_A_NODE) + 4 * int(self.trie.scalars[PLACES])

    def check(self, chunk: Chunk) -> None:
        """Refuse ids outside the vocabulary with `TokenizerError`, before anything has changed."""
        tokens = chunk.tokens
        if not tokens.size or (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            return
        wrong = chunk.real() & ((chunk.tokens < 0) | (chunk.tokens >= self.vocab_size))
        if wrong.any():
            lane, position = np.argwhere(wrong)[0]
            raise TokenizerError(
                f"token {chunk.tokens[lane, position]} at lane {lane} position {position} is outside the vocabulary of "
                f"{self.vocab_size}; the text was made with another tokenizer"
            )

    def check_tokens(self, tokens: Int64) -> None:
        """`check` for a single text."""
        self.check(Chunk(tokens[None], np.array([len(tokens)]), np.array([True])))

    def restart(self) -> None:
        """Every lane begins a new text."""
        for b in range(self.lanes):
            self._store(b, self.fresh())

    def fresh(self) -> Lane:
        """A lane whose text begins."""
        rows_K = np.zeros(self.order + 1, dtype=np.int64)
        boundary = 1 + self.boundary_id
        opens = self.order > 0 and (self._opening or self.trie.nodes[boundary, TOTAL] > 0)
        if opens:
            rows_K[1] = boundary
        state = np.array([2 if opens else 1, ABSENT], dtype=np.int64)
        return Lane(rows_K, state, np.array([self.boundary_id] if opens else [], dtype=np.int64))

    def lane(self, lane: int, starts: bool) -> Lane:
        """A copy of where a lane stands, or of where it stands once a new text begins."""
        if starts:
            return self.fresh()
        found = Lane(self._rows_BK[lane].copy(), self._lane_B2[lane].copy(), self._tails[lane])
        if found.state[PLACE] != self.trie.scalars[PLACES]:  # other lanes have counted since: contexts became nodes
            trie = self.trie
            found.state[KNOWN] = more_contexts(trie.nodes, trie.slots, found.tail, found.rows_K, found.state[KNOWN])
        return found

    def count(self, lane: int, starts: bool, tokens: Int64, evidence: Evidence | None = None) -> None:
        """Count a lane's next tokens; the evidence before each is written into `evidence`, arrays of zeros [T, K]."""
        self._store(lane, self.lane(lane, starts))
        rows_K, state = self._rows_BK[lane], self._lane_B2[lane]
        asked, done = evidence or self.no_evidence(), 0
        while True:
            done += count_walk(*self.trie, rows_K, state, tokens[done:], *(part[done:] for part in asked))
            if done == len(tokens):
                break
            self.make_room()
        self._tails[lane] = self.tail_after(self._tails[lane], tokens)

    def tail_after(self, tail: Int64, tokens: Int64) -> Int64:
        """The last tokens of a text, as many as the longest context has."""
        joined = np.concatenate([tail[-self.order :], tokens[-self.order :]]) if self.order else tokens[:0]
        return joined[-self.order :] if self.order else joined

    def no_evidence(self) -> Evidence:
        """Arrays that say that evidence is not asked for."""
        return new_evidence(0, self.order + 1)

    @contextmanager
    def trial(self, lane: int, starts: bool) -> Iterator[Trial]:
        """Count a lane's next tokens for a while; afterwards all counts are as they were, byte by byte."""
        trial = Trial(self, self.lane(lane, starts))
        try:
            yield trial
        finally:
            trial.take_back()

    def make_room(self) -> None:
        """Room for one more token at least: grow, or forget if memory is bounded."""
        if not self.bounded:
            self.grow()
            return
        nodes, slots, history, scalars = self.trie
        if scalars[PLACES] + 3 > len(history):
            self.forgotten += forget_history(nodes, history, scalars, self._lane_B2, len(history) // 2)
        if not has_room(nodes, history, scalars, self.order + 1):
            fixed = self.vocab_size + 1
            wanted = (len(nodes) - fixed) // FORGOTTEN_SHARE
            self.forgotten += forget_rarest(nodes, slots, scalars, self._rows_BK, self._lane_B2, fixed, wanted)

    def grow(self) -> None:
        """Twice the room for what is full; rows and places stay what they are."""
        nodes, slots, history, scalars = self.trie
        if scalars[PLACES] + 3 > len(history):
            history = enlarged(history)
        if scalars[USED] + 2 * (self.order + 1) > len(nodes):
            nodes = enlarged(nodes)
            slots = np.zeros(SLOTS_A_NODE * len(nodes), dtype=np.uint64)
            enter_all(nodes, slots, self.vocab_size + 1, scalars[USED])
        if max(len(nodes), len(history)) >= 1 << 31:
            raise RecipeError("n-gram counts of this text need more than 64 GB; set score.ngram_bytes")
        self.trie = Trie(nodes, slots, history, scalars)

    def _store(self, b: int, lane: Lane) -> None:
        self._rows_BK[b], self._lane_B2[b], self._tails[b] = lane.rows_K, lane.state, lane.tail
