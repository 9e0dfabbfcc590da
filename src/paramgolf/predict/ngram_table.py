"""Exact token n-gram counts in a lazy trie, as numba kernels: what is stored, and how one token is counted.

A node is a row of 32 bytes. The node of a context of k tokens and a next token is at the same time the context of
k + 1 tokens that follows. Most contexts of real text occur once, and a context that occurred once needs no children:
the text itself says what followed. So a node keeps, after its first follower, only that follower's place in the
history; when it is followed a second time, the first follower becomes a node as well (and inherits the place after
it). Hence a context that is no node has never been followed before its prefix's second visit: it has never been seen
as a context. A token costs about two new nodes, whatever the order.

Nodes are found by (parent, token) through a table of slots that hold a node's number and 32 bits of its hash; the row
itself holds parent and token, which are compared. A context's total is the sum of its followers' counts by
construction. So no collision, however unlucky, can mix two contexts up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

# Columns of a node. FOLLOW: 0 nothing followed, above 0 the newest child's row, below 0 the complement of the place
# of the one follower. PARENT is -1 for the root and 0 for its children, which have fixed rows: 1 + token.
PARENT, TOKEN, COUNT, TOTAL, DISTINCT, FOLLOW, SIBLING, COLUMNS = 0, 1, 2, 3, 4, 5, 6, 8
ROOT = 0
ABSENT = -1
# What `scalars` holds: rows in use, places of the history in use.
USED, PLACES, SCALARS = 0, 1, 2
END = -(1 << 31)  # in the history: the text stops here; another negative value is the complement of where it goes on


class Trie(NamedTuple):
    """Arrays that hold all counts. `slots` uint64: 0 empty, else 32 bits of the hash and the row; `history` int32."""

    nodes: Int32
    slots: UInt64
    history: Int32
    scalars: Int64


def new_trie(vocab_size: int, rows: int, slots: int, places: int) -> Trie:
    """An empty trie with room for so many nodes, slots and tokens of history."""
    nodes = np.zeros((rows, COLUMNS), dtype=np.int32)
    nodes[ROOT, PARENT] = -1
    nodes[1 : vocab_size + 1, TOKEN] = np.arange(vocab_size)
    history = np.zeros(places, dtype=np.int32)
    history[0] = END
    scalars = np.zeros(SCALARS, dtype=np.int64)
    scalars[USED] = vocab_size + 1
    return Trie(nodes, np.zeros(slots, dtype=np.uint64), history, scalars)


@njit(cache=True, inline="always")
def signed(value: Any) -> int:
    """An element of an array as a whole number of 64 bits."""
    return np.int64(value)  # type: ignore[return-value]  # what Python's int is, once compiled


@njit(cache=True, inline="always")
def hash_of(parent: int, token: int) -> np.uint64:
    """64 mixed bits of (parent, token): the upper half picks the slot, the lower half is kept in it."""
    mixed = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xD6E8FEB86659FD93)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)


@njit(cache=True, inline="always")
def home_slot(mixed: np.uint64, slots: UInt64) -> np.uint64:
    """Where a node is looked for first."""
    return ((mixed >> np.uint64(32)) * np.uint64(len(slots))) >> np.uint64(32)


@njit(cache=True, inline="always")
def find(nodes: Int32, slots: UInt64, parent: int, token: int) -> int:
    """The row of (parent, token), `ABSENT` if there is none; the root's children are not found this way."""
    mixed = hash_of(parent, token)
    size, low = np.uint64(len(slots)), np.uint64(0xFFFFFFFF)
    slot = ((mixed >> np.uint64(32)) * size) >> np.uint64(32)
    tag = mixed << np.uint64(32)
    entry = slots[slot]
    while entry != np.uint64(0):
        if (entry ^ tag) <= low:
            row = entry & low
            if nodes[row, PARENT] == parent and nodes[row, TOKEN] == token:
                return signed(row)
        slot += np.uint64(1)
        if slot == size:
            slot = np.uint64(0)
        entry = slots[slot]
    return ABSENT


@njit(cache=True)
def take_slot(slots: UInt64, parent: int, token: int, row: int) -> None:
    """Enter a node that is not there yet."""
    mixed = hash_of(parent, token)
    size = np.uint64(len(slots))
    slot = home_slot(mixed, slots)
    while slots[slot] != np.uint64(0):
        slot += np.uint64(1)
        if slot == size:
            slot = np.uint64(0)
    slots[slot] = (mixed << np.uint64(32)) | np.uint64(row)


