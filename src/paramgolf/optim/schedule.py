"""What the clock does to the learning rate."""

from __future__ import annotations


def warmdown_scale(fraction: float, warmdown: float) -> float:
    """Factor 0..1 on all learning rates when `fraction` of the time budget is used.

    One until the last `warmdown` share of the budget, then a straight line to zero at its end. It depends on the clock
    alone, so a slow machine cools down as fully as a fast one.
    """
    left = 1.0 - min(1.0, max(0.0, fraction))
    return 1.0 if left >= warmdown else left / warmdown
