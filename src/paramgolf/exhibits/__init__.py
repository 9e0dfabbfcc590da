"""The illegal predictors: real techniques of the field that are not compression, each with the rule that must catch it.

They wrap any honest base. They exist to test the referee and to show what such a score is worth; nothing legal imports
them. `docs/legality.md` tells the story behind each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paramgolf.exhibits.hashed_cache import HashedCache
from paramgolf.exhibits.hashed_ngram import hashed_727, hashed_887, hashed_1430, hashed_add_one
from paramgolf.exhibits.lane_leak import LaneLeak
from paramgolf.exhibits.min_over_scorers import MinOverScorers
from paramgolf.exhibits.peek import Peek, RenormalisedPeek
from paramgolf.exhibits.rescore import rescore
from paramgolf.exhibits.tables import BaseFactory, Documents
from paramgolf.exhibits.target_gate import TargetGate
from paramgolf.exhibits.train_first import TrainFirst
from paramgolf.exhibits.two_pass import two_pass
from paramgolf.exhibits.update_before_scoring import UpdateBeforeScoring
from paramgolf.predict.protocol import Predictor

__all__ = ["EXHIBITS", "Exhibit"]


@dataclass(frozen=True)
class Exhibit:
    """A rogue: its name, the rule that must catch it, one line on what it does, and how it is built.

    `build(base, held_out)` wraps fresh predictors that `base()` gives; `held_out` is the token ids of every document
    about to be scored, which an honest predictor is never shown.
    """

    name: str
    rule: str
    summary: str
    build: Callable[[BaseFactory, Documents], Predictor]


def _slot(base: BaseFactory, _: Documents) -> Predictor:
    from paramgolf.exhibits.slot import Slot  # compiled kernels, which a list of names can do without

    return Slot(base())


def _slot_shared(base: BaseFactory, _: Documents) -> Predictor:
    from paramgolf.exhibits.slot_shared import SlotShared

    return SlotShared(base())


def _gated_tilt(base: BaseFactory, _: Documents) -> Predictor:
    from paramgolf.exhibits.gated_tilt import UnspelledGatedTilt

    return UnspelledGatedTilt(base())


def _two_orders(base: BaseFactory, held_out: Documents) -> Predictor:
    from paramgolf.exhibits.two_orders import TwoOrders

    return TwoOrders(base(), held_out)


_ALL = (
    Exhibit(
        "peek", "credit-is-row", "credits the true token with more than its row holds", lambda base, _: Peek(base())
    ),
    Exhibit(
        "renormalised-peek",
        "blind-to-target",
        "lifts the true token in its row and renormalises",
        lambda base, _: RenormalisedPeek(base()),
    ),
    Exhibit(
        "update-before-scoring",
        "predict-is-pure",
        "trains on a chunk when asked about it, then answers (#568, #991)",
        lambda base, _: UpdateBeforeScoring(base),
    ),
    Exhibit(
        "train-first",
        "score-before-update",
        "trains on the whole held-out text before scoring it (#152, #462)",
        TrainFirst,
    ),
    Exhibit(
        "slot",
        "blind-to-future",
        "SLOT as published: fits a delta and a bias on the targets it then scores (#1430)",
        _slot,
    ),
    Exhibit(
        "slot-shared",
        "blind-to-future",
        "one delta for a batch of windows, fitted on their neighbours' targets (#1350)",
        _slot_shared,
    ),
    Exhibit(
        "ttt-rescore",
        "single-pass",
        "trains by the rules in a first pass, reports the second with the weights that came out (#1430, #991)",
        rescore,
    ),
    Exhibit(
        "hashed-cache",
        "sums-to-one",
        "ratio of two hashed buckets at the true token (#727, #779)",
        lambda base, _: HashedCache(base()),
    ),
    Exhibit(
        "hashed-727",
        "sums-to-one",
        "hashed n-grams of orders 2 to 7, ratio of buckets (#702, #727)",
        lambda base, _: hashed_727(base()),
    ),
    Exhibit(
        "hashed-887",
        "sums-to-one",
        "the same with seven primes (#887)",
        lambda base, _: hashed_887(base()),
    ),
    Exhibit(
        "hashed-add-one",
        "sums-to-one",
        "hashed n-grams with add-one smoothing: smaller sums, still not one (#1185's rule on #727's tables)",
        lambda base, _: hashed_add_one(base()),
    ),
    Exhibit(
        "hashed-1430",
        "sums-to-one",
        "hashed n-grams of orders 2 to 22, counted once a window (#1430)",
        lambda base, _: hashed_1430(base()),
    ),
    Exhibit(
        "min-over-scorers",
        "counterfactual-sum",
        "takes the better of two predictors, token by token (#573, #659)",
        lambda base, _: MinOverScorers(base),
    ),
    Exhibit(
        "two-pass",
        "single-pass",
        "fills a cache in a first pass over the text, reports the second (#846)",
        two_pass,
    ),
    Exhibit(
        "target-gate",
        "blind-to-target",
        "tilts towards a hint only where the realised token suits it (#1420, #2140)",
        lambda base, _: TargetGate(base()),
    ),
    Exhibit(
        "gated-tilt",
        "sums-to-one",
        "hints shown only to targets of their class: the fault of #2140 as published, made visible on short texts",
        _gated_tilt,
    ),
    Exhibit(
        "two-orders",
        "score-before-update",
        "hints made along another order of documents than the one that is scored (#2140 as corrected)",
        _two_orders,
    ),
    Exhibit(
        "lane-leak",
        "lanes-apart",
        "learns from the tokens other lanes hold in the same chunk (#136, #2139)",
        lambda base, _: LaneLeak(base()),
    ),
)
EXHIBITS: dict[str, Exhibit] = {exhibit.name: exhibit for exhibit in _ALL}
