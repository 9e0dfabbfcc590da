"""Promises of the statistics: published tests come out to the printed digit, and chance is given its share."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paramgolf.errors import RunError
from paramgolf.predict.audit_record import Audit
from paramgolf.predict.plan import plan
from paramgolf.predict.score import Score
from paramgolf.referee.paired import flip_tail, paired, paired_scores
from paramgolf.referee.statistics import (
    CONTEST_MARGIN,
    interval,
    sample_of,
    sign_tail,
    student_quantile,
    student_tail,
    welch,
)

# Claimed by #1185 and #1019 (spec pr1185.md 6.0), in nats per token and bits per byte.
NEW_NATS, OLD_NATS = (1.62740282, 1.62853112, 1.62612388), (1.88276292, 1.88156874, 1.88220393)
NEW_BPB, OLD_BPB = (0.96415208, 0.96482092, 0.96339412), (1.11508120, 1.11437394, 1.11475014)


def test_the_published_welch_test_is_reproduced() -> None:
    """Oracle O21 of pr1185.md: t, degrees of freedom, both p, the difference, the spreads."""
    found = welch(NEW_NATS, OLD_NATS)
    assert found.t == pytest.approx(-328.2872, abs=5e-5)
    assert found.df == pytest.approx(2.92821, abs=5e-6)
    assert found.p_two_sided == pytest.approx(8.9e-8, abs=0.05e-8)
    assert found.p_lower == pytest.approx(4.4e-8, abs=0.05e-8)
    assert found.difference == pytest.approx(-0.25482592, abs=5e-9)
    new, old = sample_of(NEW_NATS), sample_of(OLD_NATS)
    assert (round(new.mean, 8), round(old.mean, 8)) == (1.62735261, 1.88217853)
    assert new.deviation is not None and round(new.deviation, 8) == 0.00120441
    assert old.deviation is not None and round(old.deviation, 8) == 0.00059750
    assert sample_of(NEW_BPB).deviation == pytest.approx(0.00071386, abs=5e-9)
    assert abs(found.difference) / CONTEST_MARGIN == pytest.approx(50.97, abs=0.005)


def test_against_the_margin_and_on_bits_per_byte() -> None:
    """pr1185.md 6.0: -321.8 against 0.005 nats, -327.4 on bits per byte."""
    assert welch(NEW_NATS, OLD_NATS, margin=CONTEST_MARGIN).t == pytest.approx(-321.8, abs=0.05)
    assert welch(NEW_BPB, OLD_BPB).t == pytest.approx(-327.4, abs=0.05)


def test_a_known_mean_needs_no_second_sample() -> None:
    """pr1185.md 6.0: the one-sample t against #549's 1.1194 as a constant is 376.8 with the exact deviation."""
    new = sample_of(NEW_BPB)
    assert new.error is not None
    assert (1.1194 - new.mean) / new.error == pytest.approx(376.8, abs=0.05)


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=5), st.lists(st.floats(0.5, 2), min_size=2, max_size=5))
def test_swapping_the_sides_mirrors_the_test(new: list[float], old: list[float]) -> None:
    """What one side gains the other loses: t changes its sign, the two-sided p stays, the one-sided adds up to one."""
    assume(statistics.stdev(new) > 1e-6 and statistics.stdev(old) > 1e-6)
    one, other = welch(new, old), welch(old, new)
    assert one.t == -other.t and one.df == pytest.approx(other.df)
    assert one.p_two_sided == pytest.approx(other.p_two_sided)
    assert one.p_lower + other.p_lower == pytest.approx(1.0)
    assert min(one.p_lower, other.p_lower) == pytest.approx(one.p_two_sided / 2)


@pytest.mark.parametrize(
    ("df", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (30, 2.0423), (120, 1.9799)],
)
def test_the_quantiles_are_those_of_the_printed_tables(df: int, quantile: float) -> None:
    """The 97.5 % quantiles of Student's t as every table has them."""
    assert student_quantile(0.975, df) == pytest.approx(quantile, abs=6e-5)


@settings(deadline=None)  # the first call imports SciPy
@given(st.floats(-60, 60), st.floats(0.3, 5000))
def test_tails_agree_with_closed_forms(t: float, df: float) -> None:
    """Both tails add up to one; one and two degrees of freedom have closed forms."""
    assert student_tail(t, df) + student_tail(-t, df) == pytest.approx(1.0)
    assert student_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-8)
    assert student_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-8)


def test_few_values_and_constants_prove_nothing() -> None:
    """One value has no interval and no test; two constants give no p, however far apart."""
    assert interval(sample_of([1.0])) is None
    with pytest.raises(ValueError, match="needs two on each side"):
        welch([1.0], [2.0, 3.0])
    with pytest.raises(ValueError, match="no values"):
        sample_of([])
    found = welch([1.0, 1.0], [2.0, 2.0])
    assert math.isnan(found.t) and math.isnan(found.p_two_sided) and found.difference == -1.0


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 2,000 samples of three normal values about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    held = sum(low < 5 < high for low, high in (interval(sample_of(list(row))) for row in rng.normal(5, 2, (2000, 3))))
    assert 0.93 < held / 2000 < 0.97


