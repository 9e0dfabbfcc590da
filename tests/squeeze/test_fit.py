"""The budget is met, from below, and what gives gives in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import BudgetError
from paramgolf.squeeze.fit import MAX_COARSENESS, Setting, fit_to_budget


def model_of_bytes(documents, *, weights=800_000, document=1000, fixed=50_000, noise=0, asked=None):
    """A size that behaves as packing does: bits fall with the logarithm of the step, a little unevenly."""

    def size(setting):
        if asked is not None:
            asked.append(setting)
        bits = max(0.4, 5.5 - math.log2(setting.coarseness) - setting.fewer_bits)
        wobble = hash(round(setting.coarseness, 9)) % (noise + 1)
        return int(fixed + weights * bits / 8 + setting.documents * document) + wobble

    return size


def test_a_roomy_budget_changes_nothing():
    """When everything fits, all documents stay, the steps are the best ones, and one size is asked for."""
    asked = []
    assert fit_to_budget(model_of_bytes(9, asked=asked), 10**9, documents=[300] * 9, bits=8) == Setting(9)
    assert asked == [Setting(9)]


@given(st.integers(0, 400), st.integers(601_000, 1_100_000))
def test_documents_give_first_and_only_as_many_as_needed(documents, budget):
    """As long as the weights fit, only documents go, and one more would not fit unless less than 0.2 % is left."""
    size = model_of_bytes(documents)
    found = fit_to_budget(size, budget, documents=[300] * documents, bits=8)
    assert (found.coarseness, found.fewer_bits) == (1.0, 0)
    assert size(found) <= budget
    full = size(found) >= 0.998 * budget or size(Setting(found.documents + 1)) > budget
    assert found.documents == documents or full


def test_few_sizes_are_asked_for():
    """A size is dear, as all text is packed for it: among 700 documents of very different lengths, a handful do."""
    lengths = np.random.default_rng(0).lognormal(9, 2, 700)
    ends, asked = np.concatenate([[0], np.cumsum(lengths)]), []

    def size(setting):
        asked.append(setting)
        return 700_000 + int(0.4 * ends[setting.documents] ** 0.98)

    for share in (0.02, 0.4, 0.97):
        asked.clear()
        budget = 700_000 + int(0.4 * ends[-1] ** 0.98 * share)
        found = fit_to_budget(size, budget, documents=lengths.astype(int).tolist(), bits=8)
        assert len(asked) <= 8
        assert size(found) <= budget
        assert size(found) >= 0.998 * budget or size(Setting(found.documents + 1)) > budget


@given(st.integers(91_000, 599_000), st.integers(0, 50))
def test_then_steps_grow_until_the_file_is_just_under_the_budget(budget, noise):
    """Below that no text is carried and the file is at most the budget and at least 99 % of it."""
    size = model_of_bytes(20, noise=noise)
    found = fit_to_budget(size, budget, documents=[300] * 20, bits=8)
    assert found.documents == 0
    assert 0.99 * budget <= size(found) <= budget
    assert 1 < found.coarseness <= MAX_COARSENESS


def test_bits_go_last():
    """Bits are taken only where the coarsest steps do not suffice, and no more of them than needed."""
    size = model_of_bytes(0)
    at_six_bits = size(Setting(0, MAX_COARSENESS))
    assert fit_to_budget(size, at_six_bits, documents=[], bits=8).fewer_bits == 0
    assert fit_to_budget(size, at_six_bits - 100, documents=[], bits=8).fewer_bits == 1


def test_a_hopeless_budget_says_what_the_smallest_file_is():
    """`BudgetError` holds the budget and the size of the coarsest setting."""
    size = model_of_bytes(3)
    smallest = size(Setting(0, MAX_COARSENESS, 6))
    assert fit_to_budget(size, smallest, documents=[300] * 3, bits=8).documents == 0
    with pytest.raises(BudgetError, match=rf"{smallest - 1:,}.*{smallest:,}"):
        fit_to_budget(size, smallest - 1, documents=[300] * 3, bits=8)


def test_sizes_that_fall_smoothly_take_a_handful_of_questions():
    """A full-size model takes seconds to pack: where a bit goes with every octave, five sizes are within 0.05 %."""
    for budget in (420_000, 500_000, 590_000):
        asked = []
        size = model_of_bytes(0, asked=asked)
        found = fit_to_budget(size, budget, documents=[], bits=8)
        assert len(asked) <= 5
        assert 0.9995 * budget <= size(found) <= budget


def test_no_setting_is_asked_for_twice():
    """Each size is asked once, whatever gives."""
    for budget in (10**9, 800_000, 560_000, 240_000, 100_000):
        asked = []
        fit_to_budget(model_of_bytes(5, noise=3, asked=asked), budget, documents=[300] * 5, bits=8)
        assert len(asked) == len(set(asked))


def test_steps_in_stairs_end_the_search():
    """Where all rows step together the size is a staircase: the search finds a step below the budget and ends."""
    asked = []

    def size(setting):
        asked.append(setting)
        stair = math.floor(16 * math.log2(setting.coarseness))
        return 600_000 - 5_000 * stair

    found = fit_to_budget(size, 543_000, documents=[], bits=8)
    assert size(found) == 540_000
    assert len(asked) <= 26