@njit(cache=True)
def insert(nodes: Int32, slots: UInt64, scalars: Int64, parent: int, token: int, count: int) -> int:
    """Make the node of (parent, token), which is not there yet, the newest child of its parent; returns its row."""
    row = signed(scalars[USED])
    scalars[USED] += 1
    take_slot(slots, parent, token, row)
    nodes[row, PARENT] = parent
    nodes[row, TOKEN] = token
    nodes[row, COUNT] = count
    nodes[row, SIBLING] = max(nodes[parent, FOLLOW], 0)
    nodes[parent, FOLLOW] = row
    return row


@njit(cache=True)
def remove_newest(nodes: Int32, slots: UInt64, scalars: Int64) -> None:
    """Take back the latest `insert`, its parent's row excepted."""
    row = scalars[USED] - 1
    size = np.uint64(len(slots))
    slot = home_slot(hash_of(nodes[row, PARENT], nodes[row, TOKEN]), slots)
    while slots[slot] & np.uint64(0xFFFFFFFF) != np.uint64(row):
        slot += np.uint64(1)
        if slot == size:
            slot = np.uint64(0)
    slots[slot] = np.uint64(0)  # nothing was entered after it, so no other node's search runs across this slot
    for column in range(COLUMNS):
        nodes[row, column] = 0
    scalars[USED] -= 1


@njit(cache=True)
def enter_all(nodes: Int32, slots: UInt64, first: int, used: int) -> None:
    """Enter the nodes in rows `first` to `used` into empty slots."""
    for row in range(first, used):
        take_slot(slots, nodes[row, PARENT], nodes[row, TOKEN], row)


@njit(cache=True, inline="always")
def token_place(history: Int32, place: int) -> int:
    """Where the token stands that follows the text up to `place`; `ABSENT` if the text stops."""
    value = history[place]
    if value >= 0:
        return place
    return ABSENT if value == END else ~signed(value)


@njit(cache=True)
def open_text(history: Int32, scalars: Int64, lane_place: int) -> int:
    """Where the next token of the text goes that ends before `lane_place` (`ABSENT`: a new text); links it there."""
    place = signed(scalars[PLACES])
    if lane_place != place:
        place += 1 if place > 0 else 0  # what ended there keeps its END, until it goes on
        if lane_place >= 0:
            history[lane_place] = ~place
    return place


@njit(cache=True)
def append_token(history: Int32, scalars: Int64, lane_place: int, token: int) -> int:
    """Write `token` after the text that ends before `lane_place`; returns where it stands."""
    place = open_text(history, scalars, lane_place)
    history[place] = token
    history[place + 1] = END
    scalars[PLACES] = place + 1
    return place


@njit(cache=True)
def count_token(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    scalars: Int64,
    rows_K: Int64,
    known: int,
    children_K: Int64,
    place: int,
) -> int:
    """Count the token at `place`, which is in the history already, after the contexts `rows_K[:known]`; move them on.

    `children_K[k]` is the token's row after the context of k tokens or `ABSENT`. Returns how many contexts are nodes
    afterwards. Makes at most two nodes a context.
    """
    token = history[place]
    orders = len(rows_K)
    follows = 1  # contexts after this token: those whose node is there, the empty one included
    parent = rows_K[0]
    row = 1 + token
    nodes[parent, TOTAL] += 1
    nodes[parent, DISTINCT] += nodes[row, COUNT] == 0
    nodes[row, COUNT] += 1
    for k in range(1, known):
        parent = rows_K[k]
        rows_K[k] = row  # the context of k tokens after this token
        follow = nodes[parent, FOLLOW]
        nodes[parent, TOTAL] += 1
        if follow == 0:
            nodes[parent, FOLLOW] = ~place
            nodes[parent, DISTINCT] = 1
            row = ABSENT
        else:
            if follow < 0:
                row = _first_follower(nodes, slots, history, scalars, parent)
                if nodes[row, TOKEN] != token:
                    row = ABSENT
            else:
                row = children_K[k]
            if row < 0:
                row = insert(nodes, slots, scalars, parent, token, 1)
                nodes[parent, DISTINCT] += 1
            else:
                nodes[row, COUNT] += 1
        if rows_K[k] >= 0 and follows == k:
            follows = k + 1
    if row >= 0 and follows == known and known < orders:
        rows_K[known] = row
        follows = known + 1
    return follows


@njit(cache=True)
def _first_follower(nodes: Int32, slots: UInt64, history: Int32, scalars: Int64, parent: int) -> int:
    """Turn the one follower that `parent` had into a node."""
    place = ~signed(nodes[parent, FOLLOW])
    row = insert(nodes, slots, scalars, parent, history[place], 1)
    after = token_place(history, place + 1)
    if after >= 0:
        nodes[row, TOTAL], nodes[row, DISTINCT], nodes[row, FOLLOW] = 1, 1, ~after
    return row
