"""Integers of ±1 become 0, the cheapest first, until the file fits (spec pr1430.md 3.5).

A 1 that becomes 0 costs the square of its row's step. The sort is stable: where all steps are equal, as under the
published floor, the first tensors go first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from paramgolf.squeeze.quantized import Quantized


class Ones:
    """The ±1 of quantised tensors, in the order in which they go."""

    def __init__(self, tensors: Mapping[str, Quantized]) -> None:
        self._tensors = dict(tensors)
        places = {name: np.flatnonzero(np.abs(tensor.values) == 1) for name, tensor in tensors.items()}
        costs = [
            np.square(tensor.scales.astype(np.float64))[places[name] // tensor.values.shape[1]]
            for name, tensor in tensors.items()
        ]
        self._places = np.concatenate([np.zeros(0, np.int64), *places.values()])
        self._ends = np.cumsum([len(found) for found in places.values()])
        self._order = np.argsort(np.concatenate([np.zeros(0), *costs]), kind="stable")

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._places)

    def without(self, pruned: int) -> dict[str, Quantized]:
        """All tensors, the `pruned` cheapest of their ±1 made 0; those given stay as they are."""
        chosen = np.sort(self._order[:pruned])
        result: dict[str, Quantized] = {}
        for index, (name, tensor) in enumerate(self._tensors.items()):
            first = 0 if index == 0 else self._ends[index - 1]
            low, high = np.searchsorted(chosen, [first, self._ends[index]])
            values = tensor.values.copy()
            values.reshape(-1)[self._places[chosen[low:high]]] = 0
            result[name] = replace(tensor, values=values)
        return result


def fewest(size: Callable[[int], int], count: int, budget: int, close: float = 0.0) -> int | None:
    """The smallest number of 1..`count` whose `size` is at most `budget`, by halving; None if not even all are enough.

    Nought is known to be too few. Halving ends early at a size within the share `close` below the budget.
    """
    if count == 0 or size(count) > budget:
        return None
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        found = size(middle)
        if found > budget:
            low = middle + 1
        else:
            high = middle
            if found > (1 - close) * budget:
                break
    return high
