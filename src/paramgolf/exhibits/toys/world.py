"""The world of the toy scorers: a random model without training, cut into sliding windows, a batch of them at a time.

Shapes: W windows of a batch, L positions of a window, V vocabulary, D width, K credited targets. Nats, float64.
Position i of a window that begins at s reads token s + i and predicts token s + i + 1. Every window but the first
scores its last `stride` positions.

The reading of spec section 8.4 that gives its figures: the mean of the embeddings runs over the window up to the
position itself, and the token before the window counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from paramgolf.exhibits.tables import log_softmax
from paramgolf.predict.protocol import Bool, Float64, Int64

SOFTCAP = 30.0


class Tokens(Protocol):
    """What a toy may do with tokens: ask how many, and read some of them by index. An int64 array will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class World:
    """Embeddings [V, D], output matrix [V, D], and how the text is cut."""

    embedding_VD: Float64
    output_VD: Float64
    window: int
    stride: int
    batch: int

    @property
    def vocab_size(self) -> int:
        return len(self.embedding_VD)

    def hidden(self, inputs_WL: Int64) -> Float64:
        """Hidden states [W, L, D]; causal: position i depends on inputs 0..i of its window."""
        e_WLD = self.embedding_VD[inputs_WL]
        before_WLD = np.concatenate([np.zeros_like(e_WLD[:, :1]), e_WLD[:, :-1]], axis=1)
        mean_WLD = np.cumsum(e_WLD, axis=1) / np.arange(1, e_WLD.shape[1] + 1)[None, :, None]
        h_WLD = e_WLD + 0.5 * before_WLD + 0.25 * mean_WLD
        return np.asarray(h_WLD / np.sqrt((h_WLD**2).mean(axis=-1, keepdims=True) + 1e-6), dtype=np.float64)

    def capped(self, hidden: Float64) -> Float64:
        """tanh(output . hidden / 30) [..., V]; times 30 these are the logits."""
        return np.tanh(hidden @ self.output_VD.T / SOFTCAP)

    def logits(self, hidden: Float64) -> Float64:
        return SOFTCAP * self.capped(hidden)


def small_world() -> World:
    """V = 16, D = 8, windows of 16, stride 4, batches of 4 windows (spec section 8.4)."""
    embedding_VD = np.random.default_rng(7).normal(size=(16, 8)) * 0.9
    return World(embedding_VD, 0.15 * embedding_VD, window=16, stride=4, batch=4)


def large_world(batch: int = 32) -> World:
    """V = 1024, D = 64, windows of 256, stride 64: the ratios of the real thing (spec section 8.4, detail)."""
    embedding_VD = np.random.default_rng(3).normal(size=(1024, 64))
    return World(embedding_VD, 0.02 * embedding_VD, window=256, stride=64, batch=batch)


def small_tokens() -> Int64:
    """The 65 uniform random tokens on which flips and swaps are tried."""
    return np.random.default_rng(11).integers(0, 16, 65)


def long_tokens() -> Int64:
    """The 401 uniform random tokens, drawn after the 65, on which scores are compared."""
    rng = np.random.default_rng(11)
    rng.integers(0, 16, 65)
    return rng.integers(0, 16, 401)


@dataclass(frozen=True)
class Batch:
    """Windows that are worked on side by side; unknown tokens (beyond a cut text) read as 0 and are not `known`."""

    sequence_W: Int64
    start_W: Int64
    inputs_WL: Int64
    targets_WL: Int64
    known_WL: Bool
    scored_WL: Bool

    @property
    def first_W(self) -> Bool:
        """Which windows begin their text."""
        return np.asarray(self.start_W == 0, dtype=np.bool_)


@dataclass(frozen=True)
class Credits:
    """Which targets were credited, from which rows: `claimed_KV` are the nats that each token would have been credited
    with (log-probabilities, if the scorer is honest)."""

    sequence_K: Int64
    target_K: Int64
    claimed_KV: Float64


def batches(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Batch]:
    """The windows of all sequences in order, `world.batch` at a time.

    Windows follow from the `declared` number of targets of each sequence: starts 0, stride, ... where a whole window
    fits. A sequence that is cut short has the windows that still score something.
    """
    places = [
        (which, start)
        for which, (tokens, targets) in enumerate(zip(sequences, declared))
        for start in range(0, targets - world.window + 1, world.stride)
        if len(tokens) > start + 1 + (world.window - world.stride if start else 0)
    ]
    for first in range(0, len(places), world.batch):
        yield _batch(world, sequences, np.array(places[first : first + world.batch], dtype=np.int64))


def _batch(world: World, sequences: Sequence[Tokens], places_W2: Int64) -> Batch:
    sequence_W, start_W = places_W2.T
    columns_L = np.arange(world.window)
    text_WM = np.zeros((len(places_W2), world.window + 1), dtype=np.int64)
    length_W = np.zeros(len(places_W2), dtype=np.int64)
    for row, (which, start) in enumerate(places_W2.tolist()):
        length_W[row] = min(world.window, len(sequences[which]) - 1 - start)
        part = np.arange(start, start + int(length_W[row]) + 1)
        text_WM[row, : len(part)] = sequences[which][part]
    known_WL = columns_L < length_W[:, None]
    scored_WL = known_WL & ((columns_L >= world.window - world.stride) | (start_W == 0)[:, None])
    return Batch(sequence_W, start_W, text_WM[:, :-1], text_WM[:, 1:], known_WL, scored_WL)


def credited(batch: Batch, claimed_WLV: Float64) -> Credits:
    """The credits of a batch's scored positions."""
    window_K, position_K = np.nonzero(batch.scored_WL)
    target_K = batch.start_W[window_K] + position_K + 1
    return Credits(batch.sequence_W[window_K], target_K, claimed_WLV[window_K, position_K])


def plain(world: World, sequences: Sequence[Tokens], declared: Sequence[int]) -> Iterator[Credits]:
    """The model alone, sliding: the honest scorer that all others begin from."""
    for batch in batches(world, sequences, declared):
        yield credited(batch, log_softmax(world.logits(world.hidden(batch.inputs_WL))))
