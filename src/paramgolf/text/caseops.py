"""CaseOps: capitals as operators in front of small letters, exactly reversible (spec pr2140.md 1.1 and 1.2).

| operator | code point | what follows |
|---|---|---|
| `TITLE` | U+E001 | a word whose first letter is a capital |
| `ALL_CAPS` | U+E002 | a word of capitals, two at least |
| `CAP_NEXT` | U+E003 | a capital within a word |
| `ESCAPE` | U+E004 | one of these four characters, literally |

A word is a run of ASCII letters. Both functions exist for `str` and for bytes of UTF-8 or of anything else. Encoding is
injective on every `str` and all bytes; not every string is an encoding, so decoding is strict or tolerant.
"""

from __future__ import annotations

import numpy as np

from paramgolf.errors import TokenizerError

TITLE, ALL_CAPS, CAP_NEXT, ESCAPE = OPERATORS = ("\ue001", "\ue002", "\ue003", "\ue004")
_FAULTS = {
    1: "a title or all-caps operator stands inside a word or after another operator",
    2: "an operator has no letter after it",
    3: "a cap-next operator follows another one",
    4: "the text ends after an operator",
}


class CaseOpsError(TokenizerError):
    """A string that no text encodes to; `position` is where (code point of a `str`, else byte)."""

    def __init__(self, fault: int, position: int, unit: str) -> None:
        super().__init__(f"not a CaseOps stream: {_FAULTS[fault]} (at {unit} {position}); decode it with tolerant=True")
        self.position = position


def encode(text: str) -> str:
    """The transform of `text`. Never fails, lone surrogates included; `decode` of the result is `text`."""
    return encode_bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def decode(stream: str, tolerant: bool = False) -> str:
    """The text of a transform.

    Strict decoding raises `CaseOpsError` with the code point for what is no transform of any text. Tolerant decoding
    never fails: an operator within a word acts on the rest of the word, and one that no letter follows does nothing.
    """
    data = stream.encode("utf-8", "surrogatepass")
    text, fault, at = _decode(data, tolerant)
    if fault:
        raise CaseOpsError(fault, len(data[:at].decode("utf-8", "surrogatepass")), "character")
    return text.decode("utf-8", "surrogatepass")


def encode_bytes(document: bytes) -> bytes:
    """As `encode`, for any bytes; those that are no UTF-8 stay as they are."""
    from paramgolf.text.caseops_kernel import encode_into

    source = np.frombuffer(document, dtype=np.uint8)
    target = np.empty(4 * len(source), dtype=np.uint8)
    return target[: encode_into(source, target)].tobytes()


def decode_bytes(stream: bytes, tolerant: bool = False) -> bytes:
    """As `decode`, for any bytes; the error names the byte."""
    text, fault, at = _decode(stream, tolerant)
    if fault:
        raise CaseOpsError(fault, at, "byte")
    return text


def is_stream(stream: bytes) -> bool:
    """Whether strict decoding takes it."""
    return _decode(stream, False)[1] == 0


def _decode(stream: bytes, tolerant: bool) -> tuple[bytes, int, int]:
    from paramgolf.text.caseops_kernel import decode_into

    source = np.frombuffer(stream, dtype=np.uint8)
    target = np.empty(len(source), dtype=np.uint8)
    size, fault, at = decode_into(source, target, tolerant)
    return target[:size].tobytes(), fault, at
