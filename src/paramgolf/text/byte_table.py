"""How many bytes a token stands for: the contest's three look-up tables, and a table that is exact.

Contest (spec pr549 section 1.6): a token is charged base[token] bytes, and one more if it begins with a space and its
predecessor is not a boundary. It counts the *normalised* text, and an interior U+2581 (a run of spaces in one piece)
as three bytes, so it is only right for the contest's own vocabularies; `exact_byte_table` is right for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.model_proto import SPACE_MARK, Piece, PieceKind
from paramgolf.text.piece_bytes import checked_ids
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer


@dataclass(frozen=True)
class ByteTable:
    """`base` int64 [V] bytes; `leading_space` bool [V]; `boundary` bool [V]: no space is charged after such a token."""

    base: npt.NDArray[np.int64]
    leading_space: npt.NDArray[np.bool_]
    boundary: npt.NDArray[np.bool_]

    def bytes_of(self, previous_ids: npt.ArrayLike, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Bytes charged for `ids` [n] after `previous_ids` [n], int64 [n]; raises `TokenizerError` for bad ids."""
        before = checked_ids(previous_ids, len(self.base))
        tokens = checked_ids(ids, len(self.base))
        if len(before) != len(tokens):
            raise ValueError(f"{len(before)} previous ids for {len(tokens)} ids")
        charged: npt.NDArray[np.int64] = self.base[tokens] + (self.leading_space[tokens] & ~self.boundary[before])
        return charged

    def bytes_of_document(self, ids: npt.ArrayLike, boundary_id: int) -> int:
        """Bytes charged for a document that follows its boundary token."""
        tokens = checked_ids(ids, len(self.base))
        return int(self.bytes_of(np.concatenate([[boundary_id], tokens])[:-1], tokens).sum())


def contest_byte_table(tokenizer: SentencePieceTokenizer | ByteTokenizer) -> ByteTable:
    """The tables as the contest builds them."""
    if isinstance(tokenizer, ByteTokenizer):
        return exact_byte_table(tokenizer)
    pieces = tokenizer.proto.pieces
    return ByteTable(
        base=np.array([_contest_base(piece) for piece in pieces], dtype=np.int64),
        leading_space=np.array([_leads(piece) for piece in pieces], dtype=np.bool_),
        boundary=np.array([piece.silent() for piece in pieces], dtype=np.bool_),
    )


def exact_byte_table(tokenizer: SentencePieceTokenizer | ByteTokenizer) -> ByteTable:
    """Bytes that `decode` gives for each token; over the ids of `encode_exact` they sum to the document's length."""
    base = tokenizer.piece_bytes.lengths
    return ByteTable(base, np.zeros(len(base), dtype=np.bool_), base == 0)


def _leads(piece: Piece) -> bool:
    plain = piece.kind in (PieceKind.NORMAL, PieceKind.USER_DEFINED)
    return plain and piece.text.startswith(SPACE_MARK)


def _contest_base(piece: Piece) -> int:
    if piece.silent():
        return 0
    if piece.kind is PieceKind.BYTE:
        return 1
    return len(piece.text.removeprefix(SPACE_MARK).encode("utf-8", "surrogatepass"))
