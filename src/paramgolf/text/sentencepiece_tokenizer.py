"""SentencePiece models over raw bytes: lossless where the model allows it, exact on request where it does not."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from paramgolf.errors import TokenizerError
from paramgolf.text.model_proto import SPACE_MARK, PieceKind, read_model_proto
from paramgolf.text.piece_bytes import PieceBytes
from paramgolf.text.sentencepiece_sample import BLOCK_CHARACTERS, SAMPLE_BYTES, keep_frequent, sample_blocks
from paramgolf.text.text import TrainText, require_train_text
from paramgolf.text.tokenizer import TokenIds

RESERVED_IDS = 4 + 256 + 2  # pad, bos, eos, unk, one piece a byte, space and line end

# SentencePiece takes the mark for a space, so a literal one must be spelled in bytes; so must bytes that are no UTF-8,
# which `surrogateescape` turns into these characters. Short islands between them are not worth a call each.
_UNSPEAKABLE = re.compile(f"([\udc80-\udcff{SPACE_MARK}](?:(?s:.){{0,4}}?[\udc80-\udcff{SPACE_MARK}])*)")
_SEGMENT = 4096  # bytes given to SentencePiece at once by a lossless model: its heap is fastest when it is small
# A space without a piece of its own would be spelled as the mark in bytes, which is another text.
_REQUIRED = f"{SPACE_MARK}\n"
_COVERAGE = 0.9995
_PROBE_TEXT = "  a  b \n\n\tna\u00efve \u00a0e\u0301 \ufb01 \uff11 \u2026 \u65e5 \u2581x \0 \U0001f600 <s> <0x41>\r\n "
_PROBE = _PROBE_TEXT.encode() + bytes(range(256))


class SentencePieceTokenizer:
    """A SentencePiece model read from the bytes of its `.model` file.

    `encode` of a model that changes text is SentencePiece's own `encode` (bytes that are no UTF-8 become U+FFFD). A
    lossless model encodes segments of at most 4 kB, cut at line ends: faster, in bounded memory, 0.02 % more tokens.
    Raises `TokenizerError` if the bytes are no model or the model has no BOS piece to stand between documents.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self.proto = read_model_proto(model)
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"sentencepiece refuses this model of {len(model)} bytes: {error}") from None
        self.vocab_size: int = int(self._model.get_piece_size())
        self.boundary_id: int = int(self._model.bos_id())
        if not 0 <= self.boundary_id < self.vocab_size == len(self.proto.pieces):
            raise TokenizerError(f"the model has no BOS piece to stand between documents (bos_id {self.boundary_id})")
        self.digest = hashlib.sha256(b"sentencepiece\0" + model).hexdigest()
        self.piece_bytes = PieceBytes(piece.to_bytes() for piece in self.proto.pieces)
        self._bytes_of_model = model
        self._changed_characters: dict[str, bool] = {}
        self._byte_ids = self._find_byte_ids()

    @cached_property
    def lossless(self) -> bool:
        """Whether every document comes back: the model's settings keep text, and a probe of odd bytes agrees."""
        if not self.proto.keeps_text() or self._byte_ids is None:
            return False
        return self.decode(self._encode_segment(_PROBE)) == _PROBE

    def encode(self, document: bytes) -> TokenIds:
        """Ids int32 of a document; see `Tokenizer` for what a lossless model promises."""
        if self.lossless:
            return self.encode_exact(document)
        return self._plain(document.decode("utf-8", "replace"))

    def encode_exact(self, document: bytes) -> TokenIds:
        """Ids int32 that `decode` turns back into exactly `document`.

        What the model would change is spelled in byte pieces. Raises `TokenizerError` if the model has none.
        """
        if self.lossless:
            return self._encode_segments(document)
        ids = self._plain(document.decode("utf-8", "replace"))
        if self.decode(ids) == document:
            return ids
        ids = self._encode_runs(document)
        return ids if self.decode(ids) == document else self._spell(document)

    def decode(self, ids: npt.ArrayLike) -> bytes:
        """Bytes of the ids; raise `TokenizerError` for an id outside the vocabulary."""
        decoded = self.piece_bytes.decode(ids)
        if self.proto.adds_dummy_prefix and self._starts_with_mark(np.asarray(ids).ravel()):
            return decoded[1:]
        return decoded

    def to_bytes(self) -> bytes:
        """The `.model` file."""
        return self._bytes_of_model

    def normalise(self, text: str) -> tuple[str, npt.NDArray[np.int64]]:
        """What the model makes of `text`, and which character of it each character of that begins at, and the end."""
        normalised, offsets = self._model.normalize(text, with_offsets=True)
        return normalised.replace(SPACE_MARK, " "), np.fromiter(offsets, dtype=np.int64, count=len(offsets))

    def character_ends(self, ids: TokenIds) -> npt.NDArray[np.int64]:
        """Characters of the normalised text that the first tokens hold, for 0..n tokens: int64 [n + 1].

        A character that is spelled in byte pieces belongs to the last of them.
        """
        characters, continues = self._characters
        unfinished = np.append(continues[ids[1:]], False)[: len(ids)]
        return np.concatenate([[0], np.cumsum(np.where(unfinished, 0, characters[ids]))])

    def _plain(self, text: str) -> TokenIds:
        return np.array(self._model.encode(text), dtype=np.int32)

    def _spell(self, document: bytes) -> TokenIds:
        if self._byte_ids is None:
            raise TokenizerError(
                f"this model cannot spell every byte ({len(document)} bytes would be changed): "
                "it has no byte pieces; use a model trained with byte_fallback"
            )
        return self._byte_ids[np.frombuffer(document, dtype=np.uint8)]

    def _encode_segments(self, document: bytes) -> TokenIds:
        """For models that keep text: segment by segment, and what does not come back is spelled."""
        parts: list[TokenIds] = [np.zeros(0, dtype=np.int32)]
        for segment in _segments(document):
            ids = self._encode_segment(segment)
            parts.append(ids if self.decode(ids) == segment else self._spell(segment))
        return np.concatenate(parts)

    def _encode_segment(self, segment: bytes) -> TokenIds:
        text = segment.decode("utf-8", "surrogateescape")
        if not _UNSPEAKABLE.search(text):
            return self._plain(text)
        parts = _UNSPEAKABLE.split(text)
        ids = [
            self._spell(part.encode("utf-8", "surrogateescape")) if index % 2 else self._plain(part)
            for index, part in enumerate(parts)
            if part
        ]
        return np.concatenate(ids)

    def _encode_runs(self, document: bytes) -> TokenIds:
        """For models that change text: runs of plain words go through SentencePiece, the rest is spelled."""
        if self._byte_ids is None or self.proto.adds_dummy_prefix:
            return self._spell(document)
        text = document.decode("utf-8", "surrogateescape")
        changed = "".join(sorted(character for character in set(text) if self._changes(character)))
        plain = f"[^\\s{re.escape(changed)}]+"
        parts: list[TokenIds] = [np.zeros(0, dtype=np.int32)]
        at = 0
        for match in re.finditer(f"{plain}(?: {plain})*", text):
            ids, run = self._plain(match[0]), match[0].encode("utf-8")
            parts.append(self._spell(text[at : match.start()].encode("utf-8", "surrogateescape")))
            parts.append(ids if self.decode(ids) == run else self._spell(run))
            at = match.end()
        parts.append(self._spell(text[at:].encode("utf-8", "surrogateescape")))
        return np.concatenate(parts)

    def _changes(self, character: str) -> bool:
        """Whether the model may change this character, alone or by joining it to the one before."""
        if character not in self._changed_characters:
            odd = character == SPACE_MARK or "\ud800" <= character <= "\udfff" or unicodedata.combining(character) != 0
            self._changed_characters[character] = odd or self._model.normalize(character) != character
        return self._changed_characters[character]

    def _starts_with_mark(self, ids: npt.NDArray[np.integer]) -> bool:
        if ids.size == 0:
            return False
        piece = self.proto.pieces[int(ids[0])]
        return piece.kind is not PieceKind.BYTE and not piece.silent() and piece.text.startswith(SPACE_MARK)

    @cached_property
    def _characters(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Of each piece: its characters, and whether it goes on with a character that another byte piece began."""
        pieces = self.proto.pieces
        spelled = [piece.kind is PieceKind.BYTE for piece in pieces]
        characters = [1 if byte else 0 if piece.silent() else len(piece.text) for piece, byte in zip(pieces, spelled)]
        continues = [byte and piece.to_bytes()[0] & 0xC0 == 0x80 for piece, byte in zip(pieces, spelled)]
        return np.array(characters, dtype=np.int64), np.array(continues, dtype=np.bool_)

    def _find_byte_ids(self) -> TokenIds | None:
        """Id of each of the 256 bytes, or None if one of them has no byte piece."""
        byte_ids = np.full(256, -1, dtype=np.int32)
        for token, piece in enumerate(self.proto.pieces):
            if piece.kind is PieceKind.BYTE:
                byte_ids[piece.to_bytes()[0]] = token
        return byte_ids if byte_ids.min() >= 0 else None


def train_sentencepiece(text: TrainText, vocab_size: int) -> SentencePieceTokenizer:
    """A byte-fallback BPE of exactly `vocab_size` ids with identity normalisation; the same text gives the same model.

    Ids as in the contest (spec pr549 section 1.3): pad 0, bos 1, eos 2, unk 3, bytes 4..259. Pieces may span words,
    runs of spaces and line ends, which saves a third of the tokens on source code. Of text beyond 6 MB an even sample
    is used.
    Raises `LeakError` for anything but `TrainText`, `TokenizerError` if the text cannot fill the vocabulary.
    """
    return SentencePieceTokenizer(train_lossless_model(text, vocab_size, learning_blocks(text)))


def learning_blocks(text: TrainText) -> list[str]:
    """What a vocabulary is learnt from: all of a small text, an even sample of a large one; `LeakError` if held out."""
    require_train_text(text, "training a tokenizer")
    return list(sample_blocks(text.documents, stride=-(-text.size() // SAMPLE_BYTES)))


def train_lossless_model(text: TrainText, vocab_size: int, blocks: list[str], symbols: Sequence[str] = ()) -> bytes:
    """The `.model` file of exactly `vocab_size` ids learnt from `blocks`, which are of `text`.

    Each of `symbols` gets an id of its own after the control ids. Raises `TokenizerError` as `train_sentencepiece`.
    """
    reserved = RESERVED_IDS + len(symbols)
    if not reserved + 2 <= vocab_size <= 65536:
        raise TokenizerError(f"vocab_size={vocab_size} is outside {reserved + 2}..65536 ({reserved} ids are reserved)")
    settings = {**_LOSSLESS, "user_defined_symbols": list(symbols)}
    # Half of the free ids for characters is plenty; a text without repeats may need all of them.
    kept = keep_frequent(blocks, (vocab_size - reserved) // 2, _COVERAGE)
    model = train_model(kept, vocab_size, text.name, settings)
    found = len(read_model_proto(model).pieces)
    if found != vocab_size:
        model = train_model(keep_frequent(blocks, vocab_size - reserved, 1.0), vocab_size, text.name, settings)
        found = len(read_model_proto(model).pieces)
    if found != vocab_size:
        fits = f"the largest possible is {found}, or " if found >= reserved + 2 else ""
        raise TokenizerError(
            f"{text.name}: {text.size()} bytes are too few for vocab_size={vocab_size}; {fits}use the byte tokenizer"
        )
    return model


_LOSSLESS: dict[str, Any] = {
    "character_coverage": 1.0,
    "required_chars": _REQUIRED,
    "split_by_unicode_script": False,
    "split_by_whitespace": False,
    "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


def train_model(blocks: list[str], vocab_size: int, name: str, settings: Mapping[str, Any]) -> bytes:
    """The `.model` file of a byte-fallback BPE of at most `vocab_size` ids; raises `TokenizerError`.

    `settings` are SentencePiece's own, beside those that all models here share.
    """
    if not blocks:
        raise TokenizerError(f"{name}: no UTF-8 text to learn a vocabulary from; use the byte tokenizer")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(blocks),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            max_sentence_length=8 * BLOCK_CHARACTERS,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            hard_vocab_limit=False,
            num_threads=2,
            minloglevel=2,
            **settings,
        )
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(f"{name}: cannot train a vocabulary of {vocab_size}: {error}") from None
    return model.getvalue()


def _segments(document: bytes) -> Iterator[bytes]:
    """`document` in segments of at most `_SEGMENT` bytes, cut after a line end, else between two characters."""
    start = 0
    while len(document) - start > _SEGMENT:
        end = document.rfind(b"\n", start, start + _SEGMENT) + 1
        if end <= start:
            end = start + _SEGMENT
            while end > start + _SEGMENT - 4 and document[end] & 0xC0 == 0x80:
                end -= 1
        yield document[start:end]
        start = end
    if start < len(document):
        yield document[start:]
