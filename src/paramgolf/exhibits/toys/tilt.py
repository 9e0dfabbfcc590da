"""Toys of the tilt with published figures: what all outcomes together are credited with (spec pr2140.md, 6.4 and 6.6).

Each sum comes from running the predictor once for every possible outcome; `closed_form` is the spec's formula for it.
Legend: V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from paramgolf.exhibits.gated_tilt import GatedTilt
from paramgolf.predict.protocol import Chunk, Float64, Predictor, TableRows
from paramgolf.predict.tilt import Expert, TiltPredictor
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_experts import Pieces, within_word_expert, word_start_expert
from paramgolf.predict.tilt_hints import Hints, no_hints

BOUNDARY = 1
# Tokens 1..8: a boundary, words that begin (" the", " a", " of"), pieces that go on; token 0 does not occur.
PIECES = Pieces(
    ("", "", " the", " a", " of", "re", "d", "x", "y"), np.array([2, 2, 1, 1, 1, 0, 0, 0, 0], dtype=np.int8)
)
SHARE_V = np.array([0.0, 0.05, 0.15, 0.15, 0.10, 0.25, 0.10, 0.10, 0.10])
INSIDE_A_WORD = (1, 2, 5, 6, 3, 7, 2, 5, 6, 4, 8, 2)
AFTER_TWO_ROUNDS = (1, 2, 5, 6, 3, 7, 2, 5, 6, 3, 7, 2, 5, 6)
TOKEN_BOOST, WORD_BOOST = 2.625, 0.75


@dataclass(frozen=True)
class GatedToy:
    """A prefix and the experts that are on, with the row and the sum that the spec gives."""

    name: str
    prefix: tuple[int, ...]
    experts: tuple[str, ...]

    def credits(self) -> Float64:
        """What each of the nine tokens would be credited with after the prefix [V]: nine runs."""
        found = np.zeros(len(SHARE_V))
        for target in range(len(SHARE_V)):
            predictor = self.predictor()
            predictor.observe(_lane(self.prefix, start=True))
            with np.errstate(divide="ignore"):  # token 0 has no share
                found[target] = math.exp(predictor.predict(_lane((target,), start=False)).realised()[0, 0])
        return found

    def predictor(self) -> GatedTilt:
        """A fresh one, over a model that gives the spec's row everywhere; orders 3 and 2 as there."""
        makers = {
            "token": Expert(ContextHints(9, BOUNDARY, exact=2), 0.8, TOKEN_BOOST),
            "within": within_word_expert(PIECES, BOUNDARY),
            "start": word_start_expert(PIECES, words=1),
        }
        experts = {name: expert for name, expert in makers.items() if name in self.experts}
        token, within, start = (experts.get(name) for name in ("token", "within", "start"))
        return GatedTilt(OneRow(SHARE_V), PIECES, token=token, within=within, start=start)


GATED_TOYS = {
    toy.name: toy
    for toy in (
        GatedToy("within", INSIDE_A_WORD, ("token", "within")),
        GatedToy("word-start", AFTER_TWO_ROUNDS, ("start",)),
        GatedToy("all", AFTER_TWO_ROUNDS, ("token", "within", "start")),
        GatedToy("token-only", AFTER_TWO_ROUNDS, ("token",)),
        GatedToy("token-only, new context", INSIDE_A_WORD, ("token",)),
    )
}


def normaliser(share: float, boost: float) -> float:
    """Z = 1 + q (e^boost - 1)."""
    return 1.0 + share * math.expm1(boost)


def closed_form(not_shown: float, share: float, boost: float) -> float:
    """1 + P(N) (1 - 1/Z): what all tokens get if those of mass `not_shown` are spared a hint of probability `share`."""
    return 1.0 + not_shown * (1.0 - 1.0 / normaliser(share, boost))


class OneRow:
    """The same distribution everywhere."""

    def __init__(self, share_V: Float64) -> None:
        self.vocab_size = len(share_V)
        self._share_V = np.asarray(share_V, dtype=np.float64)

    def predict(self, chunk: Chunk) -> TableRows:
        with np.errstate(divide="ignore"):
            log_V = np.log(self._share_V)
        return TableRows(np.broadcast_to(log_V, (*chunk.tokens.shape, self.vocab_size)), chunk)

    def observe(self, chunk: Chunk) -> None:
        pass


class CopyHint:
    """Names the first token of a document that it was shown, if any."""

    def __init__(self, shown: int | None = None) -> None:
        self.vocab_size = 2
        self._shown = shown

    def hints(self, chunk: Chunk, lane: int) -> Hints:
        found = no_hints(int(chunk.lengths[lane]))
        if self._shown is not None:
            for part, value in zip(found, (self._shown, 1, 1), strict=True):
                part[:] = value
        return found

    def observe(self, chunk: Chunk) -> None:
        self._shown = int(chunk.tokens[0, 0])


def two_orders_total(*, one_order: bool = False, trust: float = 0.9) -> float:
    """The scores of all four outcomes of two documents S and L of one binary token each, added up (6.6).

    L is scored first, with a hint that copies S, which comes before it in the stream; then S, by a model that has
    learnt L. Each trusts what it copies to the share `trust`. With `one_order` the hints follow the scores.
    """
    boost = math.log(trust / (1.0 - trust))  # from one half to `trust`
    total = 0.0
    for short, long in itertools.product(range(2), repeat=2):
        hints = CopyHint(None if one_order else short)  # made in the order of the stream: S is known before L
        first = _score(TiltPredictor(OneRow(np.full(2, 0.5)), [Expert(hints, 0.8, boost)]), long)
        learnt = TiltPredictor(OneRow(np.full(2, 0.5)), [Expert(CopyHint(), 0.8, boost)])
        learnt.observe(_lane((long,), start=True))
        total += first * _score(learnt, short)
    return total


def _score(predictor: Predictor, token: int) -> float:
    return math.exp(predictor.predict(_lane((token,), start=True)).realised()[0, 0])


def _lane(tokens: tuple[int, ...], *, start: bool) -> Chunk:
    row = np.array([tokens], dtype=np.int64)
    return Chunk(row, np.array([row.shape[1]], dtype=np.int64), np.array([start]))
