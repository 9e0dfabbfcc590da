"""The spot-audit: what a scorer checks at positions that the predictor cannot foresee.

Shapes: B lanes, T positions, V vocabulary. Everything is in nats.

At position (b, t) the row is asked for several times. First blind, as a decoder would: only the tokens before t are
true. Then, in random order, with the true chunk (twice or more), with only token t replaced, with the tokens after t
replaced, with the other lanes replaced. All of these rows must be one and the same. Each ask also gives the credits of
the whole chunk, so one perturbed tail tests every earlier position of its lane too.

Why blind asks come first: a predictor could keep, inside `predict`, the chunk that it was asked about, and answer every
later ask from it. Against the row that it gave before it had been shown token t, that does not help. `ask_audited`
therefore makes the credited ask itself; `audit_position` comes after it and cannot see such a memory. Rules: C1-C3 of
the formal conditions (#1017); tests R3, R4, R5 and the decoder challenge R15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.audit_record import GPU_TOLERANCE, TOLERANCE, Audit, PositionAudit, Tolerance
from paramgolf.predict.protocol import Bool, Chunk, Float64, Predictor

__all__ = [
    "GPU_TOLERANCE",
    "TOLERANCE",
    "Audit",
    "PositionAudit",
    "Tolerance",
    "ask_audited",
    "audit_position",
    "choose_positions",
    "largest_difference",
    "replace_tokens",
    "sum_error",
]

FLOOR = -60.0  # nats; below this (1e-26) two entries count as equal, so that -inf never makes a NaN
_SHUFFLED = ("true", "target", "future", "lanes")


def audit_position(
    predictor: Predictor, chunk: Chunk, realised: Float64, lane: int, position: int, rng: np.random.Generator
) -> PositionAudit:
    """Audit one position of a chunk that was credited with `realised` [B, T]; call it before `observe`.

    Costs five asks of the chunk. `rng` must be unknown to the predictor. Raises `ValueError` for a padding position.
    """
    _, audits = _asked(predictor, chunk, [(lane, position)], rng, np.array(realised, dtype=np.float64))
    return audits[0]


def ask_audited(
    predictor: Predictor, chunk: Chunk, positions: Sequence[tuple[int, int]], rng: np.random.Generator
) -> tuple[Float64, list[PositionAudit]]:
    """Ask for the credits of a chunk [B, T] and audit some of its (lane, position)s; must be the first ask about it.

    Costs five asks a position (four with a single lane) and one more. After the blind ones it is drawn which ask gives
    the credits.
    """
    return _asked(predictor, chunk, positions, rng, None)


def choose_positions(chunk: Chunk, share: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Each real position of the chunk with probability `share`, independently."""
    chosen = chunk.real() & (rng.random(chunk.tokens.shape) < share)
    return [(int(lane), int(position)) for lane, position in np.argwhere(chosen)]


def largest_difference(one: Float64, other: Float64) -> float:
    """max |one - other| in nats with entries clipped at `FLOOR`; inf if shapes differ or anything is NaN or +inf."""
    if one.shape != other.shape or not (_at_most_finite(one) and _at_most_finite(other)):
        return math.inf
    return float(np.max(np.abs(np.maximum(one, FLOOR) - np.maximum(other, FLOOR)), initial=0.0))


def _at_most_finite(values: Float64) -> bool:
    return bool((values < np.inf).all())  # false for NaN as well


def sum_error(row: Float64) -> float:
    """|sum(exp(row)) - 1|, inf if the row holds a NaN."""
    with np.errstate(over="ignore"):
        total = float(np.exp(row).sum())
    return abs(total - 1.0) if math.isfinite(total) else math.inf


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


@dataclass(frozen=True)
class _Ask:
    kind: str
    place: int  # which of the audited positions; -1 for the ask that gives the credits
    chunk: Chunk


@dataclass(frozen=True)
class _Answer:
    realised_BT: Float64
    rows: dict[int, Float64]  # by place


