"""The byte budget is an input that is met.

What gives, in this order: documents of carried text, from the end; then integers of ±1, if they may be pruned and
pruning all of them is enough; then coarseness, 1 to `MAX_COARSENESS`; then bits, one fewer for every integer with the
coarseness starting again at 1. Where steps are allocated (`allocation.py`), coarseness alone gives, both ways: what is
left of the budget is filled with finer steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from paramgolf.errors import BudgetError
from paramgolf.squeeze.landing import Range, land, slack_of
from paramgolf.squeeze.prune import fewest

MAX_COARSENESS = 4.0
_ROUNDS = 24  # of the search for a coarseness; a few are enough where sizes fall smoothly
_CLOSE_TEXT = 0.002  # of the budget: text is packed anew for every size
_CLOSE = 0.0005
_NARROW = 1e-4  # octaves: below it a coarser step changes nothing


@dataclass(frozen=True)
class Setting:
    """How far a model is squeezed: documents carried, factor on the steps, bits taken from every integer, ±1 made 0."""

    documents: int
    coarseness: float = 1.0
    fewer_bits: int = 0
    pruned: int = 0


Size = Callable[[Setting], int]
ByTensor = Callable[[Setting], Mapping[str, int]]


def fit_to_budget(
    size: Size,
    budget: int,
    *,
    documents: Sequence[int],
    bits: int,
    ones: Callable[[], int] | None = None,
    by_tensor: ByTensor | None = None,
) -> Setting:
    """The finest setting whose `size` in bytes is at most `budget`; where text gives, to within 0.2 % of the budget.

    `documents` are the tokens of each that may be carried; `bits` is the widest integer, so at most `bits - 2` can be
    taken away; `ones` says how many ±1 may be pruned at the finest steps, and is asked only if text was not enough.
    Pruned are the fewest that are enough, or a number that ends within 0.05 % of the budget. When coarseness has to
    give, the result is within 0.05 % of the budget where sizes fall smoothly, and within about 1 % where all rows step
    together, unless the model cannot fill it at one bit more. `size` is asked once for a setting. Raises `BudgetError`
    with the smallest possible size when nothing fits.
    """
    size = cache(size)
    most = size(Setting(len(documents)))
    if most <= budget:
        return Setting(len(documents))
    least = size(Setting(0)) if documents else most
    if least <= budget:
        return Setting(_most_documents(size, budget, least, documents, most))
    if ones is not None:
        pruned = fewest(lambda count: size(Setting(0, pruned=count)), ones(), budget, _CLOSE)
        if pruned is not None:
            return Setting(0, pruned=pruned)
    for fewer_bits in range(bits - 1):
        coarsest = Setting(0, MAX_COARSENESS, fewer_bits)
        smallest = size(coarsest)
        if smallest <= budget:
            return _finest(size, budget, coarsest)
    raise _hopeless(budget, smallest, f"2 bits, coarseness {MAX_COARSENESS:g}, no carried text", coarsest, by_tensor)


def fit_allocated(
    size: Size,
    budget: int,
    *,
    documents: Sequence[int],
    allocated: Range,
    by_tensor: ByTensor | None = None,
) -> Setting:
    """The same where steps are allocated: the file ends within `slack_of(budget)` below the budget.

    `allocated` tells the bytes that a coarseness is expected to take. All documents stay if the file then fits at
    coarseness 1, and steps grow finer until it is full; else as many stay as fit there; without any the steps grow
    coarser. Only a model whose finest steps do not fill the budget ends below that. `size` is asked once for a setting.
    Raises `BudgetError` as `fit_to_budget`.
    """
    size = cache(size)
    count = len(documents)
    most = size(Setting(count))
    if most > budget and count:
        least = size(Setting(0))
        if least <= budget:
            count = _most_documents(size, budget, least, documents, most)
        else:
            count = 0
    coarseness = land(lambda c: size(Setting(count, c)), budget, slack_of(budget), allocated)
    if coarseness is None:
        coarsest = Setting(0, allocated.coarsest)
        says = f"steps times {allocated.coarsest:g}, no carried text"
        raise _hopeless(budget, size(coarsest), says, coarsest, by_tensor)
    return Setting(count, coarseness)


def _hopeless(budget: int, smallest: int, how: str, setting: Setting, by_tensor: ByTensor | None) -> BudgetError:
    """By how much the budget is missed, the three tensors that cost most, and what no weight costs."""
    dear = ""
    if by_tensor is not None:
        sizes = by_tensor(setting)
        found = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:3]
        rest = smallest - sum(sizes.values())
        dear = "\nmost bytes go to " + ", ".join(f"{name} ({taken:,})" for name, taken in found)
        dear += f"; {rest:,} are no weights: code, tokenizer and tables"
    return BudgetError(
        f"a budget of {budget:,} bytes is {smallest - budget:,} too small: this model takes at least {smallest:,} "
        f"bytes ({how}); use a smaller model or a larger budget{dear}"
    )


def _most_documents(size: Size, budget: int, least: int, lengths: Sequence[int], most: int) -> int:
    """A longest run of documents that fits, or one that comes close: none take `least` bytes, all take `most`.

    Every size asked for packs the text again, so the first guesses take bytes to be proportional to tokens; halving
    ends the search where they are not.
    """
    ends = [0, *accumulate(lengths)]
    fits, fits_size, too_many, too_many_size = 0, least, len(lengths), most
    for attempt in range(len(lengths)):
        if too_many - fits <= 1 or fits_size >= (1 - _CLOSE_TEXT) * budget:
            break
        share = (budget - fits_size) / (too_many_size - fits_size)
        guess = bisect_right(ends, ends[fits] + share * (ends[too_many] - ends[fits])) - 1
        middle = (fits + too_many) // 2 if attempt % 3 == 2 else min(max(guess, fits + 1), too_many - 1)
        found = size(Setting(middle))
        if found <= budget:
            fits, fits_size = middle, found
        else:
            too_many, too_many_size = middle, found
    return fits


def _finest(size: Size, budget: int, coarsest: Setting) -> Setting:
    """Search the coarseness between 1 and `coarsest`, which fits; sizes may fall unevenly, so what is kept was asked.

    An entropy coder saves about a bit an integer with every octave of the step, so the size is nearly a straight line
    over the logarithm of the coarseness: guesses follow that line, and halving ends the search where it is none.
    """
    start = Setting(0, 1.0, coarsest.fewer_bits)
    fine, fine_size, coarse, coarse_size = 0.0, size(start), math.log2(coarsest.coarseness), size(coarsest)
    if fine_size <= budget:
        return start
    best, aim = coarsest, (1 - _CLOSE / 2) * budget
    for attempt in range(_ROUNDS):
        if coarse_size >= (1 - _CLOSE) * budget or coarse - fine < _NARROW:
            break
        share = (fine_size - aim) / (fine_size - coarse_size) if attempt % 3 < 2 else 0.5
        octaves = fine + min(max(share, 0.02), 0.98) * (coarse - fine)
        guess = Setting(0, 2**octaves, coarsest.fewer_bits)
        found = size(guess)
        if found <= budget:
            best, coarse, coarse_size = guess, octaves, found
        else:
            fine, fine_size = octaves, found
    return best
