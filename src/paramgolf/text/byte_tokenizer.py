"""One token a byte: the contest's byte260 vocabulary (spec pr549 section 1.3)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TokenizerError
from paramgolf.text.piece_bytes import PieceBytes
from paramgolf.text.tokenizer import TokenIds

FIRST_BYTE_ID = 4
_MODEL = b'{"kind": "bytes", "vocab_size": 260}\n'
_PIECES = PieceBytes([b""] * FIRST_BYTE_ID + [bytes([byte]) for byte in range(256)])


class ByteTokenizer:
    """Byte b is id b + 4; ids 0..3 are pad, bos, eos, unk and stand for no bytes. Lossless for any bytes."""

    kind = "bytes"
    vocab_size = 260
    boundary_id = 1
    lossless = True
    digest = hashlib.sha256(b"bytes\0" + _MODEL).hexdigest()
    piece_bytes = _PIECES

    def encode(self, document: bytes) -> TokenIds:
        """Ids int32 [len(document)]."""
        return np.frombuffer(document, dtype=np.uint8).astype(np.int32) + np.int32(FIRST_BYTE_ID)

    def encode_exact(self, document: bytes) -> TokenIds:
        """The same as `encode`."""
        return self.encode(document)

    def decode(self, ids: npt.ArrayLike) -> bytes:
        """Bytes of the ids; raise `TokenizerError` for an id outside 0..259."""
        return _PIECES.decode(ids)

    def to_bytes(self) -> bytes:
        """A short JSON note of the kind; there is nothing else to keep."""
        return _MODEL

    @classmethod
    def from_bytes(cls, model: bytes) -> ByteTokenizer:
        """Read back `to_bytes`; raise `TokenizerError` for anything else."""
        if model != _MODEL:
            raise TokenizerError(
                f"not a byte tokenizer: expected {_MODEL!r}, found {model[:60]!r} ({len(model)} bytes)"
            )
        return cls()
