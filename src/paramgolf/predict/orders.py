"""Orders in which documents are scored, and what it takes to tell a decoder.

An order is a pure function of the documents' lengths. What a decoder is told besides the tokens is charged by `plan`;
the contest's convention charges nothing for an order (rules.md, V12), so `permutation_bits` says what it leaves out.

Legend: D documents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RecipeError
from paramgolf.predict.protocol import Int64

if TYPE_CHECKING:
    from paramgolf.recipe import ScoreRecipe

Order = Literal["stream", "longest-first"]
OrderClass = Literal["stream", "permuted-stateless", "permuted-stateful"]
ORDERS: tuple[Order, ...] = get_args(Order)


def processing_order(order: str, lengths: npt.ArrayLike) -> Int64:
    """The documents in the order in which they are scored [D]: as they come, or from the longest to the shortest, equal
    ones as they come. Raises `RecipeError` for an order that is not known."""
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if order == "stream":
        return np.arange(len(sizes), dtype=np.int64)
    if order == "longest-first":
        return np.argsort(-sizes, kind="stable").astype(np.int64)
    raise RecipeError(f"score.order={order!r} is none of {', '.join(ORDERS)}")


def permutation_bits(order: str, lengths: npt.ArrayLike) -> float:
    """Bits that name the permutation to a decoder who knows which lengths there are, not whose: at most log2 D!.

    log2 of D! over the product of m! for lengths that occur m times; 0 in the stream's own order.
    """
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if order == "stream" or len(sizes) < 2:
        return 0.0
    _, equal = np.unique(sizes, return_counts=True)
    nats = math.lgamma(len(sizes) + 1) - sum(math.lgamma(count + 1) for count in equal.tolist())
    return max(nats, 0.0) / math.log(2.0)


def carries(adapt: str, settings: ScoreRecipe, lanes: int) -> bool:
    """Whether the score of a document may depend on documents scored before it; True where that is not known.

    In one lane the model's window reaches over boundaries; in several each document begins anew, so the model alone
    carries nothing, and neither do adapters and deltas that begin anew with it.
    """
    if lanes == 1:
        return True
    if adapt == "lora":
        return settings.lora_keeps_inner or settings.global_documents > 0
    return adapt not in ("none", "slot")


def order_class(order: str, *, carries: bool) -> OrderClass:
    """The class of rules.md, V12; `carries`: whether the score of a document depends on documents scored before it.

    Without, the order changes no credit, so it need not be described.
    """
    if order == "stream":
        return "stream"
    return "permuted-stateful" if carries else "permuted-stateless"
