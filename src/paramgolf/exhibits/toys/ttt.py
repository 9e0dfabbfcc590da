"""Toy test-time training: a bias [V] that takes one SGD step a chunk of 16 tokens, on the chunk's mean cross-entropy.

Shapes: T targets of a chunk, V vocabulary. Each row's context is the last 16 inputs at most. Scored before it is
learnt from, a chunk is honestly scored; scored again with the last bias, it is not (spec section 8.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.exhibits.toys.world import Credits, Tokens, World
from paramgolf.predict.protocol import Float64, Int64

CHUNK, RATE = 16, 0.5


class Bias:
    """The bias that learns; one for the whole run."""

    def __init__(self, vocab_size: int) -> None:
        self.bias_V = np.zeros(vocab_size)

    def rows(self, logits_TV: Float64) -> Float64:
        """Log-probabilities [T, V]."""
        return log_softmax(logits_TV + self.bias_V)

    def learn(self, logits_TV: Float64, targets_T: Int64) -> None:
        """One SGD step on the mean cross-entropy."""
        error_TV = np.exp(self.rows(logits_TV))
        error_TV[np.arange(len(targets_T)), targets_T] -= 1.0
        self.bias_V = self.bias_V - RATE * error_TV.mean(axis=0)


def score_first(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """Scores a chunk, then learns from it."""
    return learning(world, sequences, Bias(world.vocab_size))


def then_rescore(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """Learns from the whole text, then scores it with what it learnt (#1430's last pass, #991)."""
    bias = Bias(world.vocab_size)
    for _ in learning(world, sequences, bias):
        pass
    for which, targets_T, logits_TV in chunks(world, sequences):
        yield Credits(np.full(len(targets_T), which), targets_T, bias.rows(logits_TV))


def learning(world: World, sequences: Sequence[Tokens], bias: Bias) -> Iterator[Credits]:
    """Credits chunk by chunk; `bias` moves after each."""
    for which, targets_T, logits_TV in chunks(world, sequences):
        yield Credits(np.full(len(targets_T), which), targets_T, bias.rows(logits_TV))
        bias.learn(logits_TV, np.asarray(sequences[which][targets_T], dtype=np.int64))


def chunks(world: World, sequences: Sequence[Tokens]) -> Iterator[tuple[int, Int64, Float64]]:
    """Which sequence, the target indices [T], and the model's logits [T, V] of each chunk."""
    for which, tokens in enumerate(sequences):
        for first in range(1, len(tokens), CHUNK):
            targets_T = np.arange(first, min(first + CHUNK, len(tokens)))
            yield which, targets_T, _context_logits(world, tokens, targets_T)


def _context_logits(world: World, tokens: Tokens, targets_T: Int64) -> Float64:
    """Logits [T, V]: each row's window is padded behind its last input, which a causal model does not see."""
    first_T = np.maximum(0, targets_T - world.window)
    columns_L = np.arange(world.window)
    inside_TL = columns_L < (targets_T - first_T)[:, None]
    inputs_TL = np.where(inside_TL, first_T[:, None] + columns_L, 0)
    inputs_TL = np.asarray(tokens[inputs_TL], dtype=np.int64)
    return world.logits(world.hidden(inputs_TL)[np.arange(len(targets_T)), targets_T - first_T - 1])
