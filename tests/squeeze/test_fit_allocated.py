"""Where steps are allocated the file ends just under its budget, from whichever side, in few packings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import BudgetError
from paramgolf.squeeze.fit import Setting, fit_allocated, fit_to_budget
from paramgolf.squeeze.landing import Range, land, slack_of

FIXED = 60_000


def predicted(coarseness):
    """A size law: a bit goes with every octave, ever less of it where steps are coarse."""
    return 4_000_000 / 8 * math.log2(1 + (12 / coarseness) ** 1.0)


def packed(asked, *, bias=1.02, noise=0):
    """What packing finds: predictions off by a share, code and tokenizer on top, and a little unevenness."""

    def size(setting):
        asked.append(setting)
        wobble = hash(round(setting.coarseness, 9)) % (noise + 1)
        return int(FIXED + bias * predicted(setting.coarseness)) + 3_000 * setting.documents + wobble

    return size


ALLOWED = Range(predicted, 1 / 8, 64.0)


@settings(deadline=None)
@given(st.integers(250_000, 3_000_000), st.floats(0.9, 1.1), st.integers(0, 300))
def test_the_file_lands_within_the_slack(budget, bias, noise):
    """Whatever the budget between the ends: never above it, at most `slack_of` below, in at most nine packings."""
    asked = []
    size = packed(asked, bias=bias, noise=noise)
    found = fit_allocated(size, budget, documents=[], allocated=ALLOWED)
    assert budget - slack_of(budget) <= size(found) <= budget
    assert len(set(asked)) == len(asked) - 1 <= 9


@given(st.integers(250_000, 2_900_000), st.integers(20_000, 100_000))
def test_a_larger_budget_never_gives_coarser_steps(budget, more):
    """With room that is more than the slack, steps are finer."""
    found = [fit_allocated(packed([]), b, documents=[], allocated=ALLOWED) for b in (budget, budget + more)]
    assert found[1].coarseness < found[0].coarseness


def test_predictions_that_are_right_take_two_packings():
    """With sizes parallel to the law the second file is within the slack."""
    asked = []
    fit_allocated(packed(asked, bias=1.0), 1_234_567, documents=[], allocated=ALLOWED)
    assert len(asked) == 2


def test_room_that_cannot_be_filled_gives_the_finest_steps():
    """A budget beyond the finest steps is left unfilled."""
    assert fit_allocated(packed([]), 10**9, documents=[3], allocated=ALLOWED) == Setting(1, ALLOWED.finest)


def test_documents_stay_where_coarseness_1_carries_them():
    """Text that fits at coarseness 1 stays and what is left is filled; text that does not is dropped first."""
    bare = packed([])(Setting(0))
    full = fit_allocated(packed([]), bare + 3_000 * 5 + 50_000, documents=[9] * 5, allocated=ALLOWED)
    assert full.documents == 5
    assert full.coarseness < 1
    some = fit_allocated(packed([]), bare + 3_000 * 50, documents=[9] * 100, allocated=ALLOWED)
    assert 45 <= some.documents <= 50
    none = fit_allocated(packed([]), bare - 100_000, documents=[9] * 5, allocated=ALLOWED)
    assert none.documents == 0
    assert none.coarseness > 1


def test_a_hopeless_budget_says_by_how_much_and_what_costs_most():
    """`BudgetError` holds what is missing, the smallest size, three tensors, dearest first, and what is no weight."""
    tensors = {"small": 10, "blocks.0.mlp.up.weight": 9_000, "embedding.weight": 30_000, "a": 5_000}
    smallest = packed([])(Setting(0, 64.0))
    for fit in (
        lambda: fit_allocated(
            packed([]), smallest - 777, documents=[1], allocated=ALLOWED, by_tensor=lambda setting: tensors
        ),
        lambda: fit_to_budget(
            lambda setting: smallest, smallest - 777, documents=[], bits=3, by_tensor=lambda setting: tensors
        ),
    ):
        with pytest.raises(BudgetError) as raised:
            fit()
        first, second = str(raised.value).splitlines()
        assert f"777 too small: this model takes at least {smallest:,} bytes" in first
        dear, rest = second.split("; ")
        assert dear == "most bytes go to embedding.weight (30,000), blocks.0.mlp.up.weight (9,000), a (5,000)"
        assert rest == f"{smallest - 44_010:,} are no weights: code, tokenizer and tables"


def test_a_staircase_ends_below_the_budget():
    """Sizes in steps larger than the slack: the search ends, at the largest size it met that fits."""
    asked = []

    def size(coarseness):
        asked.append(coarseness)
        return 100_000 * math.ceil(predicted(coarseness) / 100_000)

    found = land(size, 1_150_000, 100, ALLOWED)
    assert size(found) == 1_100_000
    assert len(asked) <= 20


def test_slack():
    """20,000 bytes of a contest's 16,000,000, 0.2 % of a small budget (issue 5)."""
    assert slack_of(16_000_000) == 20_000
    assert slack_of(1_000_000) == 2_000
