"""Reading counts that stand still: evidence along a text, and the followers of its contexts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
from numba import njit

from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.ngram_table import (
    COUNT,
    DISTINCT,
    FOLLOW,
    ROOT,
    SIBLING,
    TOKEN,
    TOTAL,
    Int32,
    Int64,
    Trie,
)
from paramgolf.predict.ngram_trie import NgramTrie
from paramgolf.predict.ngram_walk import KNOWN, standing_contexts, standing_walk


class Standing:
    """Cursors (`ngram_walk`) of the known contexts at one place of a text; void once the counts change."""

    def __init__(self, trie: Trie, cursors_K: Int64, known: int) -> None:
        self.trie = trie
        self.cursors_K = cursors_K
        self.known = known

    @classmethod
    def after_rows(cls, trie: Trie, rows_K: Int64, nodes_known: int) -> Self:
        """At the end of a walk that counted: those of its contexts that anything has followed."""
        return cls(trie, rows_K.copy(), first_rows(trie.nodes, rows_K, nodes_known))

    @classmethod
    def after_text(cls, trie: Trie, tail: Int64, orders: int) -> Self:
        """At the end of a text whose last tokens are `tail`."""
        cursors_K = np.zeros(orders, dtype=np.int64)
        return cls(trie, cursors_K, standing_contexts(trie.nodes, trie.slots, trie.history, tail, cursors_K))

    def walk(self, tokens: Int64, evidence: Evidence) -> None:
        """Go on over `tokens`; the evidence before each is written into arrays of zeros, unless they are empty."""
        trie = self.trie
        self.known = standing_walk(trie.nodes, trie.slots, trie.history, self.cursors_K, self.known, tokens, *evidence)

    def followers(self) -> list[Followers]:
        """What followed each known context, the empty one first."""
        return [self._of(int(cursor)) for cursor in self.cursors_K[: self.known]]

    def _of(self, cursor: int) -> Followers:
        nodes, history = self.trie.nodes, self.trie.history
        follow = cursor if cursor < 0 else int(nodes[cursor, FOLLOW])
        if cursor != ROOT and follow < 0:
            return Followers(np.array([history[~follow]], dtype=np.int64), np.ones(1, dtype=np.int64))
        rows = np.empty(nodes[cursor, DISTINCT], dtype=np.int64)
        list_followers(nodes, cursor, rows)
        return Followers(nodes[rows, TOKEN].astype(np.int64), nodes[rows, COUNT].astype(np.int64))


@contextmanager
def look_ahead(owner: NgramTrie, lane: int, starts: bool, tokens: Int64, evidence: Evidence) -> Iterator[Standing]:
    """Count a lane's next tokens on trial; gives the contexts after them, while the trial lasts.

    The evidence before each token is written into arrays of zeros, unless they are empty.
    """
    if len(tokens) == 0:
        at = owner.lane(lane, starts)
        yield Standing.after_rows(owner.trie, at.rows_K, int(at.state[KNOWN]))
        return
    with owner.trial(lane, starts) as trial:
        done = trial.count(tokens, evidence)
        standing = Standing.after_rows(owner.trie, trial.lane.rows_K, int(trial.lane.state[KNOWN]))
        if done < len(tokens):  # memory is bounded, and full
            standing.walk(tokens[done:], part_of(evidence, done, len(tokens)))
        yield standing


def part_of(evidence: Evidence, first: int, end: int) -> Evidence:
    """Evidence of some positions, of the same memory."""
    return Evidence(*(part[first:end] for part in evidence))


@njit(cache=True)
def first_rows(nodes: Int32, rows_K: Int64, known: int) -> int:
    """How many contexts, from the shortest on, have been followed by a token."""
    followed = 0
    while followed < known and nodes[rows_K[followed], TOTAL] > 0:
        followed += 1
    return followed


@njit(cache=True)
def list_followers(nodes: Int32, parent: int, rows: Int64) -> None:
    """Rows of the tokens that followed a context, as many as it has distinct ones; not for one that has no nodes."""
    found = 0
    if parent == ROOT:
        row = 1
        while found < len(rows):
            if nodes[row, COUNT] > 0:
                rows[found] = row
                found += 1
            row += 1
        return
    row = nodes[parent, FOLLOW]
    while row > 0:
        rows[found] = row
        found += 1
        row = nodes[row, SIBLING]
