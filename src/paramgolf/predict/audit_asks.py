"""The asks of an audit: which chunk is shown, what is wanted of it, in which order.

Shapes: B lanes, T positions. Everything is in nats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.protocol import Bool, Chunk, Float64, Predictor

_WIDE = ("true", "target", "future", "lanes")
CREDITS, AGAIN = -1, -2  # places of asks that are about no single position


@dataclass(frozen=True)
class Ask:
    """One question about a chunk; `kind` says which of its tokens are not the true ones."""

    kind: str
    place: int  # which of the audited positions, or CREDITS, or AGAIN
    chunk: Chunk
    whole: bool  # whether the credits of the whole chunk are wanted too


@dataclass(frozen=True)
class Answer:
    """Credits of the chunk, if they were wanted, rows at the places, and the seconds that it took."""

    realised_BT: Float64 | None
    rows: dict[int, Float64]  # by place
    seconds: float


Answers = list[tuple[Ask, Answer]]


def wide_asks(predictor: Predictor, chunk: Chunk, places: list[tuple[int, int]], rng: np.random.Generator) -> list[Ask]:
    """The credited ask, and for every place the true chunk again and each kind of replacement; all with credits."""
    asks = [Ask("true", CREDITS, chunk, True)]
    for place, (lane, position) in enumerate(places):
        kinds = [kind for kind in _WIDE if kind != "lanes" or len(chunk.lengths) > 1]
        asks += [Ask(kind, place, _perturbed(chunk, kind, lane, position, predictor, rng), True) for kind in kinds]
    return asks


def narrow_asks(
    predictor: Predictor, chunk: Chunk, places: list[tuple[int, int]], rng: np.random.Generator
) -> list[Ask]:
    """The credited ask, the true chunk once more, and for every place other lanes' tokens, if any; rows alone."""
    asks = [Ask("true", CREDITS, chunk, True), Ask("true", AGAIN, chunk, False)]
    if len(chunk.lengths) > 1:
        for place, (lane, position) in enumerate(places):
            asks.append(Ask("lanes", place, _perturbed(chunk, "lanes", lane, position, predictor, rng), False))
    return asks


def ask_in_random_order(
    predictor: Predictor,
    chunk: Chunk,
    places: list[tuple[int, int]],
    asks: list[Ask],
    blind: list[Ask],
    rng: np.random.Generator,
    now: Callable[[], float] = time.perf_counter,
) -> Answers:
    """The blind asks as they come, then the others shuffled."""
    series = blind + [asks[index] for index in rng.permutation(len(asks))]
    return [(ask, _answer(predictor, ask, places, now)) for ask in series]


def credits_of(answer: Answer) -> Float64:
    """The credits of an answer to an ask that wanted them."""
    assert answer.realised_BT is not None
    return answer.realised_BT


def blind_chunk(chunk: Chunk, position: int, vocab_size: int, rng: np.random.Generator) -> Chunk:
    """Only the tokens before `position` are true, in every lane; the rest is noise, never the truth by chance."""
    hidden = chunk.real()
    hidden[:, :position] = False
    noise_BT = chunk.tokens + rng.integers(1, max(vocab_size, 2), chunk.tokens.shape)
    return Chunk(np.where(hidden, noise_BT % vocab_size, chunk.tokens), chunk.lengths.copy(), chunk.starts.copy())


def _perturbed(
    chunk: Chunk, kind: str, lane: int, position: int, predictor: Predictor, rng: np.random.Generator
) -> Chunk:
    where = np.zeros(chunk.tokens.shape, dtype=np.bool_)
    if kind == "target":
        where[lane, position] = True
    elif kind == "future":
        where[lane, position + 1 :] = True
    elif kind == "lanes":
        where[:] = True
        where[lane] = False
    return replace_tokens(chunk, where, predictor.vocab_size, rng)


def _answer(predictor: Predictor, ask: Ask, positions: Sequence[tuple[int, int]], now: Callable[[], float]) -> Answer:
    # Copies both ways: the predictor may reuse its buffers, and may not touch the referee's tokens.
    copy = Chunk(ask.chunk.tokens.copy(), ask.chunk.lengths.copy(), ask.chunk.starts.copy())
    begin = now()
    rows = predictor.predict(copy)
    wanted = range(len(positions)) if ask.kind == "true" else [ask.place]
    row_of = {place: np.array(rows.row(*positions[place]), dtype=np.float64) for place in wanted}
    realised_BT = np.array(rows.realised(), dtype=np.float64) if ask.whole else None
    return Answer(realised_BT, row_of, now() - begin)


def replace_tokens(chunk: Chunk, where_BT: Bool, vocab_size: int, rng: np.random.Generator) -> Chunk:
    """The chunk with other tokens at the real positions of `where_BT`, each surely another than before (if V > 1).

    Half of them are uniform, half are drawn from the chunk's own tokens: a predictor should not know them from text.
    """
    tokens_BT = chunk.tokens.copy()
    where_BT = where_BT & chunk.real()
    old = tokens_BT[where_BT]
    if old.size and vocab_size > 1:
        uniform = (old + rng.integers(1, vocab_size, old.size)) % vocab_size
        drawn = rng.choice(chunk.tokens[chunk.real()], old.size)
        tokens_BT[where_BT] = np.where((rng.random(old.size) < 0.5) | (drawn == old), uniform, drawn)
    return Chunk(tokens_BT, chunk.lengths.copy(), chunk.starts.copy())
