"""CaseOps as spec pr2140.md 1.1 says it, a character at a time: the reference that the fast functions are tested by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_letters, ascii_lowercase, ascii_uppercase

from paramgolf.text.caseops import ALL_CAPS, CAP_NEXT, ESCAPE, OPERATORS, TITLE, CaseOpsError

_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_PARTS = re.compile("[A-Za-z]+|(?s:.)")


def encode_plain(text: str) -> str:
    """The transform of `text`."""
    return "".join(_part(match[0]) for match in _PARTS.finditer(text))


def _part(part: str) -> str:
    if part in OPERATORS:
        return ESCAPE + part
    if part[0] not in ascii_letters:
        return part
    lower = part.translate(_LOWER)
    if part == lower:
        return part
    if len(part) >= 2 and part == part.translate(_UPPER):
        return ALL_CAPS + lower
    first = TITLE + lower[0] if part[0] != lower[0] else lower[0]
    return first + "".join(small if letter == small else CAP_NEXT + small for letter, small in zip(part[1:], lower[1:]))


def decode_plain(stream: str, tolerant: bool = False) -> str:
    """The text of a transform; strict unless told, as `caseops.decode` is."""
    out: list[str] = []
    mode = ""
    escaped = shouting = capital = inside = False
    for position, character in enumerate(stream):
        letter = character in ascii_letters
        pending = bool(mode) or capital
        if escaped:
            out.append(character)
            escaped, inside = False, letter
            shouting = shouting and letter
        elif character in (TITLE, ALL_CAPS):
            if (pending or inside) and not tolerant:
                raise CaseOpsError(1, position, "character")
            if not inside:
                mode = character
            elif character == TITLE:
                capital = True
            else:
                shouting = True
        elif character == CAP_NEXT:
            if capital and not tolerant:
                raise CaseOpsError(3, position, "character")
            capital = True
        elif letter:
            shouting = shouting or mode == ALL_CAPS
            out.append(character.translate(_UPPER) if mode or shouting or capital else character)
            mode, capital, inside = "", False, True
        else:
            if pending and not tolerant:
                raise CaseOpsError(2, position, "character")
            mode, capital = "", False
            if character == ESCAPE:
                escaped = True
            else:
                out.append(character)
                shouting = inside = False
    if (escaped or mode or capital) and not tolerant:
        raise CaseOpsError(4, len(stream), "character")
    return "".join(out)


def count_bytes_plain(surfaces: Sequence[str]) -> list[int]:
    """Raw UTF-8 bytes that each token stands for, given the piece of the stream that each covers."""
    counts = []
    escaped = False
    for surface in surfaces:
        count = 0
        for character in surface:
            if character in OPERATORS and not escaped:
                escaped = character == ESCAPE
                continue
            count += len(character.encode("utf-8", "surrogatepass"))
            escaped = False
        counts.append(count)
    return counts
