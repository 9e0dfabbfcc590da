"""The text that toy tokens stand for: sixteen pieces of one to five bytes, so that bytes can be miscounted."""

from __future__ import annotations

import numpy as np

from paramgolf.predict.protocol import Int64

PIECES = ("a", "e", "n", "t", " a", " the", "ing", "ß", "é", " über", "€", ".", "\n", " in", "s", "r")


def text_of(ids: Int64) -> bytes:
    """The UTF-8 text of token ids 0..15."""
    return "".join(PIECES[token] for token in ids.tolist()).encode()


def byte_weights(tokens: Int64) -> Int64:
    """Bytes of each target [N] of N + 1 tokens."""
    weight_V = np.array([len(piece.encode()) for piece in PIECES], dtype=np.int64)
    return np.asarray(weight_V[tokens[1:]], dtype=np.int64)


def spaces_counted_twice(tokens: Int64) -> Int64:
    """The field's favourite mistake: a leading space belongs to the piece, and is added once more (#1698)."""
    spaced_V = np.array([piece.startswith(" ") for piece in PIECES], dtype=np.int64)
    return np.asarray(byte_weights(tokens) + spaced_V[tokens[1:]], dtype=np.int64)
