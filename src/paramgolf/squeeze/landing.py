"""Finding the coarseness at which a file is just under its budget, with few files made.

Every size that is asked for rounds and packs the whole model. But the bytes of entropies are known beforehand for every
coarseness, and the packed size runs nearly parallel to them: so the search walks along predicted bytes, at first at one
byte a byte, then along the line through what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SLACK = 20_000  # bytes below the budget; less where the budget is small
SLACK_SHARE = 0.002
_ROUNDS = 16
_HALVINGS = 50


@dataclass(frozen=True)
class Range:
    """Coarseness may be `finest` to `coarsest`; `predicted` bytes of it fall from one to the other."""

    predicted: Callable[[float], float]
    finest: float
    coarsest: float

    def coarseness(self, predicted: float) -> float:
        """The finest coarseness that is predicted to take at most so many bytes, the coarsest if none does."""
        fine, coarse = math.log2(self.finest), math.log2(self.coarsest)
        if self.predicted(self.finest) <= predicted:
            return self.finest
        for _ in range(_HALVINGS):
            middle = (fine + coarse) / 2
            fine, coarse = (fine, middle) if self.predicted(2**middle) <= predicted else (middle, coarse)
        return float(2**coarse)


def slack_of(budget: int) -> int:
    """Bytes that may be left of a budget: 20,000, or 0.2 % if that is less."""
    return min(SLACK, int(SLACK_SHARE * budget))


def land(size: Callable[[float], int], budget: int, slack: int, allowed: Range) -> float | None:
    """A coarseness whose `size` is at most the budget and, where sizes allow it, at most `slack` below.

    The finest if even that fits, None if not even the coarsest does. What is returned was asked for.
    """
    asked = {1.0: size(1.0)}
    for attempt in range(_ROUNDS):
        fits = {c: found for c, found in asked.items() if found <= budget}
        best = max(fits, key=lambda c: fits[c], default=None)
        if best is not None and (fits[best] >= budget - slack or best == allowed.finest):
            return best
        guess = _guess(asked, budget, budget - slack / 2, allowed, attempt)
        if guess in asked:
            break
        asked[guess] = size(guess)
    fitting = [c for c, found in asked.items() if found <= budget]
    if fitting:
        return max(fitting, key=lambda c: asked[c])
    return allowed.coarsest if size(allowed.coarsest) <= budget else None


def _guess(asked: dict[float, int], budget: int, aim: float, allowed: Range, attempt: int) -> float:
    """Where the line through the nearest sizes above and below meets the aim, in predicted bytes."""
    above = max((c for c, found in asked.items() if found > budget), default=None)
    below = min((c for c, found in asked.items() if found <= budget), default=None)
    if above is None or below is None:
        known = above if below is None else below
        assert known is not None
        reach = 1.0 if attempt < 2 else 2.0 ** (attempt - 1)  # further each time, should predictions be far off
        return allowed.coarseness(allowed.predicted(known) + reach * (aim - asked[known]))
    fine, coarse = allowed.predicted(above), allowed.predicted(below)
    share = (aim - asked[below]) / (asked[above] - asked[below]) if attempt % 3 < 2 else 0.5
    return allowed.coarseness(coarse + min(max(share, 0.02), 0.98) * (fine - coarse))
