"""Exact n-gram counts to look up: what each context of 0, 1, ... tokens was followed by, and how often.

Legend: T positions of one lane of a chunk, K contexts (of 0, 1, ... K - 1 tokens).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.ngram_standing import Standing, look_ahead, part_of
from paramgolf.predict.ngram_trial import Trial, new_evidence
from paramgolf.predict.ngram_trie import NgramTrie
from paramgolf.predict.protocol import Chunk, Int64

PRIMED_AT_ONCE = 1 << 20  # tokens


class NgramCounts:
    """Counts of all n-grams of up to `order` + 1 tokens in everything observed, shared by all lanes; never a collision.

    `order` is the number of tokens of the longest context, 0 to 32 (an "order n" model of the literature has contexts
    of n - 1). A lane's text begins after one virtual boundary token, which is a context like any other. Inside a chunk
    a position knows the chunk's earlier tokens of its own lane.

    `lag` = C > 0: what follows a context becomes known only when the block of C tokens is over in which it stands
    (spec #1185, 4.10); contexts use all earlier tokens at once and may cross blocks. Each lane numbers its own tokens,
    from the first it ever observed: token number n (from 0) stands in block n // C. The virtual boundary has no number;
    with it as index 0 this is the spec's block (j - 1) // C of target index j. `prime` counts at once.

    `most_bytes` > 0 bounds the arrays. When they are full, `observe` forgets the rarest n-grams without longer ones,
    among equals the oldest, and the followers of long ago of contexts that were seen once; `forgotten` counts both.
    Totals stay the sums of what is left. With one lane the counts after `observe` do not depend on how the stream was
    cut into chunks. Looking up never forgets: once the arrays are full inside a chunk, later positions do not know
    the chunk's tokens from there on, so there alone evidence depends on the cut.

    Raises `RecipeError` for an order or lag that is not offered and for a bound that is too small (it names the least),
    and `TokenizerError` for ids outside 0..`vocab_size` - 1, before anything has changed.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        boundary_id: int,
        lanes: int = 1,
        *,
        lag: int = 0,
        most_bytes: int = 0,
        expected_tokens: int = 1 << 14,
    ) -> None:
        if lag < 0:
            raise RecipeError(f"score.ngram_lag={lag} is negative")
        self.order, self.vocab_size, self.boundary_id, self.lag = order, vocab_size, boundary_id, lag
        self._trie = NgramTrie(
            order,
            vocab_size,
            boundary_id,
            lanes,
            opening=True,
            most_bytes=most_bytes,
            expected_tokens=expected_tokens,
        )
        # With a lag: each lane's texts in the block that is not over, with whether they begin a new one; how many
        # tokens it ever observed; and the last of them.
        self._pending: list[list[tuple[bool, Int64]]] = [[] for _ in range(lanes)]
        self._observed = [0] * lanes
        self._tails = [self._trie.fresh().tail for _ in range(lanes)]

    @property
    def forgotten(self) -> int:
        """How many nodes and single followers were forgotten, because memory is bounded."""
        return self._trie.forgotten

    def bytes_in_memory(self) -> int:
        """What the counts' arrays take."""
        return self._trie.bytes_in_memory()

    def nodes_in_use(self) -> int:
        """How many nodes there are, those of the single tokens included."""
        return self._trie.nodes_in_use()

    def bytes_in_use(self) -> int:
        """What is used of the counts' arrays: nodes with their slots, and history."""
        return self._trie.bytes_in_use()

    def prime(self, documents: Sequence[npt.NDArray[np.int32]]) -> None:
        """Count training documents, each closed by a boundary token, as one text; then every lane begins a new one."""
        texts = [np.append(document, self.boundary_id).astype(np.int64) for document in documents]
        for text in texts:
            self._trie.check_tokens(text)
        for number, text in enumerate(texts):
            for first in range(0, len(text), PRIMED_AT_ONCE):
                self._trie.count(0, number == first == 0, text[first : first + PRIMED_AT_ONCE])
        self._trie.restart()
        self._pending = [[] for _ in self._pending]
        self._tails = [self._trie.fresh().tail for _ in self._tails]

    def look_up(self, chunk: Chunk, lane: int) -> Evidence:
        """What is known before each real position of a lane; changes nothing."""
        self._trie.check(chunk)
        length = int(chunk.lengths[lane])
        evidence = new_evidence(length, self.order + 1)
        with self._ahead(chunk, lane, length, evidence):
            return evidence

    def followers(self, chunk: Chunk, lane: int, position: int) -> list[Followers]:
        """What followed each known context of a position, the empty context first; changes nothing."""
        if not 0 <= position < chunk.lengths[lane]:
            raise IndexError(f"lane {lane} position {position} is padding")
        self._trie.check(chunk)
        with self._ahead(chunk, lane, position, self._trie.no_evidence()) as standing:
            return standing.followers()

    def observe(self, chunk: Chunk) -> None:
        """Count the chunk's tokens, lane after lane."""
        self._trie.check(chunk)
        for lane in range(len(chunk.tokens)):
            self._observe_lane(chunk, lane, None)

    def look_up_and_observe(self, chunk: Chunk) -> list[Evidence]:
        """`look_up` of every lane, then `observe`; in one walk, twice as fast, where there is one lane and no lag."""
        self._trie.check(chunk)
        if len(chunk.tokens) > 1 or self.lag:
            found = [self.look_up(chunk, lane) for lane in range(len(chunk.tokens))]
            self.observe(chunk)
            return found
        evidence = new_evidence(int(chunk.lengths[0]), self.order + 1)
        self._observe_lane(chunk, 0, evidence)
        return [evidence]

    def _observe_lane(self, chunk: Chunk, lane: int, evidence: Evidence | None) -> None:
        starts, tokens = bool(chunk.starts[lane]), _tokens(chunk, lane, int(chunk.lengths[lane]))
        if not self.lag:
            self._trie.count(lane, starts, tokens, evidence)
            return
        self._tails[lane] = self._tail_after(lane, starts, tokens)
        for piece in self._blocks(lane, tokens):
            self._pending[lane].append((starts, piece))
            starts = False
            self._observed[lane] += len(piece)
            if len(piece) and self._observed[lane] % self.lag == 0:
                for begins, text in self._pending[lane]:
                    self._trie.count(lane, begins, text)
                self._pending[lane] = []

    def _tail_after(self, lane: int, starts: bool, tokens: Int64) -> Int64:
        return self._trie.tail_after(self._trie.fresh().tail if starts else self._tails[lane], tokens)

    def _blocks(self, lane: int, tokens: Int64) -> list[Int64]:
        """A lane's next tokens, cut where blocks are over; at least one piece."""
        first_end = self.lag - self._observed[lane] % self.lag
        cuts = range(first_end, max(len(tokens), 1), self.lag)
        return np.split(tokens, list(cuts))

    @contextmanager
    def _ahead(self, chunk: Chunk, lane: int, length: int, evidence: Evidence) -> Iterator[Standing]:
        """Walk the first `length` tokens of a lane on trial, to the contexts that stand there."""
        starts, tokens = bool(chunk.starts[lane]), _tokens(chunk, lane, length)
        if self.lag:
            with self._trie.trial(lane, starts=False) as trial:
                yield self._ahead_lagging(trial, lane, starts, tokens, evidence)
            return
        with look_ahead(self._trie, lane, starts, tokens, evidence) as standing:
            yield standing

    def _ahead_lagging(self, trial: Trial, lane: int, starts: bool, tokens: Int64, evidence: Evidence) -> Standing:
        waiting, at, tail = list(self._pending[lane]), 0, self._tail_after(lane, starts, tokens[:0])
        standing = Standing.after_text(self._trie.trie, tail, self.order + 1)
        for piece in self._blocks(lane, tokens):
            standing.walk(piece, part_of(evidence, at, at + len(piece)))
            tail, at = self._trie.tail_after(tail, piece), at + len(piece)
            waiting.append((starts, piece))
            starts = False
            if len(piece) and (self._observed[lane] + at) % self.lag == 0:
                for begins, text in waiting:
                    if begins:
                        trial.begin()
                    trial.count(text)
                waiting = []
                standing = Standing.after_text(self._trie.trie, tail, self.order + 1)
        return standing


def _tokens(chunk: Chunk, lane: int, length: int) -> Int64:
    return np.ascontiguousarray(chunk.tokens[lane, :length], dtype=np.int64)
