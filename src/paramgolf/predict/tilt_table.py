"""Exact contexts and the token that followed each most often, as numba kernels.

A context is a run of symbols, found by its hash and then compared symbol by symbol, so no two are ever mixed up. Its
leader changes when another follower's count exceeds the leader's: among equals the older one stays, which counts alone
could not tell. Most contexts have one follower; only those with several keep a count for each (`pairs`).

A lane's text lies in the arena without gaps; when another lane has written since, its last symbols are copied to the
end before it goes on. A context is kept where it was seen last.

Legend: T tokens, V vocabulary, S symbols of the arena. Slots are 0 (empty) or 32 bits of the hash and a row + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from paramgolf.predict.ngram_table import Int32, Int64, UInt64, signed

Int8 = npt.NDArray[np.int8]

# Columns of a context. TOTAL is TOP_COUNT while it has one follower.
PLACE, LENGTH, TOTAL, TOP_COUNT, TOP_TOKEN, CONTEXT_COLUMNS = 0, 1, 2, 3, 4, 5
OWNER, TOKEN, COUNT, PAIR_COLUMNS = 0, 1, 2, 3
# What `used` and `limits` hold.
SYMBOLS, CONTEXTS, PAIRS, SIZES = 0, 1, 2, 3
# Where a lane stands: the end of its text in the arena, how many symbols of it are context, how many were ever read.
END, RUN, LANE = 0, 1, 2
# What a token does to the run of symbols: it goes on, begins anew with this token, or ends.
GOES_ON, BEGINS, ENDS = 0, 1, 2
# What is written down of a token that was learnt on trial: the context as it was, the pair.
ROW, FRESH, OLD_PLACE, OLD_TOTAL, OLD_TOP_COUNT, OLD_TOP_TOKEN, PAIR, OLD_COUNT, OLD_PAIRS, JOURNAL = range(10)
ABSENT = -1
NO_HINT = -1
LOW = np.uint64(0xFFFFFFFF)


class Table(NamedTuple):
    """All arrays: `arena` int32 [S], contexts and pairs int32 rows, their slots uint64, `used` int64 [SIZES]."""

    arena: Int32
    contexts: Int32
    context_slots: UInt64
    pairs: Int32
    pair_slots: UInt64
    used: Int64


def new_table(symbols: int, contexts: int, pairs: int) -> Table:
    """An empty table with room for so many of each."""
    return Table(
        np.zeros(symbols, dtype=np.int32),
        np.zeros((contexts, CONTEXT_COLUMNS), dtype=np.int32),
        np.zeros(2 * contexts, dtype=np.uint64),
        np.zeros((pairs, PAIR_COLUMNS), dtype=np.int32),
        np.zeros(2 * pairs, dtype=np.uint64),
        np.zeros(SIZES, dtype=np.int64),
    )


@njit(cache=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return value ^ (value >> np.uint64(29))


@njit(cache=True)
def context_hash(arena: Int32, start: int, length: int) -> np.uint64:
    """64 mixed bits of a run of symbols."""
    value = np.uint64(length + 1)
    for i in range(start, start + length):
        value = (value + np.uint64(arena[i] + 1)) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(31)
    return _mixed(value)


@njit(cache=True, inline="always")
def pair_hash(row: int, token: int) -> np.uint64:
    """64 mixed bits of a context's row and a token."""
    return _mixed(np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xD6E8FEB86659FD93))


@njit(cache=True, inline="always")
def home(mixed: np.uint64, slots: UInt64) -> int:
    """Where a row is looked for first."""
    return signed(((mixed >> np.uint64(32)) * np.uint64(len(slots))) >> np.uint64(32))


@njit(cache=True)
def find_context(arena: Int32, contexts: Int32, slots: UInt64, start: int, length: int, mixed: np.uint64) -> int:
    """The row of the context `arena[start : start + length]`, `ABSENT` if it was never learnt from."""
    slot, tag = home(mixed, slots), mixed << np.uint64(32)
    while slots[slot] != np.uint64(0):
        if (slots[slot] ^ tag) <= LOW:
            row = signed(slots[slot] & LOW) - 1
            if contexts[row, LENGTH] == length:
                place, same = contexts[row, PLACE], 0
                while same < length and arena[place + same] == arena[start + same]:
                    same += 1
                if same == length:
                    return row
        slot = slot + 1 if slot + 1 < len(slots) else 0
    return ABSENT


