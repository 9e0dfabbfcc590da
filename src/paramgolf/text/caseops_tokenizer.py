"""CaseOps and SentencePiece as one tokenizer (spec pr2140.md 1.1 to 1.3).

Legend: n tokens, B bytes of the transformed document (the stream), k of its characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TokenizerError
from paramgolf.text.caseops import OPERATORS, decode_bytes, encode_bytes
from paramgolf.text.model_proto import ModelProto, PieceKind
from paramgolf.text.piece_bytes import checked_ids
from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer
from paramgolf.text.tokenizer import TokenIds

Counts = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_AT_ONCE = 1 << 22  # tokens whose bytes are counted together; bounds the memory
_NO_UTF8 = re.compile("[\udc80-\udcff]")


class CaseOpsTokenizer:
    """A SentencePiece model over CaseOps streams, read from the bytes of its `.model` file.

    It is lossless if the model is, and then for any bytes. Where the model normalises (the contest's NFKC), an operator
    may end up where no encoder puts one (`0.3ºC`), so `decode` is tolerant: it never fails for ids of the vocabulary.
    Raises `TokenizerError` if the bytes are no model, or the model has no symbols for the four operators.
    """

    kind = "caseops"

    def __init__(self, model: bytes) -> None:
        self.inner = SentencePieceTokenizer(model)
        if not has_operators(self.inner.proto):
            raise TokenizerError(
                "not a CaseOps model: it lacks user-defined symbols for U+E001..U+E004; train one with data prepare "
                "--caseops, or use the model without CaseOps"
            )
        self.vocab_size, self.boundary_id = self.inner.vocab_size, self.inner.boundary_id
        self.digest = hashlib.sha256(b"caseops\0" + model).hexdigest()

    @property
    def proto(self) -> ModelProto:
        """Pieces of the vocabulary, as the stream spells them."""
        return self.inner.proto

    @property
    def lossless(self) -> bool:
        """Whether every document comes back."""
        return self.inner.lossless

    @cached_property
    def operator_ids(self) -> TokenIds:
        """Ids int32 [4] of title, all-caps, cap-next and escape."""
        texts = [piece.text for piece in self.proto.pieces]
        return np.array([texts.index(operator) for operator in OPERATORS], dtype=np.int32)

    def encode(self, document: bytes) -> TokenIds:
        """Ids int32 [n] of a document; bytes that are no UTF-8 become U+FFFD if the model is not lossless."""
        if self.lossless:
            return self.encode_exact(document)
        return self._encode_normalised(encode_bytes(document))

    def encode_exact(self, document: bytes) -> TokenIds:
        """Ids int32 [n] that `decode` turns back into exactly `document`; what the model would change is spelled."""
        return self.inner.encode_exact(encode_bytes(document))

    def encode_counted(self, document: bytes) -> tuple[TokenIds, Counts]:
        """`encode` of a document, and the raw bytes that each token stands for, int64 [n].

        An operator stands for none, and all bytes of a character that is spelled in byte pieces count at the last. The
        sum is the document's size if the model is lossless; else it lacks what was dropped at either end.
        """
        stream = encode_bytes(document)
        ids = self.inner.encode_exact(stream) if self.lossless else self._encode_normalised(stream)
        return ids, self.count_bytes(stream, ids)

    def count_bytes(self, stream: bytes, ids: TokenIds) -> Counts:
        """Raw bytes int64 [n] of the ids that `encode` made of a document, given its transform `stream`."""
        spelled, ends = self._spell(ids)
        if spelled.tobytes() == stream:
            return _between(stream, ends)
        places = None if self.proto.adds_dummy_prefix else self._follow(stream, spelled)
        return _between(stream, self.surface_ends(stream, ids) if places is None else places[ends])

    def bytes_of(self, ids: npt.ArrayLike) -> Counts:
        """Raw bytes int64 [n] that ids stand for, as far as the ids tell: of `encode_exact`, all of the document's.

        Ids may be of many documents with their boundaries. Raises `TokenizerError` for an id outside the vocabulary.
        """
        array = checked_ids(ids, self.vocab_size)
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._counts(array)])

    def total_bytes(self, ids: npt.ArrayLike) -> int:
        """The sum of `bytes_of`, in bounded memory."""
        return sum(int(counts.sum()) for counts in self._counts(checked_ids(ids, self.vocab_size)))

    def decode(self, ids: npt.ArrayLike) -> bytes:
        """Bytes of the ids; an operator acts within its document. Raises `TokenizerError` for an id out of range."""
        array = checked_ids(ids, self.vocab_size)
        documents = np.split(array, np.flatnonzero(array == self.boundary_id))
        return b"".join(decode_bytes(self.inner.decode(document), tolerant=True) for document in documents)

    def stream(self, ids: npt.ArrayLike) -> bytes:
        """What the ids spell before the operators are carried out."""
        return self.inner.decode(ids)

    def to_bytes(self) -> bytes:
        """The `.model` file; `kind` is what tells it from a plain one."""
        return self.inner.to_bytes()

    def _encode_normalised(self, stream: bytes) -> TokenIds:
        return self.inner.encode(_readable(stream).encode())

    def _counts(self, ids: npt.NDArray[np.integer]) -> Iterator[Counts]:
        """Raw bytes of the tokens, part by part."""
        at = 0
        while at < len(ids):
            end = self._cut(ids, at)
            yield _between(*self._spell(ids[at:end]))
            at = end

    def _spell(self, ids: npt.NDArray[np.integer]) -> tuple[Bytes, Counts]:
        """The stream uint8 [B] that ids spell, where each token begins in it, and the end: int64 [n + 1]."""
        from paramgolf.text.caseops_kernel import spell_into

        table = self.inner.piece_bytes
        spelled = np.empty(int(table.lengths[ids].sum()), dtype=np.uint8)
        places = np.empty(len(ids) + 1, dtype=np.int64)
        spell_into(ids, table.flat, table.ends, spelled, places)
        return spelled, places

    def surface_ends(self, stream: bytes, ids: TokenIds) -> Counts:
        """Byte of the stream that each token's surface begins at, and the end of the last, int64 [n + 1].

        SentencePiece's own map from what it made of a text to the text decides. Raises `TokenizerError` if the ids are
        not of that text.
        """
        offsets = self.inner.normalise(_readable(stream))[1]
        ends = self.inner.character_ends(ids)
        if ends[-1] != len(offsets) - 1:
            raise TokenizerError(
                f"cannot tell which bytes each token stands for: its pieces hold {ends[-1]} characters, the normalised "
                f"text {len(offsets) - 1}; use a model with byte_fallback and without add_dummy_prefix"
            )
        places: Counts = _character_starts(stream.decode("utf-8", "surrogateescape"))[offsets[ends]]
        return places

    def _follow(self, stream: bytes, spelled: Bytes) -> Counts | None:
        """Place in the stream of each byte that the tokens spell, and the end; None if they are not of this stream.

        Only the few words that the model changed are asked of it, which is faster than its map of the whole document.
        """
        from paramgolf.text.caseops_kernel import follow, next_cut

        source = np.frombuffer(stream, dtype=np.uint8)
        places = np.zeros(len(spelled) + 1, dtype=np.int64)
        at = index = 0
        while True:
            same, stopped, at, index = follow(source, spelled, places, at, index)
            if same:
                return places
            end = next_cut(source, stopped)
            text, starts = self._changed(stream[at:end])
            size = len(starts) - 1
            if spelled[index : index + size].tobytes() != text:
                return None
            places[index : index + size + 1] = at + starts
            at, index = end, index + size
            if end == len(stream):
                return places if index == len(spelled) else None

    def _changed(self, part: bytes) -> tuple[bytes, Counts]:
        """What the model makes of a part of a stream, and where in the part each byte of it begins, and the end."""
        text, offsets = self.inner.normalise(_readable(part))
        widths = np.diff(_character_starts(text))
        starts = _character_starts(part.decode("utf-8", "surrogateescape"))[offsets]
        return text.encode(), np.append(np.repeat(starts[:-1], widths), starts[-1:])

    def _cut(self, ids: npt.NDArray[np.integer], at: int) -> int:
        """Where to cut ids that are counted part by part: before a document."""
        if len(ids) - at <= _AT_ONCE:
            return len(ids)
        starts = np.flatnonzero(ids[at + 1 : at + _AT_ONCE] == self.boundary_id)
        if len(starts):
            return at + 1 + int(starts[-1])
        starts = np.flatnonzero(ids[at + _AT_ONCE :] == self.boundary_id)
        return at + _AT_ONCE + int(starts[0]) if len(starts) else len(ids)


def has_operators(proto: ModelProto) -> bool:
    """Whether a model has the four operators as symbols of its own, which is what a CaseOps model is known by."""
    symbols = {piece.text for piece in proto.pieces if piece.kind is PieceKind.USER_DEFINED}
    return symbols.issuperset(OPERATORS)


def _readable(stream: bytes) -> str:
    """The stream as SentencePiece takes it: one U+FFFD for each byte that is no UTF-8."""
    return _NO_UTF8.sub("\ufffd", stream.decode("utf-8", "surrogateescape"))


def _between(stream: bytes | Bytes, places: Counts) -> Counts:
    """Raw bytes between successive places of a stream, int64 [n] for places [n + 1]."""
    from paramgolf.text.caseops_kernel import count_raw_bytes

    counts: Counts = np.diff(count_raw_bytes(np.frombuffer(stream, dtype=np.uint8))[places])
    return counts


def _character_starts(text: str) -> Counts:
    """Byte at which each character of `text` begins, and its end: int64 [k + 1]. An escaped byte is one byte."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    widths[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    return np.concatenate([[0], np.cumsum(widths)])
