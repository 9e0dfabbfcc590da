"""Counterfactual targets (R3): at one place credit every token as if it were the true one; the credits must sum to one.

B lanes, T positions of a chunk, V vocabulary; nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.audit import largest_difference, replace_tokens
from paramgolf.predict.protocol import Chunk, Float64, Predictor
from paramgolf.referee.probe_passes import Place, Probed, as_array, copy_of

FIRST_CANDIDATES = 64
CUT_TOLERANCE = 1e-4  # nats; an honest neural model moves 1e-6..1e-5 when a tensor's shape changes


@dataclass(frozen=True)
class Counterfactual:
    """One place where every token (or `asked` of them) was credited in turn, and what their probabilities sum to."""

    place: Place
    total: float
    asked: int
    cut: bool  # whether the chunk could be cut after the place


def counterfactual_pass(
    predictor: Predictor, probed: Probed, places: Sequence[Place], most: int, rng: np.random.Generator
) -> list[Counterfactual]:
    """At each place credit every token as if it were the true one, in random order and in the same state.

    The chunk is cut after the place, which is cheap and changes nothing for an honest predictor; if it changes the true
    token's credit, whole chunks are asked for. First `FIRST_CANDIDATES` tokens are tried, half the likeliest and half
    random ones; only if one of them is credited with something else than the row's entry are all tried (of a
    vocabulary larger than `most` again a sample, whose random half is scaled up).
    """
    found = []
    for step, chunk in enumerate(probed.chunks):
        for place in places:
            if place[0] == step:
                cut = _cut_after(chunk, place[2])
                same = _credit_moves(predictor, chunk, cut, place) <= CUT_TOLERANCE
                total, asked = _credit_all(predictor, cut if same else chunk, place, most, rng)
                found.append(Counterfactual(place, total, asked, same))
        predictor.observe(copy_of(chunk))
    return found


def _credit_moves(predictor: Predictor, chunk: Chunk, cut: Chunk, place: Place) -> float:
    """How far the true token's credit moves when the chunk ends with it, in nats."""
    _, lane, position = place
    one, two = (as_array(predictor.predict(copy_of(part)).realised())[lane, [position]] for part in (chunk, cut))
    return largest_difference(one, two)


def _credit_all(
    predictor: Predictor, chunk: Chunk, place: Place, most: int, rng: np.random.Generator
) -> tuple[float, int]:
    """The (estimated) sum over all tokens of what each would be credited with, and how many were asked."""
    # The row is taken with another target, so that a row made for the true one is not what the sum is judged by.
    row = _row_for_another_target(predictor, chunk, place[1], place[2], rng)
    token = int(chunk.tokens[place[1:]])
    for size in (min(FIRST_CANDIDATES, most), most):
        head, tail, weight = _tokens_to_ask(row, token, size, rng)
        credit = _credits_of(predictor, chunk, place, [*head, *tail], rng)
        asked = list(credit)
        if largest_difference(np.array([credit[v] for v in asked]), row[asked]) <= CUT_TOLERANCE:
            break  # whichever token is the true one gets the row's entry: no need to ask for the others
    beyond = {v: float(np.exp(credit[v]) - np.exp(row[v])) for v in credit}
    total = np.exp(row).sum() + sum(beyond[v] for v in head) + weight * sum(beyond[v] for v in tail)
    return float(total), len(credit)


def _credits_of(
    predictor: Predictor, chunk: Chunk, place: Place, candidates: list[int], rng: np.random.Generator
) -> dict[int, float]:
    """What each candidate is credited with, if it stands at the place; asked in random order."""
    _, lane, position = place
    credit = {}
    for candidate in rng.permutation(candidates).tolist():
        asked = copy_of(chunk)
        asked.tokens[lane, position] = candidate
        credit[candidate] = float(predictor.predict(asked).realised()[lane, position])
    return credit


def _row_for_another_target(
    predictor: Predictor, chunk: Chunk, lane: int, position: int, rng: np.random.Generator
) -> Float64:
    where = np.zeros(chunk.tokens.shape, dtype=np.bool_)
    where[lane, position] = True
    return as_array(predictor.predict(replace_tokens(chunk, where, predictor.vocab_size, rng)).row(lane, position))


def _tokens_to_ask(row: Float64, token: int, most: int, rng: np.random.Generator) -> tuple[list[int], list[int], float]:
    """Tokens asked for certain, tokens sampled from the rest, and how many of the rest each sampled one stands for."""
    order = np.argsort(-row)
    if len(row) <= most:
        return order.tolist(), [], 0.0
    head = list(dict.fromkeys([*order[: most // 2].tolist(), token]))
    rest = np.setdiff1d(order, head)
    tail = rng.permutation(rest)[: most - len(head)].tolist()
    return head, tail, len(rest) / max(len(tail), 1)


def _cut_after(chunk: Chunk, position: int) -> Chunk:
    return Chunk(chunk.tokens[:, : position + 1].copy(), np.minimum(chunk.lengths, position + 1), chunk.starts.copy())
