"""Does every document come back? A BPB of text that was changed first is no lossless claim (spec rules V30)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paramgolf.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Difference:
    """The first place where a document is not what came back; excerpts are up to 32 bytes from there on."""

    document: int
    offset: int
    expected: bytes
    found: bytes


@dataclass(frozen=True)
class Losslessness:
    """How many of `documents` differ after `decode(encode(document))`, and the first difference."""

    documents: int
    differ: int
    first: Difference | None

    @property
    def lossless(self) -> bool:
        """Whether all documents came back."""
        return self.differ == 0

    def says(self) -> str:
        """One sentence."""
        if self.first is None:
            return f"lossless: all {self.documents} documents come back"
        where = f"document {self.first.document}, byte {self.first.offset}"
        return (
            f"not lossless: {self.differ} of {self.documents} documents differ; first at {where}: "
            f"{self.first.expected!r} came back as {self.first.found!r}"
        )


def check_losslessness(tokenizer: Tokenizer, documents: Sequence[bytes]) -> Losslessness:
    """Encode and decode every document with `tokenizer.encode`."""
    differ = 0
    first: Difference | None = None
    for index, document in enumerate(documents):
        found = tokenizer.decode(tokenizer.encode(document))
        if found != document:
            differ += 1
            first = first or _first_difference(index, document, found)
    return Losslessness(len(documents), differ, first)


def _first_difference(index: int, document: bytes, found: bytes) -> Difference:
    shorter = min(len(document), len(found))
    offset = next((at for at in range(shorter) if document[at] != found[at]), shorter)
    return Difference(index, offset, document[offset : offset + 32], found[offset : offset + 32])
