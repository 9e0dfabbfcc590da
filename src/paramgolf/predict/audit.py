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

Where a chunk takes long, a *narrow* audit asks for single rows: the blind one and the one again, and with several lanes
the one beside other lanes. That is still a decoder's view of the position; what is left out is the look at all other
credits of the chunk, and which of the hidden tokens a row knew (it counts as the target).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from paramgolf.predict.audit_asks import (
    CREDITS,
    Answer,
    Answers,
    Ask,
    ask_in_random_order,
    blind_chunk,
    credits_of,
    narrow_asks,
    replace_tokens,
    wide_asks,
)
from paramgolf.predict.audit_record import GPU_TOLERANCE, TOLERANCE, Audit, PositionAudit, Tolerance
from paramgolf.predict.protocol import Bool, Chunk, Float64, Predictor

__all__ = [
    "GPU_TOLERANCE",
    "TOLERANCE",
    "Asked",
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


class Asked(NamedTuple):
    """The credits of a chunk [B, T] in nats, its audits, and the seconds that asking for the credits took."""

    realised_BT: Float64
    audits: list[PositionAudit]
    seconds: float


def audit_position(
    predictor: Predictor, chunk: Chunk, realised: Float64, lane: int, position: int, rng: np.random.Generator
) -> PositionAudit:
    """Audit one position of a chunk that was credited with `realised` [B, T]; call it before `observe`.

    Costs five asks of the chunk. `rng` must be unknown to the predictor. Raises `ValueError` for a padding position.
    """
    places = _checked(chunk, [(lane, position)])
    answers = ask_in_random_order(predictor, chunk, places, wide_asks(predictor, chunk, places, rng), [], rng)
    return _position_audit(chunk, np.array(realised, dtype=np.float64), 0, lane, position, answers)


def ask_audited(
    predictor: Predictor,
    chunk: Chunk,
    positions: Sequence[tuple[int, int]],
    rng: np.random.Generator,
    *,
    narrow: bool = False,
    now: Callable[[], float] = time.perf_counter,
) -> Asked:
    """Ask for the credits of a chunk [B, T] and audit some of its (lane, position)s; must be the first ask about it.

    Costs five asks a position (four with a single lane) and one more; a `narrow` audit two rows a position (one with a
    single lane) and one more each. After the blind ones it is drawn which ask gives the credits. `now` tells seconds.
    """
    places = _checked(chunk, positions)
    # In decoding order, so that no ask shows a token that a later blind one still withholds.
    order = sorted(range(len(places)), key=lambda place: places[place][1])
    vocab_size = predictor.vocab_size
    blind = [Ask("blind", place, blind_chunk(chunk, places[place][1], vocab_size, rng), not narrow) for place in order]
    asks = (narrow_asks if narrow else wide_asks)(predictor, chunk, places, rng)
    answers = ask_in_random_order(predictor, chunk, places, asks, blind, rng, now)
    credited = next(answer for ask, answer in answers if ask.place == CREDITS)
    audits = [
        _position_audit(chunk, credits_of(credited), place, lane, position, answers)
        for place, (lane, position) in enumerate(places)
    ]
    return Asked(credits_of(credited), audits, credited.seconds)


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


def _checked(chunk: Chunk, positions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    real = chunk.real()
    for lane, position in positions:
        if not real[lane, position]:
            raise ValueError(f"lane {lane} position {position} is padding (length {chunk.lengths[lane]})")
    return list(positions)


def _position_audit(
    chunk: Chunk,
    credited_BT: Float64,
    place: int,
    lane: int,
    position: int,
    answers: Answers,
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


def _credits_differ(answer: Answer, credited_BT: Float64, where_BT: Bool) -> float:
    if answer.realised_BT is None:
        return 0.0  # a narrow ask
    if answer.realised_BT.shape != credited_BT.shape:
        return math.inf
    return largest_difference(answer.realised_BT[where_BT], credited_BT[where_BT])


def _credit_error(credited: float, row: Float64, token: int) -> float:
    if row.ndim != 1 or not 0 <= token < len(row):
        return math.inf
    return largest_difference(np.array([credited]), row[[token]])