@njit(cache=True)
def find_pair(pairs: Int32, slots: UInt64, row: int, token: int) -> int:
    """The row of a context's follower, `ABSENT` if it is none or the only one."""
    mixed = pair_hash(row, token)
    slot, tag = home(mixed, slots), mixed << np.uint64(32)
    while slots[slot] != np.uint64(0):
        if (slots[slot] ^ tag) <= LOW:
            pair = signed(slots[slot] & LOW) - 1
            if pairs[pair, OWNER] == row and pairs[pair, TOKEN] == token:
                return pair
        slot = slot + 1 if slot + 1 < len(slots) else 0
    return ABSENT


@njit(cache=True)
def take_slot(slots: UInt64, mixed: np.uint64, row: int) -> None:
    """Enter a row that is not there yet."""
    slot = home(mixed, slots)
    while slots[slot] != np.uint64(0):
        slot = slot + 1 if slot + 1 < len(slots) else 0
    slots[slot] = (mixed << np.uint64(32)) | np.uint64(row + 1)


@njit(cache=True)
def drop_slot(slots: UInt64, mixed: np.uint64, row: int) -> None:
    """Take back the latest `take_slot`: no other search runs across it."""
    slot = home(mixed, slots)
    while (slots[slot] & LOW) != np.uint64(row + 1):
        slot = slot + 1 if slot + 1 < len(slots) else 0
    slots[slot] = np.uint64(0)


@njit(cache=True)
def add_pair(pairs: Int32, slots: UInt64, used: Int64, row: int, token: int, count: int) -> None:
    """A follower that is not there yet."""
    pair = used[PAIRS]
    used[PAIRS] += 1
    pairs[pair, OWNER], pairs[pair, TOKEN], pairs[pair, COUNT] = row, token, count
    take_slot(slots, pair_hash(row, token), pair)


@njit(cache=True)
def learn(
    contexts: Int32,
    context_slots: UInt64,
    pairs: Int32,
    pair_slots: UInt64,
    used: Int64,
    start: int,
    length: int,
    mixed: np.uint64,
    row: int,
    token: int,
    journal: Int64,
    t: int,
) -> None:
    """Count `token` after a context, whose row is `row` or `ABSENT`; what was is noted in row `t` of `journal`, unless
    that is empty."""
    noted = len(journal) > 0
    if noted:
        journal[t, ROW], journal[t, FRESH] = row, row < 0
        journal[t, PAIR], journal[t, OLD_PAIRS] = ABSENT, used[PAIRS]
    if row < 0:
        row = used[CONTEXTS]
        used[CONTEXTS] += 1
        take_slot(context_slots, mixed, row)
        contexts[row, LENGTH], contexts[row, TOTAL] = length, 0
        contexts[row, TOP_COUNT], contexts[row, TOP_TOKEN] = 0, token
        if noted:
            journal[t, ROW] = row
    elif noted:
        journal[t, OLD_PLACE], journal[t, OLD_TOTAL] = contexts[row, PLACE], contexts[row, TOTAL]
        journal[t, OLD_TOP_COUNT], journal[t, OLD_TOP_TOKEN] = contexts[row, TOP_COUNT], contexts[row, TOP_TOKEN]
    contexts[row, PLACE] = start
    count = contexts[row, TOP_COUNT] + 1
    if contexts[row, TOTAL] == contexts[row, TOP_COUNT]:  # one follower so far, or none
        if token != contexts[row, TOP_TOKEN]:
            add_pair(pairs, pair_slots, used, row, contexts[row, TOP_TOKEN], contexts[row, TOP_COUNT])
            add_pair(pairs, pair_slots, used, row, token, 1)
            count = 1
    else:
        pair = find_pair(pairs, pair_slots, row, token)
        if pair < 0:
            add_pair(pairs, pair_slots, used, row, token, 1)
            count = 1
        else:
            if noted:
                journal[t, PAIR], journal[t, OLD_COUNT] = pair, pairs[pair, COUNT]
            pairs[pair, COUNT] += 1
            count = pairs[pair, COUNT]
    contexts[row, TOTAL] += 1
    if count > contexts[row, TOP_COUNT]:
        contexts[row, TOP_COUNT], contexts[row, TOP_TOKEN] = count, token
