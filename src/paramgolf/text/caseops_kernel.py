"""CaseOps over UTF-8 bytes, compiled. `caseops_plain.py` says the same over code points and is what tests compare with.

Only ASCII letters and the four operators (U+E001..U+E004, in UTF-8 EE 80 81 .. EE 80 84) mean anything, and EE is never
a continuation byte, so bytes that are no UTF-8 pass through as any other character does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

TITLE, ALL_CAPS, CAP_NEXT, ESCAPE = 1, 2, 3, 4
FINE, MISPLACED, NO_LETTER, DOUBLE, UNFINISHED = 0, 1, 2, 3, 4  # what is wrong with a stream


@njit(cache=True)
def operator_at(source: Any, at: int) -> int:
    """1..4 if an operator begins here, else 0."""
    if source[at] == 0xEE and at + 2 < len(source) and source[at + 1] == 0x80 and 0x81 <= source[at + 2] <= 0x84:
        return int(source[at + 2]) - 0x80
    return 0


@njit(cache=True)
def _put(target: Any, at: int, operator: int) -> int:
    target[at] = 0xEE
    target[at + 1] = 0x80
    target[at + 2] = 0x80 + operator
    return at + 3


@njit(cache=True)
def _is_letter(byte: int) -> bool:
    return 97 <= (byte | 32) <= 122


@njit(cache=True)
def encode_into(source: Any, target: Any) -> int:
    """Write the transform of `source` uint8 [n] into `target` uint8 [4 n]; bytes written."""
    at = out = 0
    size = len(source)
    while at < size:
        byte = source[at]
        if byte < 65 or byte > 122:  # neither letter nor, below EE, operator
            if byte == 0xEE and operator_at(source, at):
                out = _put(target, out, ESCAPE)
            target[out] = byte
            out += 1
            at += 1
            continue
        end, capitals = at, 0
        while end < size and _is_letter(source[end]):
            capitals += source[end] < 97
            end += 1
        if end == at:
            target[out] = byte
            out += 1
            at += 1
            continue
        shout = capitals >= 2 and capitals == end - at
        if shout:
            out = _put(target, out, ALL_CAPS)
        for place in range(at, end):
            letter = source[place]
            if letter < 97:
                if not shout:
                    out = _put(target, out, TITLE if place == at else CAP_NEXT)
                letter |= 32
            target[out] = letter
            out += 1
        at = end
    return out


@njit(cache=True)
def decode_into(source: Any, target: Any, tolerant: bool) -> tuple[int, int, int]:
    """Write the text of the stream `source` uint8 [n] into `target` uint8 [n].

    Returns bytes written, what is wrong (`FINE`, ...) and the byte where. A strict decoder stops at the first fault. A
    tolerant one goes on and counts nothing as wrong: an operator within a word acts on the rest of it, one that no
    letter follows does nothing.
    """
    out = at = 0
    size = len(source)
    escaped = shouting = capital = inside = False
    mode = 0
    while at < size:
        byte = source[at]
        operator = operator_at(source, at) if byte == 0xEE else 0
        if operator and not escaped:
            if operator == ESCAPE:
                if not tolerant and (mode or capital):
                    return out, NO_LETTER, at
                escaped, mode, capital = True, 0, False
            elif operator == CAP_NEXT:
                if not tolerant and capital:
                    return out, DOUBLE, at
                capital = True
            else:
                if not tolerant and (mode or inside or capital):
                    return out, MISPLACED, at
                if not inside:
                    mode = operator
                elif operator == TITLE:
                    capital = True
                else:
                    shouting = True
            at += 3
        elif _is_letter(byte):
            if escaped:
                escaped = False
            else:
                if not inside and mode == ALL_CAPS:
                    shouting = True
                if capital or shouting or mode:
                    byte &= 0xDF
                mode, capital = 0, False
            inside = True
            target[out] = byte
            out += 1
            at += 1
        else:
            if not tolerant and (mode or capital):
                return out, NO_LETTER, at
            escaped = shouting = capital = inside = False
            mode = 0
            for _ in range(3 if operator else 1):
                target[out] = source[at]
                out += 1
                at += 1
    if not tolerant and (escaped or mode or capital):
        return out, UNFINISHED, size
    return out, FINE, size


@njit(cache=True)
def count_raw_bytes(stream: Any) -> Any:
    """Raw bytes that the first k bytes of a stream stand for, int64 [n + 1], for every k in 0..n.

    Operators count nothing, escaped ones three; a character's bytes all count at its last one, as they do in the
    contest, where a character that is spelled in byte pieces is credited to the last of them.
    """
    size = len(stream)
    counts = np.empty(size + 1, np.int64)
    counts[0] = 0
    at = total = 0
    escaped = False
    while at < size:
        width = 3 if operator_at(stream, at) and not escaped else 0
        if width:
            escaped = stream[at + 2] == 0x80 + ESCAPE
            for place in range(at, at + width):
                counts[place + 1] = total
        else:
            escaped = False
            width = _width(stream, at)
            for place in range(at, at + width):
                counts[place + 1] = total
            total += width
            counts[at + width] = total
        at += width
    return counts


@njit(cache=True)
def _width(stream: Any, at: int) -> int:
    """Bytes of the character here; 1 for a byte that begins none."""
    lead = stream[at]
    width = 4 if 0xF0 <= lead < 0xF8 else 3 if 0xE0 <= lead < 0xF0 else 2 if 0xC0 <= lead < 0xE0 else 1
    if at + width > len(stream):
        return 1
    for place in range(at + 1, at + width):
        if stream[place] & 0xC0 != 0x80:
            return 1
    return width


@njit(cache=True)
def follow(stream: Any, normalised: Any, places: Any, at: int, index: int) -> tuple[bool, int, int, int]:
    """Where in `stream` uint8 [n] each byte of `normalised` uint8 [m] begins, and the end, into `places` int64 [m + 1].

    Begins at byte `at` of the stream and `index` of the other, and goes on as far as they are the same but for white
    space: one space for each run of it, none at the ends. Returns whether that is to the end, where it stopped in the
    stream, and the last cut before it, as a place in both. See `next_cut`.
    """
    size = len(stream)
    safe_at, safe_index = at, index
    if at == 0:
        while at < size and _is_space(stream[at]):
            at += 1
    while index < len(normalised) and at < size:
        if at > 0 and _is_graphic(stream[at]) and _is_graphic(stream[at - 1]):
            safe_at, safe_index = at, index
        places[index] = at
        if _is_space(stream[at]):
            if normalised[index] != 32:
                return False, at, safe_at, safe_index
            while at < size and _is_space(stream[at]):
                at += 1
        elif stream[at] == normalised[index]:
            at += 1
        else:
            return False, at, safe_at, safe_index
        index += 1
    places[index] = at
    rest = at
    while rest < size and _is_space(stream[rest]):
        rest += 1
    return index == len(normalised) and rest == size, at, safe_at, safe_index


@njit(cache=True)
def next_cut(stream: Any, at: int) -> int:
    """The first place after `at` between two visible ASCII characters, else the end.

    What a normaliser makes of the text before such a place and of the text after it is what it makes of both: no rule
    joins an ASCII character to what stands before it, and no white space is there to be removed.
    """
    for place in range(at + 1, len(stream)):
        if _is_graphic(stream[place]) and _is_graphic(stream[place - 1]):
            return place
    return len(stream)


@njit(cache=True)
def _is_graphic(byte: int) -> bool:
    return 32 < byte < 127


@njit(cache=True)
def _is_space(byte: int) -> bool:
    return byte == 32 or byte == 10 or byte == 9 or byte == 13


@njit(cache=True)
def spell_into(ids: Any, flat: Any, ends: Any, spelled: Any, places: Any) -> None:
    """The pieces of `ids` [n], one after the other, into `spelled`, and where each begins into `places` int64 [n + 1].

    `ends` int64 [V] is where each piece ends in `flat`.
    """
    out = 0
    for index in range(len(ids)):
        places[index] = out
        token = ids[index]
        for at in range(ends[token - 1] if token else 0, ends[token]):
            spelled[out] = flat[at]
            out += 1
    places[len(ids)] = out
