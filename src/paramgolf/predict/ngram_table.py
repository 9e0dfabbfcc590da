"""A trie of exact token n-gram counts in one hash table, as numba kernels.

A node is one row of 32 bytes, found by (parent's row, token): the node of a context of k tokens and a next token is at
the same time the context of k + 1 tokens that follows, so one look-up an order is all a token costs. Everything is
whole numbers; a context's total is the sum of its children's counts by construction, so no hash collision, however
unlucky, can make a distribution sum to anything but one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# Columns of a node. PARENT holds the parent's row plus one: 0 marks an empty row.
PARENT, TOKEN, COUNT, TOTAL, DISTINCT, CHILD, SIBLING, COLUMNS = 0, 1, 2, 3, 4, 5, 6, 8
ROOT = 0  # its PARENT is -1: occupied, and nobody's child
ABSENT = -1
LARGEST_TABLE = 1 << 30


def new_table(rows: int) -> Int32:
    """An empty trie with room for `rows` rows, a power of two; `MemoryError` beyond what a row's 32 bits can name."""
    if rows > LARGEST_TABLE:
        raise MemoryError(
            f"n-gram counts of this text need {rows:,} rows of 32 bytes; choose a smaller score.ngram_order"
        )
    table = np.zeros((rows, COLUMNS), dtype=np.int32)
    table[ROOT, PARENT] = -1
    return table


@njit(cache=True, inline="always")
def home_row(parent: int, token: int, mask: int) -> int:
    """Where the node of (parent, token) is looked for first."""
    mixed = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    row: int = np.int64((mixed >> np.uint64(30)) & np.uint64(mask))  # type: ignore[assignment]  # numba has no int()
    return row


@njit(cache=True)
def find_row(table: Int32, parent: int, token: int) -> int:
    """The row of (parent, token), or the empty row where it would go."""
    mask = len(table) - 1
    row = home_row(parent, token, mask)
    while table[row, PARENT] != 0 and (table[row, PARENT] != parent + 1 or table[row, TOKEN] != token):
        row = (row + 1) & mask
    return row


@njit(cache=True)
def find_children(table: Int32, contexts_K: Int64, token: int, children_K: Int64) -> None:
    """`children_K[k]` = the node of `token` after the context of k tokens, `ABSENT` if never seen there."""
    mask = len(table) - 1
    warm = 0
    for k in range(len(contexts_K)):  # independent reads: the memory answers all orders at once
        if contexts_K[k] >= 0:
            warm += table[home_row(contexts_K[k], token, mask), PARENT]
    for k in range(len(contexts_K)):
        children_K[k] = ABSENT
        if contexts_K[k] >= 0:
            row = find_row(table, contexts_K[k], token)
            if table[row, PARENT] != 0:
                children_K[k] = row
    children_K[0] += 0 * warm  # keeps the first loop alive


@njit(cache=True)
def count_token(table: Int32, used_1: Int64, contexts_K: Int64, token: int, children_K: Int64) -> None:
    """Count `token` after every context and move the contexts on; `children_K` comes from `find_children`."""
    for k in range(len(contexts_K) - 1, -1, -1):
        parent, row = contexts_K[k], children_K[k]
        if parent >= 0:
            if row < 0:
                row = find_row(table, parent, token)
                table[row, PARENT], table[row, TOKEN] = parent + 1, token
                table[row, SIBLING], table[parent, CHILD] = table[parent, CHILD], row
                table[parent, DISTINCT] += 1
                used_1[0] += 1
                children_K[k] = row
            table[row, COUNT] += 1
            table[parent, TOTAL] += 1
        if k + 1 < len(contexts_K):
            contexts_K[k + 1] = row if parent >= 0 else ABSENT


@njit(cache=True)
def uncount_token(table: Int32, used_1: Int64, contexts_K: Int64, children_K: Int64) -> None:
    """Take back the latest `count_token`, given the contexts before it and the children it counted."""
    for k in range(len(contexts_K)):
        parent, row = contexts_K[k], children_K[k]
        if parent >= 0:
            table[parent, TOTAL] -= 1
            table[row, COUNT] -= 1
            if table[row, COUNT] == 0:  # it was new, hence the head of its parent's list
                table[parent, CHILD] = table[row, SIBLING]
                table[parent, DISTINCT] -= 1
                table[row, :] = 0
                used_1[0] -= 1


@njit(cache=True)
def count_tokens(table: Int32, used_1: Int64, contexts_K: Int64, tokens: Int64) -> None:
    """`count_token` for each of `tokens`."""
    children_K = np.empty_like(contexts_K)
    for token in tokens:
        find_children(table, contexts_K, token, children_K)
        count_token(table, used_1, contexts_K, token, children_K)


@njit(cache=True)
def copy_trie(old: Int32, new: Int32, moved: Int32) -> None:
    """Copy every node of `old` into the larger, empty `new`; `moved[row]` says where each went."""
    waiting = np.empty(len(old), dtype=np.int32)
    waiting[0], moved[ROOT], first, last = ROOT, ROOT, 0, 1
    new[ROOT, TOTAL], new[ROOT, DISTINCT] = old[ROOT, TOTAL], old[ROOT, DISTINCT]
    while first < last:
        parent = waiting[first]
        first += 1
        child = old[parent, CHILD]
        while child != 0:
            to = moved[parent]
            row = find_row(new, to, old[child, TOKEN])
            new[row, PARENT], new[row, TOKEN], new[row, COUNT] = to + 1, old[child, TOKEN], old[child, COUNT]
            new[row, TOTAL], new[row, DISTINCT] = old[child, TOTAL], old[child, DISTINCT]
            new[row, SIBLING], new[to, CHILD] = new[to, CHILD], row
            moved[child] = row
            waiting[last] = child
            last += 1
            child = old[child, SIBLING]
