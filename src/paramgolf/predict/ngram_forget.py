"""Forgetting in a full trie, as numba kernels: the rarest n-grams first, among equals the oldest; always the same ones.

What is left stays consistent: a context's total is the sum of its followers' counts, its variety their number.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.ngram_table import (
    ABSENT,
    COUNT,
    DISTINCT,
    END,
    FOLLOW,
    PARENT,
    PLACES,
    SIBLING,
    TOTAL,
    USED,
    Int32,
    Int64,
    UInt64,
    enter_all,
    signed,
)
from paramgolf.predict.ngram_walk import KNOWN, PLACE

NEVER = 1 << 40  # more than any count


@njit(cache=True)
def forget_history(nodes: Int32, history: Int32, scalars: Int64, lane_B2: Int64, kept: int) -> int:
    """Keep the last `kept` places of the history; contexts whose one follower stood before them are as never followed.

    Returns how many followers were forgotten.
    """
    cut, forgotten = scalars[PLACES] - kept, 0
    for row in range(scalars[USED]):
        if nodes[row, FOLLOW] < 0:
            if ~signed(nodes[row, FOLLOW]) < cut:
                nodes[row, FOLLOW], nodes[row, TOTAL], nodes[row, DISTINCT] = 0, 0, 0
                forgotten += 1
            else:
                nodes[row, FOLLOW] += cut
    for place in range(kept + 1):
        value = history[place + cut]
        history[place] = value if value >= 0 or value == END else value + cut
    history[kept + 1 :] = 0
    scalars[PLACES] = kept
    for b in range(len(lane_B2)):  # a lane that stopped before the cut goes on as a new text
        lane_B2[b, PLACE] = lane_B2[b, PLACE] - cut if lane_B2[b, PLACE] >= cut else ABSENT
    return forgotten


@njit(cache=True)
def _choose(nodes: Int32, used: int, fixed: int, wanted: int, alive: Int32) -> int:
    """Clear `alive` for up to `wanted` nodes and take them off their parents' sums; returns how many."""
    children = np.zeros(used, np.int32)
    for row in range(fixed, used):
        children[nodes[row, PARENT]] += 1
    chosen, limit = 0, 1
    while chosen < wanted:
        before, rarest = chosen, NEVER
        for row in range(fixed, used):
            if alive[row] and children[row] == 0:
                if nodes[row, COUNT] > limit:
                    rarest = min(rarest, signed(nodes[row, COUNT]))
                    continue
                parent = nodes[row, PARENT]
                alive[row] = 0
                children[parent] -= 1
                nodes[parent, TOTAL] -= nodes[row, COUNT]
                nodes[parent, DISTINCT] -= 1
                chosen += 1
                if chosen == wanted:
                    break
        if chosen == before:
            if rarest == NEVER:
                break
            limit = rarest
    return chosen


@njit(cache=True)
def forget_rarest(
    nodes: Int32, slots: UInt64, scalars: Int64, rows_BK: Int64, lane_B2: Int64, fixed: int, wanted: int
) -> int:
    """Forget `wanted` nodes without children, those of the smallest counts first, then those that were made first.

    The first `fixed` rows stay. What remains moves together; lanes lose the contexts that are forgotten. Returns how
    many nodes were forgotten.
    """
    used = scalars[USED]
    alive = np.ones(used, np.int32)
    chosen = _choose(nodes, used, fixed, wanted, alive)
    moved = np.cumsum(alive) - 1
    for row in range(used):
        nodes[row, FOLLOW] = min(nodes[row, FOLLOW], 0)
    for row in range(fixed, used):
        if alive[row]:
            to, parent = moved[row], moved[nodes[row, PARENT]]
            nodes[to] = nodes[row]
            nodes[to, PARENT] = parent
            nodes[to, SIBLING], nodes[parent, FOLLOW] = nodes[parent, FOLLOW], to
    nodes[used - chosen : used] = 0
    scalars[USED] = used - chosen
    slots[:] = np.uint64(0)
    enter_all(nodes, slots, fixed, used - chosen)
    for b in range(len(rows_BK)):
        for k in range(lane_B2[b, KNOWN]):
            row = rows_BK[b, k]
            if alive[row] == 0:
                lane_B2[b, KNOWN] = k
                break
            rows_BK[b, k] = moved[row]
    return chosen
