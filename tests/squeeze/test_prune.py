"""±1 go cheapest first, no more of them than needed, and a stable order breaks ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.squeeze.fit import MAX_COARSENESS, Setting, fit_to_budget
from paramgolf.squeeze.prune import Ones, fewest
from paramgolf.squeeze.quantized import Quantized


def tensor(values, scales):
    array = np.array(values, np.int8)
    return Quantized(array, np.array(scales, np.float32), 6, array.shape)


def test_the_search_of_the_spec():
    """Spec pr1430.md 11: size(n) = 100 - 3n, five candidates, target 92: probes 2 (94), 4 (88), 3 (91) find 3."""
    asked = []

    def size(count):
        asked.append((count, 100 - 3 * count))
        return asked[-1][1]

    assert fewest(size, 5, 92) == 3
    assert asked == [(5, 85), (2, 94), (4, 88), (3, 91)]


@given(st.integers(1, 400), st.integers(1, 9), st.integers(0, 4000))
def test_the_smallest_number_that_is_enough(count, each, over):
    """For sizes that fall, the number found fits and one less does not; None exactly if all are not enough."""
    size = 10_000

    def size_of(pruned):
        return size - each * pruned

    budget = size - 1 - over
    found = fewest(size_of, count, budget)
    if found is None:
        assert size_of(count) > budget
    else:
        assert size_of(found) <= budget < size_of(found - 1)


def test_close_enough_ends_the_search():
    """A size within the wanted share of the budget is taken, though fewer would do."""
    asked = []

    def size(count):
        asked.append(count)
        return 1_000_000 - count

    found = fewest(size, 100_000, 950_100, 0.0005)
    assert 0.9995 * 950_100 < size(found) <= 950_100
    assert len(asked) < 10


def test_cheapest_rows_first_and_ties_in_order():
    """Costs are squares of steps; equal ones go in the order of tensors, rows and columns."""
    a = tensor([[1, 2, -1], [0, 1, 1]], [0.5, 0.25])
    b = tensor([[-1, 1]], [0.25])
    ones = Ones({"a": a, "b": b})
    assert ones.count == 6
    expected = [
        ([[1, 2, -1], [0, 1, 1]], [[-1, 1]]),
        ([[1, 2, -1], [0, 0, 1]], [[-1, 1]]),
        ([[1, 2, -1], [0, 0, 0]], [[-1, 1]]),
        ([[1, 2, -1], [0, 0, 0]], [[0, 1]]),
        ([[1, 2, -1], [0, 0, 0]], [[0, 0]]),
        ([[0, 2, -1], [0, 0, 0]], [[0, 0]]),
        ([[0, 2, 0], [0, 0, 0]], [[0, 0]]),
    ]
    for pruned, (first, second) in enumerate(expected):
        found = ones.without(pruned)
        assert found["a"].values.tolist() == first
        assert found["b"].values.tolist() == second
        assert found["a"].scales is a.scales
    assert a.values.tolist() == [[1, 2, -1], [0, 1, 1]]  # what was given stays


def test_nothing_to_prune():
    """Tensors without ±1, and no tensors at all, have none."""
    assert Ones({}).count == 0
    assert Ones({}).without(3) == {}
    assert Ones({"a": tensor([[0, 3]], [1.0])}).count == 0
    assert fewest(lambda count: 10, 0, 5) is None


def test_ones_go_before_the_steps_grow():
    """A budget that pruning meets is met by pruning alone; one that it does not is met by coarser steps alone."""

    def size(setting):
        return int(100_000 / setting.coarseness - 2 * setting.pruned - 10_000 * setting.fewer_bits + setting.documents)

    found = fit_to_budget(size, 95_000, documents=[9, 9], bits=6, ones=lambda: 4000)
    assert found.documents == 0 and found.coarseness == 1 and found.fewer_bits == 0
    assert 0.9995 * 95_000 <= size(found) <= 95_000
    found = fit_to_budget(size, 80_000, documents=[], bits=6, ones=lambda: 4000)
    assert found.pruned == 0 and 1 < found.coarseness <= MAX_COARSENESS
    assert size(found) <= 80_000
    assert fit_to_budget(size, 100_000, documents=[], bits=6, ones=lambda: pytest.fail("it fits")) == Setting(0)
