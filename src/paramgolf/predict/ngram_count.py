"""Counting a long text, the fast way: what `ngram_table.count_token` does, token after token, in one loop.

What costs time is waiting for memory. While one token is counted, the slots where the next token will be looked for are
already asked for: the contexts it will have are the nodes that were just found.

Legend: T tokens, K contexts (of 0, 1, ... K - 1 tokens).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.ngram_prefetch import prefetch
from paramgolf.predict.ngram_table import (
    ABSENT,
    COUNT,
    DISTINCT,
    END,
    FOLLOW,
    PARENT,
    PLACES,
    ROOT,
    SIBLING,
    TOKEN,
    TOTAL,
    USED,
    Int32,
    Int64,
    UInt64,
    hash_of,
    home_slot,
    open_text,
    signed,
    token_place,
)
from paramgolf.predict.ngram_walk import KNOWN, PLACE, has_room

LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, inline="always")
def _free_slot(slots: UInt64, slot: np.uint64) -> np.uint64:
    """The first empty slot from `slot` on."""
    while slots[slot] != np.uint64(0):
        slot += np.uint64(1)
        if slot == np.uint64(len(slots)):
            slot = np.uint64(0)
    return slot


@njit(cache=True, inline="always")
def _add_child(
    nodes: Int32, slots: UInt64, row: int, parent: int, token: int, sibling: int, mixed: np.uint64, slot: np.uint64
) -> None:
    """Make the node of (parent, token), seen once, in the new `row`; its slot is looked for from `slot` on."""
    slots[_free_slot(slots, slot)] = (mixed << np.uint64(32)) | np.uint64(row)
    nodes[row, PARENT] = parent
    nodes[row, TOKEN] = token
    nodes[row, COUNT] = 1
    nodes[row, SIBLING] = sibling
    nodes[parent, FOLLOW] = row


@njit(cache=True)
def count_walk(
    nodes: Int32,
    slots: UInt64,
    history: Int32,
    scalars: Int64,
    rows_K: Int64,
    lane: Int64,
    tokens: Int64,
    total_TK: Int32,
    count_TK: Int32,
    distinct_TK: Int32,
) -> int:
    """Count `tokens` one by one, as long as there is room; returns how many.

    `rows_K` and `lane` are the lane's contexts and state (`ngram_walk`). The evidence before each token is written to
    the last three, arrays of zeros, unless they are empty.
    """
    orders, known, asked, size = len(rows_K), lane[KNOWN], len(total_TK) > 0, np.uint64(len(slots))
    if len(tokens) == 0 or not has_room(nodes, history, scalars, orders):
        return 0
    used, place = scalars[USED], open_text(history, scalars, lane[PLACE])
    children_K = np.empty(orders, np.int64)
    mixed_K, slots_K = np.empty(orders + 1, np.uint64), np.empty(orders + 1, np.uint64)
    next_mixed_K, next_slots_K = np.empty(orders + 1, np.uint64), np.empty(orders + 1, np.uint64)
    for k in range(1, known):
        mixed_K[k] = hash_of(rows_K[k], tokens[0])
        slots_K[k] = home_slot(mixed_K[k], slots)
    done = 0
    while done < len(tokens) and used + 2 * orders <= len(nodes) and place + 3 <= len(history):
        token = tokens[done]
        # 1. Find the token after every context that has nodes below it. `slots_K` ends where the search ended.
        next_token = tokens[done + 1] if done + 1 < len(tokens) else signed(0)
        children_K[0] = 1 + token
        next_mixed_K[1] = hash_of(1 + token, next_token)
        next_slots_K[1] = home_slot(next_mixed_K[1], slots)
        prefetch(slots, next_slots_K[1])  # type: ignore[call-arg]  # numba gives the first one itself
        for k in range(1, known):
            parent, row = rows_K[k], signed(ABSENT)
            if nodes[parent, FOLLOW] > 0:
                slot, tag = slots_K[k], mixed_K[k] << np.uint64(32)
                entry = slots[slot]
                while entry != np.uint64(0):
                    if (entry ^ tag) <= LOW:
                        found = signed(entry & LOW)
                        if nodes[found, PARENT] == parent and nodes[found, TOKEN] == token:
                            row = found
                            break
                    slot += np.uint64(1)
                    if slot == size:
                        slot = np.uint64(0)
                    entry = slots[slot]
                slots_K[k] = slot
                if row >= 0:
                    next_mixed_K[k + 1] = hash_of(row, next_token)
                    next_slots_K[k + 1] = home_slot(next_mixed_K[k + 1], slots)
                    prefetch(slots, next_slots_K[k + 1])
            children_K[k] = row
        # 2. Write the evidence down and count. `rows_K[k]` becomes the context of k tokens after this token.
        history[place] = token
        history[place + 1] = END
        row = children_K[0]
        total, count = nodes[ROOT, TOTAL], nodes[row, COUNT]
        seen = asked and total > 0
        if seen:
            total_TK[done, 0], count_TK[done, 0], distinct_TK[done, 0] = total, count, nodes[ROOT, DISTINCT]
        nodes[ROOT, TOTAL] = total + 1
        nodes[ROOT, DISTINCT] += count == 0
        nodes[row, COUNT] = count + 1
        after = 1
        for k in range(1, known):
            parent = rows_K[k]
            rows_K[k] = row
            after += row >= 0 and after == k
            follow, total = signed(nodes[parent, FOLLOW]), nodes[parent, TOTAL]
            nodes[parent, TOTAL] = total + 1
            if follow > 0:
                row = children_K[k]
                if seen:
                    total_TK[done, k], distinct_TK[done, k] = total, nodes[parent, DISTINCT]
                if row >= 0:
                    count = nodes[row, COUNT]
                    nodes[row, COUNT] = count + 1
                    if seen:
                        count_TK[done, k] = count
                else:
                    row = used
                    _add_child(nodes, slots, row, parent, token, follow, mixed_K[k], slots_K[k])
                    nodes[parent, DISTINCT] += 1
                    used += 1
            elif follow == 0:
                seen = False
                nodes[parent, FOLLOW], nodes[parent, DISTINCT] = ~place, 1
                row = signed(ABSENT)
            else:  # followed once so far: the first follower becomes a node
                first_place = ~follow
                first = signed(history[first_place])
                row = used
                mixed = hash_of(parent, first)
                _add_child(nodes, slots, row, parent, first, 0, mixed, home_slot(mixed, slots))
                used += 1
                onward = token_place(history, first_place + 1)
                if onward >= 0:
                    nodes[row, TOTAL], nodes[row, DISTINCT], nodes[row, FOLLOW] = 1, 1, ~onward
                if seen:
                    total_TK[done, k], distinct_TK[done, k], count_TK[done, k] = 1, 1, first == token
                if first == token:
                    nodes[row, COUNT] = 2
                else:
                    mixed = hash_of(parent, token)
                    _add_child(nodes, slots, used, parent, token, row, mixed, home_slot(mixed, slots))
                    nodes[parent, DISTINCT] = 2
                    row = used
                    used += 1
        if row >= 0 and after == known and known < orders:
            rows_K[known] = row
            after += 1
        known = after
        place += 1
        done += 1
        mixed_K, next_mixed_K = next_mixed_K, mixed_K
        slots_K, next_slots_K = next_slots_K, slots_K
    lane[KNOWN], lane[PLACE] = known, place
    scalars[USED], scalars[PLACES] = used, place
    return done
