"""The parts of a SentencePiece model file that decide what bytes its pieces stand for.

The file is a protocol buffer (sentencepiece_model.proto: pieces = 1, trainer_spec = 2, normalizer_spec = 3). It is read
here directly, since sentencepiece's own message classes need the protobuf package, which nothing else here needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from paramgolf.errors import TokenizerError

SPACE_MARK = "\u2581"


class PieceKind(IntEnum):
    """What a piece is; numbers of sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary, its text as the model spells it (a space is U+2581)."""

    text: str
    kind: PieceKind

    def silent(self) -> bool:
        """Whether it stands for no bytes: control, unknown, unused."""
        return self.kind in (PieceKind.UNKNOWN, PieceKind.CONTROL, PieceKind.UNUSED)

    def to_bytes(self) -> bytes:
        """The bytes it stands for; raises `TokenizerError` for a byte piece that is not spelled `<0xXX>`."""
        if self.silent():
            return b""
        if self.kind is not PieceKind.BYTE:
            return self.text.replace(SPACE_MARK, " ").encode("utf-8", "surrogatepass")
        try:
            if len(self.text) == 6 and self.text[:3] == "<0x" and self.text[5] == ">":
                return bytes.fromhex(self.text[3:5])
        except ValueError:
            pass
        raise TokenizerError(f"byte piece {self.text!r} is not of the form <0xXX>")


@dataclass(frozen=True)
class ModelProto:
    """Vocabulary and normalisation settings of a model file."""

    pieces: tuple[Piece, ...]
    normalises: bool
    removes_extra_whitespace: bool
    adds_dummy_prefix: bool
    escapes_whitespace: bool

    def keeps_text(self) -> bool:
        """Whether the settings leave every character as it is."""
        changes = self.normalises or self.removes_extra_whitespace or self.adds_dummy_prefix
        return self.escapes_whitespace and not changes


def read_model_proto(model: bytes) -> ModelProto:
    """Parse a `.model` file; raise `TokenizerError` if it is not one."""
    try:
        fields = list(_fields(model))
        pieces = tuple(_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes))
        normaliser = dict(_fields(b"".join(v for n, v in fields if n == 3 and isinstance(v, bytes))))
    except (ValueError, IndexError) as error:
        raise TokenizerError(f"not a SentencePiece model ({len(model)} bytes): {error}") from None
    if not pieces:
        raise TokenizerError(f"not a SentencePiece model ({len(model)} bytes): it has no pieces")
    return ModelProto(
        pieces=pieces,
        normalises=bool(normaliser.get(2, b"")),
        removes_extra_whitespace=bool(normaliser.get(4, 1)),
        adds_dummy_prefix=bool(normaliser.get(3, 1)),
        escapes_whitespace=bool(normaliser.get(5, 1)),
    )


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    text, kind = fields.get(1, b""), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has fields of the wrong type")
    return Piece(text.decode("utf-8"), PieceKind(kind))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message; varints as int, everything else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {at} runs past the end ({len(message)} bytes)")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} is too long")
