"""A lane's text that goes on for a while: counted so that it can be taken back to the last byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgolf.predict.evidence import Evidence
from paramgolf.predict.ngram_table import Int32, Int64
from paramgolf.predict.ngram_walk import PLACE, has_room, take_back, trial_walk

if TYPE_CHECKING:
    from paramgolf.predict.ngram_trie import NgramTrie


@dataclass
class Lane:
    """Where a lane's text stands: `rows_K` its contexts, `state` what `ngram_walk` calls `lane`, `tail` its tokens."""

    rows_K: Int64
    state: Int64
    tail: Int64

    def copy(self) -> Lane:
        return Lane(self.rows_K.copy(), self.state.copy(), self.tail)


class Trial:
    """A lane's text that goes on for a while; made by `NgramTrie.trial`."""

    def __init__(self, owner: NgramTrie, lane: Lane) -> None:
        self._owner = owner
        self.lane = lane
        self._before = owner.trie.scalars.copy()
        self._place = int(lane.state[PLACE])
        self._journal: Int32 = np.empty((1 << 8, 8), dtype=np.int32)
        self._written_1 = np.zeros(1, dtype=np.int64)

    def count(self, tokens: Int64, evidence: Evidence | None = None) -> int:
        """As `NgramTrie.count`, but bounded memory is never exceeded: returns how many tokens were counted."""
        asked, done = evidence or self._owner.no_evidence(), 0
        while True:
            trie, lane = self._owner.trie, self.lane
            done += trial_walk(
                *trie, lane.rows_K, lane.state, tokens[done:], self._journal, self._written_1,
                *(part[done:] for part in asked),
            )  # fmt: skip
            if done == len(tokens) or not self.make_room():
                break
        lane.tail = self._owner.tail_after(lane.tail, tokens[:done])
        return done

    def begin(self) -> None:
        """Begin a new text."""
        self.lane = self._owner.fresh()

    def make_room(self) -> bool:
        """Room for one more token, if there may be any."""
        trie = self._owner.trie
        if self._written_1[0] + 2 * len(self.lane.rows_K) > len(self._journal):
            self._journal = enlarged(self._journal)
        if not has_room(trie.nodes, trie.history, trie.scalars, len(self.lane.rows_K)):
            if self._owner.bounded:
                return False
            self._owner.grow()
        return True

    def take_back(self) -> None:
        """Undo everything."""
        take_back(*self._owner.trie, self._before, self._place, self._journal, int(self._written_1[0]))


def new_evidence(length: int, orders: int) -> Evidence:
    """Evidence of nothing, int32 [length, orders] each."""
    total_TK, count_TK, distinct_TK = (np.zeros((length, orders), dtype=np.int32) for _ in range(3))
    return Evidence(total_TK, count_TK, distinct_TK)


def enlarged(array: Int32) -> Int32:
    """The same rows, followed by as many zeros."""
    larger = np.zeros((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
