"""Shared by the exhibits: the base's rows as one table, and a predictor that forwards everything to a base.

Shapes: B lanes, T positions, V vocabulary; log-probabilities in nats, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, Rows

BaseFactory = Callable[[], Predictor]
Documents = Sequence[Int64]

SMALLEST = 1e-300  # so that the log of a count of zero stays a number


class Wrapped:
    """Forwards both verbs to one honest base; an exhibit overrides what it abuses."""

    def __init__(self, base: Predictor) -> None:
        self.base = base

    @property
    def vocab_size(self) -> int:
        return self.base.vocab_size

    def predict(self, chunk: Chunk) -> Rows:
        return self.base.predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        self.base.observe(chunk)


def table_of(rows: Rows, chunk: Chunk, vocab_size: int) -> Float64:
    """All rows of a chunk [B, T, V]; padding positions hold the uniform distribution."""
    logprob_BTV = np.full((*chunk.tokens.shape, vocab_size), -np.log(vocab_size))
    for lane, position in np.argwhere(chunk.real()):
        logprob_BTV[lane, position] = rows.row(int(lane), int(position))
    return logprob_BTV


def log_softmax(logits: Float64) -> Float64:
    """Normalised log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def blend(logprob: Float64, other: Float64, weight: Float64 | float) -> Float64:
    """log((1 - weight) exp(logprob) + weight other), where `other` holds probabilities."""
    return np.asarray(np.log(np.maximum((1.0 - weight) * np.exp(logprob) + weight * other, SMALLEST)), dtype=np.float64)


def document_chunks(documents: Documents, lanes: int, length: int) -> list[Chunk]:
    """The held-out documents one after the other in the first of `lanes` lanes: how a rogue reads them beforehand."""
    chunks = []
    for document in documents:
        for first in range(0, len(document), length):
            part = np.asarray(document[first : first + length], dtype=np.int64)
            tokens = np.zeros((lanes, length), dtype=np.int64)
            tokens[0, : len(part)] = part
            alone = np.arange(lanes) == 0
            chunks.append(Chunk(tokens, np.where(alone, len(part), 0), alone & (first == 0)))
    return chunks