def _asked(
    predictor: Predictor,
    chunk: Chunk,
    positions: Sequence[tuple[int, int]],
    rng: np.random.Generator,
    credited_BT: Float64 | None,
) -> tuple[Float64, list[PositionAudit]]:
    real = chunk.real()
    for lane, position in positions:
        if not real[lane, position]:
            raise ValueError(f"lane {lane} position {position} is padding (length {chunk.lengths[lane]})")
    asks = [_Ask("true", -1, chunk)]
    for place, (lane, position) in enumerate(positions):
        kinds = [kind for kind in _SHUFFLED if kind != "lanes" or len(chunk.lengths) > 1]
        asks += [_Ask(kind, place, _perturbed(chunk, kind, lane, position, predictor, rng)) for kind in kinds]
    blind = []
    if credited_BT is None:
        # In decoding order, so that no ask shows a token that a later blind one still withholds.
        for place in sorted(range(len(positions)), key=lambda place: positions[place][1]):
            blind.append(_Ask("blind", place, _withheld(chunk, positions[place][1], predictor.vocab_size, rng)))
    series = blind + [asks[index] for index in rng.permutation(len(asks))]
    answers = [(ask, _answer(predictor, ask, positions)) for ask in series]
    if credited_BT is None:
        credited_BT = next(answer.realised_BT for ask, answer in answers if ask.place == -1)
    return credited_BT, [
        _position_audit(chunk, credited_BT, place, lane, position, answers)
        for place, (lane, position) in enumerate(positions)
    ]


def _withheld(chunk: Chunk, position: int, vocab_size: int, rng: np.random.Generator) -> Chunk:
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


def _answer(predictor: Predictor, ask: _Ask, positions: Sequence[tuple[int, int]]) -> _Answer:
    # Copies both ways: the predictor may reuse its buffers, and may not touch the referee's tokens.
    copy = Chunk(ask.chunk.tokens.copy(), ask.chunk.lengths.copy(), ask.chunk.starts.copy())
    rows = predictor.predict(copy)
    wanted = range(len(positions)) if ask.kind == "true" else [ask.place]
    row_of = {place: np.array(rows.row(*positions[place]), dtype=np.float64) for place in wanted}
    return _Answer(np.array(rows.realised(), dtype=np.float64), row_of)


def _position_audit(
    chunk: Chunk,
    credited_BT: Float64,
    place: int,
    lane: int,
    position: int,
    answers: list[tuple[_Ask, _Answer]],
) -> PositionAudit:
    true = [answer for ask, answer in answers if ask.kind == "true"]
    row = true[0].rows[place]
    token = int(chunk.tokens[lane, position])
    repeat = max(
        max(largest_difference(answer.rows[place], row), _credits_differ(answer, credited_BT, chunk.real()))
        for answer in true
    )
    target, future, lanes, blind, sums = 0.0, 0.0, 0.0, 0.0, sum_error(row)
    earlier = np.zeros(chunk.tokens.shape, dtype=np.bool_)
    earlier[lane, :position] = True
    own = np.zeros_like(earlier)
    own[lane] = chunk.real()[lane]
    for ask, answer in answers:
        if ask.place != place or ask.kind == "true":
            continue
        moved = largest_difference(answer.rows[place], row)
        sums = max(sums, sum_error(answer.rows[place]))
        if ask.kind == "blind":
            blind = moved
            continue
        others = _credits_differ(answer, credited_BT, chunk.real() & ~own)
        if ask.kind == "target":
            target = moved
            future = max(future, _credits_differ(answer, credited_BT, earlier))
            lanes = max(lanes, others)
        elif ask.kind == "future":
            earlier_and_now = earlier.copy()
            earlier_and_now[lane, position] = True
            future = max(future, moved, _credits_differ(answer, credited_BT, earlier_and_now))
            lanes = max(lanes, others)
        else:
            lanes = max(lanes, moved, _credits_differ(answer, credited_BT, own))
    if blind > 10 * max(target, future, lanes):
        # No replacement moves the row, yet it was another before the token was shown: predict remembers the token.
        target = blind
    credit = _credit_error(credited_BT[lane, position], row, token)
    return PositionAudit(lane, position, sums, credit, repeat, target, future, lanes)


def _credits_differ(answer: _Answer, credited_BT: Float64, where_BT: Bool) -> float:
    if answer.realised_BT.shape != credited_BT.shape:
        return math.inf
    return largest_difference(answer.realised_BT[where_BT], credited_BT[where_BT])


def _credit_error(credited: float, row: Float64, token: int) -> float:
    if row.ndim != 1 or not 0 <= token < len(row):
        return math.inf
    return largest_difference(np.array([credited]), row[[token]])
