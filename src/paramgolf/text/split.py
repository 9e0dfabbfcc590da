"""Documents into training and held-out text: by content, so that the same documents always fall the same way, or the
first so many, as the contest holds them out (spec pr2140.md 1.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paramgolf.errors import LeakError, TextError
from paramgolf.text.text import HeldOutText, TrainText

DEFAULT_HELD_OUT_SHARE = 0.08


@dataclass(frozen=True)
class Split:
    """How documents were divided, as a manifest names it.

    `content`: `held_out` is a share, by each document's SHA-256; `first`: it is how many documents at the beginning.
    """

    rule: Literal["content", "first"]
    held_out: float

    def to_json(self) -> dict[str, object]:
        """The manifest's entry."""
        return {"rule": self.rule, "held_out": self.held_out}

    def says(self) -> str:
        """A few words."""
        if self.rule == "first":
            return f"the first {self.held_out:,} documents are held out"
        return f"a share of {self.held_out:g} is held out by content"

    @staticmethod
    def of_manifest(manifest: Mapping[str, Any]) -> Split | None:
        """The split of a folder of shards, None if its manifest does not name one."""
        match manifest.get("split"):
            case {"rule": "content" | "first" as rule, "held_out": int() | float() as held_out}:
                return Split(rule, held_out)
        return None


def require_same_split(manifest: Mapping[str, Any], split: Split, where: str) -> None:
    """Raise `LeakError` if training shards were made by the same rule with another number than is asked for here.

    The contest's scripts differ here (10,000 or 50,000 documents): a model trained on what follows the first 10,000
    has seen four fifths of the other set (spec pr2140.md 1.4). Of another rule, or a manifest without a
    split, nothing is known: there the documents themselves decide (`unseen.require_unseen`).
    """
    found = Split.of_manifest(manifest)
    if found is not None and found.rule == split.rule and found != split:
        again = f"--held-out-first {found.held_out}" if found.rule == "first" else f"--held-out {found.held_out:g}"
        raise LeakError(
            f"the training shards of {where} were made with another split: there {found.says()}, here {split.says()};\n"
            f"give {again}, or prepare the training shards again"
        )


def split_first(
    documents: Sequence[bytes], name: str, count: int, *, leave_out_copies: bool = False
) -> tuple[TrainText, HeldOutText]:
    """Hold out the first `count` documents and learn from the rest.

    With `leave_out_copies` training documents that are also held out are dropped; otherwise preparing refuses them.
    Raises `TextError` if no document is left to learn from.
    """
    if not 0 < count < len(documents):
        raise TextError(
            f"{name}: cannot hold out the first {count:,} of {len(documents):,} documents: at least one must be held "
            "out, and one be left to learn from"
        )
    held_out, train = documents[:count], documents[count:]
    if leave_out_copies:
        known = {document for document in held_out if document}
        train = [document for document in train if document not in known]
    return TrainText(f"{name}-train", train), HeldOutText(f"{name}-held-out", held_out)


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
