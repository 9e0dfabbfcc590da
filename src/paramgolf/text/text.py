"""Text as documents of raw bytes, with a digest, and the two kinds that must never be confused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from paramgolf.errors import LeakError, TextError


@dataclass(frozen=True)
class Text:
    """Documents as raw bytes. `sum(len(d) for d in documents)` is the denominator of bits per byte."""

    name: str
    documents: Sequence[bytes] = field(repr=False)
    digest: str = ""

    def __post_init__(self) -> None:
        if not any(len(document) for document in self.documents):
            raise TextError(f"{self.name}: no text ({len(self.documents)} documents, 0 bytes)")
        if not self.digest:
            object.__setattr__(self, "digest", digest_documents(self.documents))

    def size(self) -> int:
        """Bytes of all documents."""
        return sum(len(document) for document in self.documents)


@dataclass(frozen=True)
class TrainText(Text):
    """Text that may be learnt from: training, tokenizer fitting, calibration, the primer of an artifact."""


@dataclass(frozen=True)
class HeldOutText(Text):
    """Text that may only be scored. Whatever learns from text takes `TrainText` and refuses this."""


def digest_documents(documents: Sequence[bytes]) -> str:
    """SHA-256 (hex) over the number of documents and each document's length and bytes."""
    hasher = hashlib.sha256(len(documents).to_bytes(8, "little"))
    for document in documents:
        hasher.update(len(document).to_bytes(8, "little"))
        hasher.update(document)
    return hasher.hexdigest()


def require_train_text(text: Text, purpose: str) -> TrainText:
    """Return `text` if it may be learnt from; raise `LeakError` that names `purpose` otherwise."""
    if not isinstance(text, TrainText):
        raise LeakError(f"{purpose} may not use {type(text).__name__} {text.name!r}: it takes TrainText only")
    return text


def require_disjoint(train: TrainText, held_out: HeldOutText) -> None:
    """Raise `LeakError` if a held-out document of 64 bytes or more is also a training document."""
    known = {hashlib.sha256(document).digest() for document in train.documents}
    for index, document in enumerate(held_out.documents):
        if len(document) >= 64 and hashlib.sha256(document).digest() in known:
            raise LeakError(
                f"held-out document {index} of {held_out.name!r} ({len(document)} bytes) is also in "
                f"{train.name!r}; remove it from one of them (data prepare --held-out-first: --leave-out-copies)"
            )
