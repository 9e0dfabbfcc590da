"""The tilt's toys add up to the published sums, and to the closed forms beside them (spec pr2140.md, 6.4 and 6.6)."""

import numpy as np
import pytest

from paramgolf.exhibits.toys.tilt import (
    GATED_TOYS,
    PIECES,
    SHARE_V,
    TOKEN_BOOST,
    WORD_BOOST,
    closed_form,
    normaliser,
    two_orders_total,
)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("within", 1.098231),
        ("word-start", 1.086103),
        ("all", 1.064718),
        ("token-only", 1.0),
        ("token-only, new context", 1.0),
    ],
)
def test_all_targets_together_are_credited_with_the_published_sum(name, total):
    """6.4: one run for each possible target; only the token expert alone gives a distribution."""
    assert GATED_TOYS[name].credits().sum() == pytest.approx(total, abs=5e-7)


def test_within_words_the_credits_are_those_of_the_spec():
    """6.4: candidates 5..8 are tilted towards 5 (.413719, the others .078171), 1..4 keep .45 in all."""
    found = GATED_TOYS["within"].credits()
    assert found[5] == pytest.approx(0.413719, abs=5e-7)
    assert found[6:] == pytest.approx(np.full(3, 0.078171), abs=5e-7)
    assert found[:5] == pytest.approx(SHARE_V[:5], abs=1e-12)


def test_the_token_expert_alone_tilts_every_target():
    """6.4: hint 3 for everyone, p'(3) = .708972."""
    assert GATED_TOYS["token-only"].credits()[3] == pytest.approx(0.708972, abs=5e-7)


def test_the_sums_have_closed_forms():
    """1 + P(N)(1 - 1/Z) with one expert gated; with two, each part of the vocabulary is divided by its own Z."""
    goes_on, begins = (SHARE_V[PIECES.kind_V == kind].sum() for kind in (0, 1))
    within = closed_form(1 - goes_on, SHARE_V[5], WORD_BOOST)
    assert GATED_TOYS["within"].credits().sum() == pytest.approx(within, abs=1e-12)
    start = GATED_TOYS["word-start"].credits().sum()
    assert start == pytest.approx(closed_form(1 - begins, SHARE_V[3], WORD_BOOST), abs=1e-12)
    # Two agree on 3 for targets that begin a word, so that it is raised by 0.5 more for them.
    agreed, alone = normaliser(SHARE_V[3], TOKEN_BOOST + 0.5), normaliser(SHARE_V[3], TOKEN_BOOST)
    raised = begins + SHARE_V[3] * np.expm1(TOKEN_BOOST + 0.5)
    everything = raised / agreed + (1 - begins) / alone
    assert GATED_TOYS["all"].credits().sum() == pytest.approx(everything, abs=1e-12)


def test_two_orders_give_away_more_than_there_is():
    """6.6: .81 + .81 + .01 + .01 = 1.64; with one order for hints and scores it is a distribution."""
    assert two_orders_total() == pytest.approx(1.64, abs=1e-12)
    assert two_orders_total(one_order=True) == pytest.approx(1.0, abs=1e-12)
    assert two_orders_total(trust=0.5) == pytest.approx(1.0, abs=1e-12)
