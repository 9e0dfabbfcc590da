"""What a tokenizer is, and how one is read back from a file or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]


class Tokenizer(Protocol):
    """Bytes to ids and back. `decode(encode_exact(d)) == d` for any bytes whatever.

    A *lossless* tokenizer has `encode == encode_exact`. One that is not (the contest's own models normalise) encodes as
    its model does; `encode_exact` then spells a document that would not come back in byte pieces.
    """

    @property
    def kind(self) -> str: ...  # "sentencepiece", "caseops" (over a transformed text) or "bytes"

    @property
    def vocab_size(self) -> int: ...

    @property
    def boundary_id(self) -> int: ...  # BOS: stands between documents, encodes no bytes

    @property
    def lossless(self) -> bool: ...

    @property
    def digest(self) -> str: ...  # SHA-256 (hex) of the kind and to_bytes()

    def encode(self, document: bytes) -> TokenIds: ...

    def encode_exact(self, document: bytes) -> TokenIds: ...

    def decode(self, ids: npt.ArrayLike) -> bytes: ...  # control ids give no bytes; ids out of range raise

    def to_bytes(self) -> bytes: ...  # the model as it is stored in an artifact


def tokenizer_from_bytes(kind: str, model: bytes) -> Tokenizer:
    """Read back what `to_bytes` gave; raise `TokenizerError` if it is damaged or of an unknown kind."""
    from paramgolf.errors import TokenizerError
    from paramgolf.text.byte_tokenizer import ByteTokenizer
    from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
    from paramgolf.text.sentencepiece_tokenizer import SentencePieceTokenizer

    if kind == "sentencepiece":
        return SentencePieceTokenizer(model)
    if kind == "caseops":
        return CaseOpsTokenizer(model)
    if kind == "bytes":
        return ByteTokenizer.from_bytes(model)
    raise TokenizerError(f"unknown tokenizer kind {kind!r}; known: sentencepiece, caseops, bytes")


def require_caseops(tokenizer: Tokenizer, name: str | Path) -> Tokenizer:
    """Return a tokenizer over CaseOps streams; raise `TokenizerError` for any other."""
    from paramgolf.errors import TokenizerError

    if tokenizer.kind != "caseops":
        raise TokenizerError(
            f"{name} is no CaseOps model: it lacks user-defined symbols for U+E001..U+E004; "
            "leave --caseops out, or train one (--tokenizer train --caseops)"
        )
    return tokenizer


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The byte tokenizer for the word `bytes`, else a SentencePiece `.model` file; raise `TokenizerError`.

    A model that has the four CaseOps operators as symbols of its own is one over CaseOps streams.
    """
    from paramgolf.errors import TokenizerError
    from paramgolf.text.byte_tokenizer import ByteTokenizer
    from paramgolf.text.caseops_tokenizer import has_operators
    from paramgolf.text.model_proto import read_model_proto

    if str(name) == "bytes":
        return ByteTokenizer()
    path = Path(name)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read tokenizer {path}: {error.strerror}; give a .model file or 'bytes'") from None
    try:
        kind = "caseops" if has_operators(read_model_proto(model)) else "sentencepiece"
        return tokenizer_from_bytes(kind, model)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}; give a .model file or 'bytes'") from None
