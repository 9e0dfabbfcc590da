"""Walks over a lane's next tokens, as numba kernels: with counting, on trial, or in counts that stand still.

Legend: T tokens, K contexts (of 0, 1, ... K - 1 tokens). A walk that counts holds its contexts as rows of the trie: one
that is no node was never seen. A walk in standing counts may follow a context that was seen once: its cursor is the
complement of the place in the history where the one follower stands.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.ngram_table import (
    ABSENT,
    COLUMNS,
    COUNT,
    DISTINCT,
    END,
    FOLLOW,
    PLACES,
    ROOT,
    TOTAL,
    USED,
    Int32,
    Int64,
    UInt64,
    append_token,
    count_token,
    find,
    remove_newest,
    signed,
    token_place,
)

# What `lane` holds: how many of its contexts are nodes, the place in the history after its latest token, `ABSENT`
# before the first.
KNOWN, PLACE, LANE = 0, 1, 2


@njit(cache=True, inline="always")
def find_children(nodes: Int32, slots: UInt64, rows_K: Int64, known: int, token: int, children_K: Int64) -> None:
    """`children_K[k]` = the node of `token` after the context of k tokens, `ABSENT` if it is none."""
    children_K[0] = 1 + token
    for k in range(1, known):
        children_K[k] = find(nodes, slots, rows_K[k], token) if nodes[rows_K[k], FOLLOW] > 0 else ABSENT


@njit(cache=True, inline="always")
def record(
    nodes: Int32,
    history: Int32,
    rows_K: Int64,
    known: int,
    children_K: Int64,
    token: int,
    total_K: Int32,
    count_K: Int32,
    distinct_K: Int32,
) -> None:
    """Write down what the counts know before `token`, in arrays of zeros."""
    for k in range(known):
        row, child = rows_K[k], children_K[k]
        total = nodes[row, TOTAL]
        if total == 0:
            break
        total_K[k] = total
        distinct_K[k] = nodes[row, DISTINCT]
        if child >= 0:
            count_K[k] = nodes[child, COUNT]
        elif nodes[row, FOLLOW] < 0 and history[~signed(nodes[row, FOLLOW])] == token:
            count_K[k] = 1


@njit(cache=True, inline="always")
def has_room(nodes: Int32, history: Int32, scalars: Int64, orders: int) -> bool:
    """Whether one more token can be counted, whatever it is."""
    return bool(scalars[USED] + 2 * orders <= len(nodes) and scalars[PLACES] + 3 <= len(history))


@njit(cache=True)
def try_token(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    scalars: Int64,
    rows_K: Int64,
    lane: Int64,
    children_K: Int64,
    token: int,
    journal: Int32,
    written: int,
) -> int:
    """Count a token so that `take_back` can undo it; returns how much of `journal` is written afterwards.

    A row of `journal` is a row of the trie as it was, with its number in the last column, which the trie does not use.
    """
    for k in range(lane[KNOWN]):
        for row in (rows_K[k], children_K[k]):
            if row >= 0:
                for column in range(COLUMNS - 1):
                    journal[written, column] = nodes[row, column]
                journal[written, COLUMNS - 1] = row
                written += 1
    here = append_token(history, scalars, lane[PLACE], token)
    lane[KNOWN] = count_token(nodes, slots, history, scalars, rows_K, lane[KNOWN], children_K, here)
    lane[PLACE] = here + 1
    return written


@njit(cache=True)
def take_back(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    scalars: Int64,
    before: Int64,
    place: int,
    journal: Int32,
    written: int,
) -> None:
    """Undo all `try_token` since the scalars were `before` and the lane's text ended at `place`, to the last byte."""
    for i in range(written - 1, -1, -1):
        row = journal[i, COLUMNS - 1]
        for column in range(COLUMNS - 1):
            nodes[row, column] = journal[i, column]
    while scalars[USED] > before[USED]:
        remove_newest(nodes, slots, scalars)
    history[before[PLACES] : scalars[PLACES] + 1] = 0
    if place >= 0:
        history[place] = END
    history[before[PLACES]] = END
    scalars[:] = before


