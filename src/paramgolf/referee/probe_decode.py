"""The decoder challenge (R15): code a stretch of the text, decode it with a predictor that never saw the text, compare.

Whoever passes has compressed these tokens to the bits that were credited: no argument about rules is left. Coder and
decoder walk the same chunks as the scorer, and the stretch begins at a chunk drawn at random, so that what adapts is
warm. B lanes, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramgolf.codec.arithmetic import TokenDecoder, TokenEncoder, decode_chunks, encode_chunks
from paramgolf.errors import CodecError
from paramgolf.predict.protocol import Chunk, Float64, Predictor
from paramgolf.referee.probe_passes import copy_of

SLACK_SHARE, SLACK_BITS = 0.005, 96.0  # the code may be this much longer than the credits: rounding, and its last words


@dataclass(frozen=True)
class Decoded:
    """What came of it: tokens of the stretch, how many came back, the bits of the code and those that were credited."""

    tokens: int
    right: int
    code_bits: int
    credited_bits: float
    trouble: str = ""

    def proven(self) -> bool:
        """Everything came back, from a code as short as the credits promised."""
        return self.right == self.tokens and self.code_bits <= self.credited_bits * (1 + SLACK_SHARE) + SLACK_BITS


def decode_stretch(
    coder: Predictor, blind: Predictor, chunks: list[Chunk], credited: list[Float64], start: int, tokens: int
) -> Decoded:
    """Code about `tokens` tokens from chunk `start` on with `coder`, decode them with `blind`.

    Both observed the chunks before, as a decoder has by then; `credited` [B, T] a chunk is what a scorer credited.
    """
    for chunk in chunks[:start]:
        coder.observe(copy_of(chunk))
        blind.observe(copy_of(chunk))
    stretch = _stretch(chunks[start:], tokens)
    count = sum(int(chunk.lengths.sum()) for chunk in stretch)
    promised = sum(_bits(values, chunk) for values, chunk in zip(credited[start:], stretch))
    encoder = TokenEncoder()
    right = 0
    try:
        encode_chunks(coder, map(copy_of, stretch), encoder)
        code = encoder.code()
        for decoded, chunk in zip(decode_chunks(blind, TokenDecoder(code), map(copy_of, stretch)), stretch):
            right += int((decoded.tokens == chunk.tokens)[chunk.real()].sum())
    except CodecError as error:
        return Decoded(count, right, 0, promised, str(error))
    return Decoded(count, right, 8 * len(code), promised)


def _stretch(chunks: list[Chunk], tokens: int) -> list[Chunk]:
    """The first chunks that hold about `tokens` real tokens, the last one cut to a width that is enough."""
    taken: list[Chunk] = []
    for chunk in chunks:
        if tokens <= 0:
            break
        width = max(1, -(-tokens // max(int((chunk.lengths > 0).sum()), 1)))
        part = Chunk(chunk.tokens[:, :width].copy(), np.minimum(chunk.lengths, width), chunk.starts.copy())
        taken.append(part)
        tokens -= int(part.lengths.sum())
        if width < chunk.tokens.shape[1]:
            break
    return taken


def _bits(credited_BT: Float64, chunk: Chunk) -> float:
    return float(-credited_BT[:, : chunk.tokens.shape[1]][chunk.real()].sum() / np.log(2.0))
