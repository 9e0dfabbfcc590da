"""Toy scorers: positive and negative controls of the black-box tests.

`TOYS` are the nine with published figures (spec of #1430, section 8.4), `CHEATS` further ones. Each makes a generator
of credits over a text of random tokens: `run(world, sequences, declared)`. They are small enough to be read in a
minute, and to be run hundreds of times in one.
"""

from __future__ import annotations

from paramgolf.exhibits.toys.cheats import CHEATS
from paramgolf.exhibits.toys.ngram import hashed_ratio, hashed_renormalised
from paramgolf.exhibits.toys.slot import SLOT_1350, SLOT_1430, SLOT_SHARED, SLOT_STRICT
from paramgolf.exhibits.toys.toy import Run, Toy, toy_row, toy_score, toy_scores, toy_stream
from paramgolf.exhibits.toys.ttt import score_first, then_rescore
from paramgolf.exhibits.toys.world import plain

__all__ = ["CHEATS", "TOYS", "Run", "Toy", "toy_row", "toy_score", "toy_scores", "toy_stream"]


def _cache(name: str, summary: str, honest: bool, run: Run) -> Toy:
    return Toy(name, summary, honest, lambda: run, needs_filling=True, free_batch=False)


def _chunked(name: str, summary: str, honest: bool, run: Run) -> Toy:
    return Toy(name, summary, honest, lambda: run, free_batch=False, sliding=False)


TOYS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        Toy("plain", "the model alone, sliding", True, lambda: plain),
        Toy("slot-1430", "fits an offset and a bias on the targets it scores (#1430)", False, lambda: SLOT_1430.run),
        Toy("slot-shared", "one offset a batch, fitted on all positions (#1209)", False, lambda: SLOT_SHARED.run),
        Toy("slot-1350", "one bias a batch, fitted on each window's context (#1350)", False, lambda: SLOT_1350.run),
        Toy("slot-strict", "a bias for each window, fitted on its own context", True, lambda: SLOT_STRICT.run),
        _cache("ngram-ratio", "a ratio of two hash buckets (#1430, #727)", False, hashed_ratio),
        _cache("ngram-renormalised", "the buckets divided by their sum", True, hashed_renormalised),
        _chunked("ttt-score-first", "learns from each chunk once it is scored", True, score_first),
        _chunked("ttt-rescore", "learns from all of the text, then scores it (#1430, #991)", False, then_rescore),
    )
}