@njit(cache=True)
def trial_walk(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    scalars: Int64,
    rows_K: Int64,
    lane: Int64,
    tokens: Int64,
    journal: Int32,
    written_1: Int64,
    total_TK: Int32,
    count_TK: Int32,
    distinct_TK: Int32,
) -> int:
    """What `ngram_count.count_walk` does, to be undone by `take_back`; stops as well when `journal` is full."""
    orders = len(rows_K)
    children_K = np.empty(orders, np.int64)
    for t in range(len(tokens)):
        known = lane[KNOWN]
        if not has_room(nodes, history, scalars, orders) or written_1[0] + 2 * known > len(journal):
            return t
        find_children(nodes, slots, rows_K, known, tokens[t], children_K)
        if len(total_TK) > 0:
            record(nodes, history, rows_K, known, children_K, tokens[t], total_TK[t], count_TK[t], distinct_TK[t])
        written_1[0] = try_token(
            nodes, slots, history, scalars, rows_K, lane, children_K, tokens[t], journal, written_1[0]
        )
    return len(tokens)


@njit(cache=True)
def standing_child(nodes: Int32, slots: UInt64, history: Int32, cursor: int, token: int) -> tuple[int, int]:
    """How often `token` followed a context, and the cursor of the context that it makes, `ABSENT_CURSOR` if unknown."""
    if cursor == ROOT:
        row = 1 + token
        return nodes[row, COUNT], known_cursor(nodes, row)
    follow = signed(nodes[cursor, FOLLOW]) if cursor > 0 else cursor
    if follow < 0:
        place = ~follow
        if history[place] != token:
            return 0, ABSENT_CURSOR
        after = token_place(history, place + 1)
        return 1, ~after if after >= 0 else ABSENT_CURSOR
    if follow == 0:
        return 0, ABSENT_CURSOR
    row = find(nodes, slots, cursor, token)
    if row < 0:
        return 0, ABSENT_CURSOR
    return nodes[row, COUNT], known_cursor(nodes, row)


ABSENT_CURSOR = END


@njit(cache=True, inline="always")
def known_cursor(nodes: Int32, row: int) -> int:
    """The row, if anything has followed it."""
    return row if nodes[row, TOTAL] > 0 else ABSENT_CURSOR


@njit(cache=True)
def standing_walk(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    cursors_K: Int64,
    known: int,
    tokens: Int64,
    total_TK: Int32,
    count_TK: Int32,
    distinct_TK: Int32,
) -> int:
    """Evidence before each of `tokens` in counts that stand still; moves the cursors, returns how many are known."""
    orders = len(cursors_K)
    for t in range(len(tokens)):
        moved = 0
        after = cursors_K[0]
        for k in range(known):
            cursor = cursors_K[k]
            cursors_K[k] = after
            moved += after != ABSENT_CURSOR and moved == k
            count, after = standing_child(nodes, slots, history, cursor, tokens[t])
            if len(total_TK):
                total_TK[t, k] = nodes[cursor, TOTAL] if cursor >= 0 else 1
                distinct_TK[t, k] = nodes[cursor, DISTINCT] if cursor >= 0 else 1
                count_TK[t, k] = count
        if known < orders and moved == known and known > 0 and after != ABSENT_CURSOR:
            cursors_K[known] = after
            moved += 1
        known = moved
    return known


@njit(cache=True)
def standing_contexts(nodes: Int32, slots: UInt64, history: Int32, tail: Int64, cursors_K: Int64) -> int:
    """Cursors of the contexts that end the text `tail`, in counts that stand still; returns how many are known."""
    if nodes[ROOT, TOTAL] == 0:
        return 0
    cursors_K[0] = ROOT
    for k in range(1, min(len(cursors_K) - 1, len(tail)) + 1):
        cursor = signed(ROOT)
        for token in tail[len(tail) - k :]:
            _, cursor = standing_child(nodes, slots, history, cursor, token)
            if cursor == ABSENT_CURSOR:
                return k
        cursors_K[k] = cursor
    return min(len(cursors_K) - 1, len(tail)) + 1


@njit(cache=True)
def more_contexts(nodes: Int32, slots: UInt64, tail: Int64, rows_K: Int64, known: int) -> int:
    """Contexts of a lane that have become nodes since it stopped at the end of `tail`; returns how many are nodes."""
    for k in range(known, min(len(rows_K) - 1, len(tail)) + 1):
        row = signed(ROOT)
        for token in tail[len(tail) - k :]:
            row = 1 + token if row == ROOT else find(nodes, slots, row, token)
            if row < 0:
                return k
        rows_K[k] = row
    return max(known, min(len(rows_K) - 1, len(tail)) + 1)
