"""Documents into training and held-out text, by content, so that the same documents always fall the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from paramgolf.errors import TextError
from paramgolf.text.text import HeldOutText, TrainText

DEFAULT_HELD_OUT_SHARE = 0.08


def split_documents(
    documents: Sequence[bytes], name: str, held_out_share: float = DEFAULT_HELD_OUT_SHARE
) -> tuple[TrainText, HeldOutText]:
    """Hold out each document whose SHA-256, read as a fraction, is below `held_out_share`.

    All copies of a document go to the same side. If that leaves a side without text (a handful of documents), it gets
    the document whose size is nearest to its share, with its copies; if there is only one distinct
    document, it is cut at the line end nearest to the share. Raises `TextError` if there is too little to divide.
    """
    if not 0 < held_out_share < 1:
        raise TextError(f"held_out_share={held_out_share} must lie between 0 and 1")
    distinct = {document for document in documents if document}
    if not distinct:
        raise TextError(f"{name}: no text ({len(documents)} documents, 0 bytes)")
    if len(distinct) == 1:
        head, tail = _cut(distinct.pop(), name, held_out_share)
        return TrainText(f"{name}-train", [head]), HeldOutText(f"{name}-held-out", [tail])
    held_out = {document for document in distinct if _fraction(document) < held_out_share}
    if not held_out:
        held_out = {_nearest(distinct, held_out_share)}
    elif held_out == distinct:
        held_out = distinct - {_nearest(distinct, 1 - held_out_share)}
    return (
        TrainText(f"{name}-train", [document for document in documents if document not in held_out]),
        HeldOutText(f"{name}-held-out", [document for document in documents if document in held_out]),
    )


def _nearest(documents: set[bytes], share: float) -> bytes:
    """The document whose size is nearest to that share of all."""
    wanted = share * sum(map(len, documents))
    return min(documents, key=lambda document: (abs(len(document) - wanted), _fraction(document)))


def _fraction(document: bytes) -> float:
    return int.from_bytes(hashlib.sha256(document).digest()[:8], "big") / 2**64


def _cut(document: bytes, name: str, held_out_share: float) -> tuple[bytes, bytes]:
    """Head and tail; the cut is after a line end unless there is none inside."""
    if len(document) < 2:
        raise TextError(f"{name}: one document of {len(document)} byte cannot be split; give more text")
    wanted = min(max(round(len(document) * (1 - held_out_share)), 1), len(document) - 1)
    before = document.rfind(b"\n", 0, wanted) + 1
    after = document.find(b"\n", wanted, len(document) - 1) + 1
    ends = [end for end in (before, after) if end > 0]
    at = min(ends, key=lambda end: abs(end - wanted), default=_character_start(document, wanted))
    return document[:at], document[at:]


def _character_start(document: bytes, at: int) -> int:
    """`at`, moved back to the first byte of a UTF-8 character if that is near."""
    for start in range(at, max(at - 4, 0), -1):
        if document[start] & 0xC0 != 0x80:
            return start
    return at
