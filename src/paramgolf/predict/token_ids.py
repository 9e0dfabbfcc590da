"""Token ids that a predictor does not know are refused before it changes."""

from __future__ import annotations

from paramgolf.errors import TokenizerError
from paramgolf.predict.protocol import Chunk


def refuse_unknown(chunk: Chunk, vocab_size: int) -> None:
    """Raise `TokenizerError` where a real token of the chunk is outside 0..`vocab_size` - 1; padding may be."""
    tokens = chunk.tokens[chunk.real()]
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise TokenizerError(
            f"token ids {int(tokens.min())}..{int(tokens.max())} are not in the vocabulary 0..{vocab_size - 1}"
        )
