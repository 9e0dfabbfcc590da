"""Toy scorers with exact figures: positive and negative controls of the black-box tests (spec section 8.4).

Each is a generator of credits over a text of random tokens: `run(world, sequences, declared)`. They are small enough to
be read in a minute, and to be run hundreds of times in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.exhibits.toys.ngram import hashed_ratio, hashed_renormalised
from paramgolf.exhibits.toys.slot import SLOT_1350, SLOT_1430, SLOT_SHARED, SLOT_STRICT
from paramgolf.exhibits.toys.ttt import score_first, then_rescore
from paramgolf.exhibits.toys.world import Credits, Tokens, World, plain
from paramgolf.predict.protocol import Float64, Int64

__all__ = ["TOYS", "Run", "Toy", "toy_row", "toy_score", "toy_scores"]

Run = Callable[[World, Sequence[Tokens], Sequence[int]], Iterator[Credits]]


@dataclass(frozen=True)
class Toy:
    """A toy scorer: its name, what it does in one line, whether it is honest, and its generator of credits.

    `needs_filling`: its tables are empty on a short text, so it is tried on the 401 tokens.
    `free_batch`: how many windows go side by side is a matter of speed, as its authors would say.
    """

    name: str
    summary: str
    honest: bool
    run: Run
    needs_filling: bool = False
    free_batch: bool = True


TOYS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        Toy("plain", "the model alone, sliding", True, plain),
        Toy("slot-1430", "fits an offset and a bias on the targets it then scores (#1430)", False, SLOT_1430.run),
        Toy("slot-shared", "one offset a batch, fitted on all positions (#1209, #1240)", False, SLOT_SHARED.run),
        Toy("slot-1350", "one bias a batch, fitted on each window's context (#1350)", False, SLOT_1350.run),
        Toy("slot-strict", "a bias for each window, fitted on its own context", True, SLOT_STRICT.run),
        Toy("ngram-ratio", "ratio of two hash buckets (#1430, #727)", False, hashed_ratio, True, False),
        Toy("ngram-renormalised", "the buckets divided by their sum", True, hashed_renormalised, True, False),
        Toy("ttt-score-first", "learns from each chunk once it is scored", True, score_first, False, False),
        Toy(
            "ttt-rescore",
            "learns from all of the text, then scores it (#1430, #991)",
            False,
            then_rescore,
            False,
            False,
        ),
    )
}


def toy_scores(world: World, run: Run, sequences: Sequence[Tokens], declared: Sequence[int]) -> list[Float64]:
    """Nats that each token of each sequence costs [len - 1]; NaN where a target was never credited."""
    cost = [np.full(len(tokens) - 1, np.nan) for tokens in sequences]
    for credits in run(world, sequences, declared):
        for which in np.unique(credits.sequence_K).tolist():
            mine = credits.sequence_K == which
            target_K = credits.target_K[mine]
            token_K = np.asarray(sequences[which][target_K], dtype=np.int64)
            cost[which][target_K - 1] = -credits.claimed_KV[mine][np.arange(len(token_K)), token_K]
    return cost


def toy_score(world: World, run: Run, tokens: Tokens, declared: int) -> Float64:
    """The same for one sequence whose full length is `declared` targets; `tokens` may be cut short."""
    return toy_scores(world, run, [tokens], [declared])[0]


def toy_row(world: World, run: Run, tokens: Int64, target: int) -> Float64:
    """What each token would be credited with at `target` [V] nats, by a run over `tokens`."""
    for credits in run(world, [tokens], [len(tokens) - 1]):
        place = np.flatnonzero(credits.target_K == target)
        if len(place):
            return np.asarray(credits.claimed_KV[place[0]], dtype=np.float64)
    raise ValueError(f"target {target} of {len(tokens) - 1} is never credited")