def test_welch_rejects_equal_means_as_often_as_it_says() -> None:
    """Under no difference p below 0.05 comes up about once in twenty, with unequal spreads and counts."""
    rng = np.random.default_rng(1)
    hits = sum(welch(list(rng.normal(0, 1, 4)), list(rng.normal(0, 3, 6))).p_two_sided < 0.05 for _ in range(2000))
    assert 0.03 < hits / 2000 < 0.07


def test_the_paired_difference_is_that_of_the_totals() -> None:
    """By hand: two documents of 10 and 30 bytes; the heavier one counts three times as much per bit and byte."""
    found = paired(np.array([20.0, 66.0]), np.array([22.0, 60.0]), np.array([10, 30]))
    assert found.difference == pytest.approx(4 / 40)
    # Residuals -2 - 1 = -3 and 6 - 3 = 3: sqrt(2 / 1 * 18) / 40.
    assert found.standard_error == pytest.approx(6 / 40)
    assert (found.better, found.worse, found.documents, found.bytes) == (1, 1, 2, 40)
    assert found.low < found.difference < found.high
    assert found.p == 1.0  # of -2 and 6 every choice of signs sums to 4 or more


def test_flips_are_exact_where_they_are_few() -> None:
    """Up to thirteen documents every sign pattern is counted: the same p as by itertools."""
    cost = np.random.default_rng(2).normal(0.3, 1, 9)
    sums = [abs(sum(s * c for s, c in zip(signs, cost))) for signs in itertools.product((1, -1), repeat=9)]
    assert flip_tail(cost) == pytest.approx(np.mean([s >= abs(cost.sum()) - 1e-9 for s in sums]))
    assert flip_tail(np.full(5, 2.0)) == 2 / 32
    assert flip_tail(np.zeros(20)) == 1.0


def test_drawn_flips_give_chance_its_share_and_find_an_effect() -> None:
    """For 200 documents: noise alone gives evenly spread p, an effect of half a deviation a p near its least."""
    rng = np.random.default_rng(3)
    chance = [flip_tail(rng.normal(0, 1, 40)) for _ in range(200)]
    assert 0.4 < np.mean(chance) < 0.6 and 0.02 < np.mean(np.array(chance) < 0.1) < 0.2
    assert flip_tail(rng.normal(0.5, 1, 200)) == pytest.approx(1e-4)


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_sign_test_is_symmetric_and_a_probability(better: int, worse: int) -> None:
    """Swapping sides changes nothing, even counts prove nothing, and p stays within 0 and 1."""
    p = sign_tail(better, worse)
    assert p == sign_tail(worse, better) and 0 < p <= 1
    assert sign_tail(better, better) == 1.0


def test_the_sign_test_by_hand_and_its_approximation() -> None:
    """Nine of ten heads: 22 / 1024; beyond a thousand tosses the normal agrees with the exact sum."""
    assert sign_tail(9, 1) == pytest.approx(22 / 1024)
    exact = 2 * sum(math.comb(1100, k) for k in range(501)) / 2**1100
    assert sign_tail(600, 500) == pytest.approx(exact, rel=0.02)


def score_of(bits: list[float], sizes: list[int] | None, digest: str = "a" * 64, lanes: int = 1) -> Score:
    """A score of documents of two tokens and a boundary token each."""
    order = plan([2] * (len(bits) // 3), lanes=lanes, chunk=4)
    raw = None if sizes is None else np.array(sizes)
    return Score(
        bits=np.array(bits),
        plan=order,
        bytes=30 if sizes is None else sum(sizes),
        text_digest=digest,
        seconds=1.0,
        audit_seconds=0.0,
        audit=Audit(0),
        document_bytes=raw,
    )


def test_seeds_are_averaged_document_by_document() -> None:
    """Two seeds against one: the mean bits of each document are what is compared, boundary tokens included."""
    new = [score_of([1, 2, 3, 4, 5, 6], [10, 20]), score_of([3, 4, 5, 6, 7, 8], [10, 20])]
    found = paired_scores(new, [score_of([2, 2, 2, 9, 9, 9], [10, 20])])
    assert found.difference == pytest.approx(((9 - 6) + (18 - 27)) / 30)
    assert (found.better, found.worse) == (1, 1)


def test_only_scores_of_one_text_are_paired() -> None:
    """Another digest, unknown sizes or other sizes are refused in a line."""
    one = score_of([1] * 6, [10, 20])
    for other, says in (
        (score_of([1] * 6, [10, 20], "b" * 64), "no documents in common"),
        (score_of([1] * 6, None), "does not list the bytes"),
        (score_of([1] * 6, [20, 10]), "other sizes"),
    ):
        with pytest.raises(RunError, match=says):
            paired_scores([one], [other])
