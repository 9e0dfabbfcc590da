"""Hints from contexts of tokens: the last n tokens, or the tokens of the word so far.

Legend: B lanes, T positions of a lane of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.predict.protocol import Chunk, Int64
from paramgolf.predict.tilt_hints import Hints, lane_tokens, no_hints
from paramgolf.predict.tilt_table import (
    ABSENT,
    CONTEXT_COLUMNS,
    CONTEXTS,
    END,
    GOES_ON,
    JOURNAL,
    LANE,
    PAIR_COLUMNS,
    SIZES,
    SYMBOLS,
    Int8,
    new_table,
)
from paramgolf.predict.tilt_walk import enter_all, forget_before, take_back, walk
from paramgolf.recipe import MOST_ORDER

LONGEST_WORD = 64  # tokens; beyond it a word gives no hints
PAIRS_A_SYMBOL = 2  # a pair is needed for one context in so many and more
BYTES_A_SYMBOL = 4 + 4 * CONTEXT_COLUMNS + 16 + (4 * PAIR_COLUMNS + 16) // PAIRS_A_SYMBOL
LEAST_TEXTS = 8  # of the longest context's length, for each lane, that bounded memory must hold
UNBOUNDED = (1 << 31) - 1  # what a row's 32 bits can name
NOTHING = np.empty(0, dtype=np.int64)
NO_JOURNAL = np.empty((0, JOURNAL), dtype=np.int64)


class ContextHints:
    """Hints from exact contexts of tokens: what followed most often, among equals what did so first (#2140, 6.2).

    `exact` > 0: the last `exact` tokens; the text of a lane begins with one virtual boundary token, and boundaries are
    tokens like any other. `exact` 0: all tokens of the word so far, at most `LONGEST_WORD`; `kind_V` int8 [V] says
    which tokens go on with a word, begin one, or end one (`tilt_table`), and without `every` only those that go on are
    learnt.

    `most_bytes` > 0 bounds the arrays: when they are full, `observe` forgets the contexts that were met in the older
    half of the text alone (`forgotten` counts them). With one lane what is known after `observe` does not depend on how
    the stream was cut. `hints` may use more memory for the time of a chunk.

    Raises `RecipeError` for a context that is not offered and a bound that is too small (it names the least),
    `TokenizerError` for ids outside 0..V - 1, before anything has changed.
    """

    def __init__(
        self,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        *,
        exact: int,
        kind_V: Int8 | None = None,
        every: bool = True,
        most_bytes: int = 0,
        expected_tokens: int = 1 << 12,
    ) -> None:
        if not 0 <= exact <= MOST_ORDER:
            raise RecipeError(f"score.tilt_context={exact} is outside 0..{MOST_ORDER}")
        self.vocab_size, self.boundary_id, self.forgotten = vocab_size, boundary_id, 0
        self._exact, self._every = exact, every
        self._longest = exact or LONGEST_WORD
        self._kind_V = np.full(vocab_size, GOES_ON, dtype=np.int8) if kind_V is None else kind_V.astype(np.int8)
        if self._kind_V.shape != (vocab_size,):
            raise ValueError(f"{len(self._kind_V)} kinds of tokens for a vocabulary of {vocab_size}")
        self._limits = self._limits_of(most_bytes, lanes)
        room = min(int(self._limits[SYMBOLS]), max(expected_tokens, 2 * (self._longest + 2) * lanes))
        self._table = new_table(room, room, room // PAIRS_A_SYMBOL + 2)
        self._lanes_B2 = np.zeros((lanes, LANE), dtype=np.int64)
        for b in range(lanes):
            self._lanes_B2[b] = self._begun()

    def bytes_in_memory(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for array in self._table)

    def contexts_in_use(self) -> int:
        """How many contexts are known."""
        return int(self._table.used[CONTEXTS])

    def prime(self, documents: Sequence[npt.NDArray[np.int32]]) -> None:
        """Learn from training documents, each closed by a boundary token, as one text; then lanes begin new ones."""
        texts = [np.append(document, self.boundary_id).astype(np.int64) for document in documents]
        for text in texts:
            self._check(text)
        for text in texts:
            self._learn(0, text)
        for b in range(len(self._lanes_B2)):
            self._lanes_B2[b] = self._begun()

    def hints(self, chunk: Chunk, lane: int) -> Hints:
        """The hint before each real position of a lane; changes nothing."""
        tokens_T = lane_tokens(chunk, lane)
        self._check(tokens_T)
        most = len(tokens_T) + 2 * (self._longest + 2)
        self._grow(self._table.used + np.array([most, most, 2 * most]))
        found, before = no_hints(len(tokens_T)), self._table.used.copy()
        journal = np.full((max(len(tokens_T), 1), JOURNAL), ABSENT, dtype=np.int64)
        state = self._begun() if chunk.starts[lane] else self._lanes_B2[lane].copy()
        walk(*self._table, self._room(), state, *self._rule(), tokens_T, *found, journal)
        take_back(*self._table, before, journal)
        return found

    def observe(self, chunk: Chunk) -> None:
        """Learn from the chunk's tokens, lane after lane."""
        self._check(chunk.tokens[chunk.real()])
        for lane in range(len(chunk.tokens)):
            if chunk.starts[lane]:
                self._lanes_B2[lane] = self._begun()
            self._learn(lane, lane_tokens(chunk, lane))

    def _begun(self) -> Int64:
        """A lane whose text begins; `RUN` -1 asks for the virtual boundary."""
        return np.array([0, -1 if self._exact else 0], dtype=np.int64)

    def _rule(self) -> tuple[Int8, int, int, int, bool]:
        return self._kind_V, self.boundary_id, self._exact, self._longest, self._every

    def _learn(self, lane: int, tokens_T: Int64) -> None:
        done = 0
        while True:
            limits = np.minimum(self._limits, self._room())
            done += walk(
                *self._table, limits, self._lanes_B2[lane], *self._rule(), tokens_T[done:],
                NOTHING, NOTHING, NOTHING, NO_JOURNAL,
            )  # fmt: skip
            if done == len(tokens_T):
                return
            needed = self._table.used + np.array([self._longest + 2, 1, 2])
            if (needed > self._limits).any():
                self._forget()
            else:
                self._grow(needed)

    def _room(self) -> Int64:
        table = self._table
        return np.array([len(table.arena), len(table.contexts), len(table.pairs)], dtype=np.int64)

    def _grow(self, needed: Int64) -> None:
        """Room for so many symbols, contexts and pairs; rows and places stay what they are."""
        arena, contexts, _, pairs, _, used = self._table
        room = self._room()
        if (needed <= room).all():
            return
        grown = np.where(needed > room, np.maximum(2 * room, needed), room)
        if (grown > UNBOUNDED).any():
            raise RecipeError("hints of this text need more than 100 GB; set score.ngram_bytes")
        larger = new_table(*grown.tolist())
        for old, new in zip((arena, contexts, pairs), (larger.arena, larger.contexts, larger.pairs)):
            new[: len(old)] = old
        larger.used[:] = used
        enter_all(*larger)
        self._table = larger

    def _forget(self) -> None:
        """Drop what was met in the older half of the text alone; all of it, should that not be enough."""
        arena, contexts, context_slots, pairs, pair_slots, used = self._table
        tails = [arena[max(end - min(run, self._longest), 0) : end].copy() for end, run in self._lanes_B2.tolist()]
        needed = np.array([self._longest + 2, 1, 2])
        for cut in (int(used[SYMBOLS]) // 2, int(used[SYMBOLS])):
            self.forgotten += forget_before(arena, contexts, pairs, used, min(cut, int(used[SYMBOLS])))
            if (used + needed <= self._limits).all():
                break
        context_slots[:], pair_slots[:] = 0, 0
        enter_all(*self._table)
        for b, tail in enumerate(tails):
            arena[used[SYMBOLS] : used[SYMBOLS] + len(tail)] = tail
            used[SYMBOLS] += len(tail)
            self._lanes_B2[b, END] = used[SYMBOLS]

    def _limits_of(self, most_bytes: int, lanes: int) -> Int64:
        if most_bytes == 0:
            return np.full(SIZES, UNBOUNDED, dtype=np.int64)
        symbols = most_bytes // BYTES_A_SYMBOL
        least = LEAST_TEXTS * (self._longest + 2) * (lanes + 1)
        if symbols < least:
            raise RecipeError(
                f"{most_bytes} bytes are too few for hints from {self._longest} tokens in {lanes} lanes; use at least "
                f"{least * BYTES_A_SYMBOL}, or 0 for as many as they need"
            )
        return np.array([symbols, symbols, symbols // PAIRS_A_SYMBOL], dtype=np.int64)

    def _check(self, tokens: Int64) -> None:
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise TokenizerError(
                f"token ids {int(tokens.min())}..{int(tokens.max())} are not in the vocabulary 0..{self.vocab_size - 1}"
            )
