"""Walks over a lane's next tokens: the hint before each, then the token is learnt; on trial it can be taken back.

Legend: T tokens, V vocabulary (see `tilt_table`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paramgolf.predict.ngram_table import Int32, Int64, UInt64
from paramgolf.predict.tilt_table import (
    CONTEXTS,
    COUNT,
    END,
    ENDS,
    FRESH,
    GOES_ON,
    LENGTH,
    NO_HINT,
    OLD_COUNT,
    OLD_PAIRS,
    OLD_PLACE,
    OLD_TOP_COUNT,
    OLD_TOP_TOKEN,
    OLD_TOTAL,
    OWNER,
    PAIR,
    PAIRS,
    PLACE,
    ROW,
    RUN,
    SYMBOLS,
    TOKEN,
    TOP_COUNT,
    TOP_TOKEN,
    TOTAL,
    Int8,
    context_hash,
    drop_slot,
    find_context,
    learn,
    pair_hash,
    take_slot,
)


@njit(cache=True)
def walk(
    arena: Int32,
    contexts: Int32,
    context_slots: UInt64,
    pairs: Int32,
    pair_slots: UInt64,
    used: Int64,
    limits: Int64,
    lane: Int64,
    kind_V: Int8,
    boundary: int,
    exact: int,
    longest: int,
    every: bool,
    tokens: Int64,
    token_T: Int64,
    top_T: Int64,
    total_T: Int64,
    journal: Int64,
) -> int:
    """Go on over `tokens` and return how many were read before a limit stopped it.

    A lane whose `RUN` is negative begins with `boundary`.
    The context of a token is the last `exact` symbols of its run, or with `exact` 0 all of them, `longest` at most.
    Without `every`, only tokens that go on are learnt. Hints go into `token_T`, `top_T`, `total_T`, what was into
    `journal` [T, JOURNAL], unless they are empty.
    """
    for t in range(len(tokens)):
        if not (
            used[SYMBOLS] + longest + 2 <= limits[SYMBOLS]
            and used[CONTEXTS] < limits[CONTEXTS]
            and used[PAIRS] + 2 <= limits[PAIRS]
        ):
            return t
        if lane[RUN] < 0:
            arena[used[SYMBOLS]] = boundary
            used[SYMBOLS] += 1
            lane[RUN], lane[END] = 1, used[SYMBOLS]
        elif lane[END] != used[SYMBOLS]:
            bring_to_end(arena, used, lane, longest)
        token = tokens[t]
        kind = kind_V[token]
        length = context_length(lane[RUN], exact, longest)
        if length > 0:
            start = used[SYMBOLS] - length
            mixed = context_hash(arena, start, length)
            row = find_context(arena, contexts, context_slots, start, length, mixed)
            if row >= 0 and len(token_T) > 0:
                token_T[t] = contexts[row, TOP_TOKEN]
                top_T[t] = contexts[row, TOP_COUNT]
                total_T[t] = contexts[row, TOTAL]
            if every or kind == GOES_ON:
                learn(
                    contexts, context_slots, pairs, pair_slots, used, start, length, mixed, row, token,
                    journal, t,
                )  # fmt: skip
        if kind != GOES_ON:
            lane[RUN] = 0
        if kind != ENDS:
            arena[used[SYMBOLS]] = token
            used[SYMBOLS] += 1
            lane[RUN] += 1
        lane[END] = used[SYMBOLS]
    return len(tokens)


@njit(cache=True, inline="always")
def context_length(run: int, exact: int, longest: int) -> int:
    """How many symbols a context has after a run of so many; 0: there is none."""
    if exact > 0:
        return exact if run >= exact else 0
    return run if run <= longest else 0


@njit(cache=True)
def bring_to_end(arena: Int32, used: Int64, lane: Int64, longest: int) -> None:
    """Copy the last symbols of a lane's text, as many as a context may have, to the end of the arena."""
    count = min(lane[RUN], longest)
    for i in range(count):
        arena[used[SYMBOLS] + i] = arena[lane[END] - count + i]
    used[SYMBOLS] += count
    lane[END] = used[SYMBOLS]


@njit(cache=True)
def take_back(
    arena: Int32,
    contexts: Int32,
    context_slots: UInt64,
    pairs: Int32,
    pair_slots: UInt64,
    used: Int64,
    before: Int64,
    journal: Int64,
) -> None:
    """Undo a walk that began when `used` was `before`, to the last byte; entries of tokens not learnt have row -1."""
    for t in range(len(journal) - 1, -1, -1):
        row = journal[t, ROW]
        if row < 0:
            continue
        while used[PAIRS] > journal[t, OLD_PAIRS]:
            pair = used[PAIRS] - 1
            drop_slot(pair_slots, pair_hash(pairs[pair, OWNER], pairs[pair, TOKEN]), pair)
            pairs[pair] = 0
            used[PAIRS] = pair
        if journal[t, PAIR] >= 0:
            pairs[journal[t, PAIR], COUNT] = journal[t, OLD_COUNT]
        if journal[t, FRESH]:
            place, length = contexts[row, PLACE], contexts[row, LENGTH]
            drop_slot(context_slots, context_hash(arena, place, length), row)
            contexts[row] = 0
            used[CONTEXTS] = row
        else:
            contexts[row, PLACE], contexts[row, TOTAL] = journal[t, OLD_PLACE], journal[t, OLD_TOTAL]
            contexts[row, TOP_COUNT], contexts[row, TOP_TOKEN] = journal[t, OLD_TOP_COUNT], journal[t, OLD_TOP_TOKEN]
    arena[before[SYMBOLS] : used[SYMBOLS]] = 0
    used[:] = before


@njit(cache=True)
def enter_all(
    arena: Int32, contexts: Int32, context_slots: UInt64, pairs: Int32, pair_slots: UInt64, used: Int64
) -> None:
    """Enter all contexts and pairs into empty slots."""
    for row in range(used[CONTEXTS]):
        take_slot(context_slots, context_hash(arena, contexts[row, PLACE], contexts[row, LENGTH]), row)
    for pair in range(used[PAIRS]):
        take_slot(pair_slots, pair_hash(pairs[pair, OWNER], pairs[pair, TOKEN]), pair)


@njit(cache=True)
def forget_before(arena: Int32, contexts: Int32, pairs: Int32, used: Int64, cut: int) -> int:
    """Drop what was last seen before place `cut` of the arena and close the gaps; returns how many contexts went.

    The slots must be made anew (`enter_all` into empty ones), and places held elsewhere lowered by `cut`.
    """
    kept, new_row = 0, np.full(used[CONTEXTS], NO_HINT, dtype=np.int64)
    for row in range(used[CONTEXTS]):
        if contexts[row, PLACE] >= cut:
            new_row[row] = kept
            contexts[kept] = contexts[row]
            contexts[kept, PLACE] -= cut
            kept += 1
    kept_pairs = 0
    for pair in range(used[PAIRS]):
        row = new_row[pairs[pair, OWNER]]
        if row >= 0:
            pairs[kept_pairs] = pairs[pair]
            pairs[kept_pairs, OWNER] = row
            kept_pairs += 1
    gone = used[CONTEXTS] - kept
    left = used[SYMBOLS] - cut
    arena[:left] = arena[cut : used[SYMBOLS]].copy()
    arena[left : used[SYMBOLS]] = 0
    contexts[kept : used[CONTEXTS]] = 0
    pairs[kept_pairs : used[PAIRS]] = 0
    used[SYMBOLS], used[CONTEXTS], used[PAIRS] = left, kept, kept_pairs
    return gone  # type: ignore[no-any-return]
