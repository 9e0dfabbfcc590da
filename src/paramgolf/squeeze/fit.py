"""The byte budget is an input that is met.

What gives, in this order: documents of carried text, from the end; then coarseness, 1 to `MAX_COARSENESS`; then bits,
one fewer for every integer with the coarseness starting again at 1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from paramgolf.errors import BudgetError

MAX_COARSENESS = 4.0
_ROUNDS = 24  # of bisection; it ends earlier once a result is close enough
_CLOSE = 0.002  # of the budget


@dataclass(frozen=True)
class Setting:
    """How far a model is squeezed: documents carried, factor on the steps, bits taken from every integer."""

    documents: int
    coarseness: float = 1.0
    fewer_bits: int = 0


Size = Callable[[Setting], int]


def fit_to_budget(size: Size, budget: int, *, documents: Sequence[int], bits: int) -> Setting:
    """The finest setting whose `size` in bytes is at most `budget`; where text gives, to within 0.2 % of the budget.

    `documents` are the tokens of each that may be carried; `bits` is the widest integer, so at most `bits - 2` can be
    taken away. When coarseness has to give, the result is within about 1 % of the budget, unless the model cannot fill
    it at one bit more. Raises `BudgetError` with the smallest possible size when nothing fits.
    """
    most = size(Setting(len(documents)))
    if most <= budget:
        return Setting(len(documents))
    least = size(Setting(0)) if documents else most
    if least <= budget:
        return Setting(_most_documents(size, budget, least, documents, most))
    for fewer_bits in range(bits - 1):
        coarsest = Setting(0, MAX_COARSENESS, fewer_bits)
        smallest = size(coarsest)
        if smallest <= budget:
            return _finest(size, budget, coarsest)
    raise BudgetError(
        f"a budget of {budget:,} bytes is too small: this model takes at least {smallest:,} bytes "
        f"(2 bits, coarseness {MAX_COARSENESS:g}, no carried text); use a smaller model or a larger budget"
    )


def _most_documents(size: Size, budget: int, least: int, lengths: Sequence[int], most: int) -> int:
    """A longest run of documents that fits, or one that comes close: none take `least` bytes, all take `most`.

    Every size asked for packs the text again, so the first guesses take bytes to be proportional to tokens; halving
    ends the search where they are not.
    """
    ends = [0, *accumulate(lengths)]
    fits, fits_size, too_many, too_many_size = 0, least, len(lengths), most
    for attempt in range(len(lengths)):
        if too_many - fits <= 1 or fits_size >= (1 - _CLOSE) * budget:
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
    """Bisect the coarseness; sizes need not fall evenly, so what is kept was measured."""
    best, too_fine = coarsest, 1.0
    start = Setting(0, 1.0, coarsest.fewer_bits)
    if size(start) <= budget:
        return start
    for _ in range(_ROUNDS):
        middle = Setting(0, (too_fine * best.coarseness) ** 0.5, coarsest.fewer_bits)
        found = size(middle)
        if found > budget:
            too_fine = middle.coarseness
            continue
        best = middle
        if found >= (1 - _CLOSE) * budget:
            break
    return best
