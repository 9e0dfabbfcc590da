"""The arithmetic of the rules: published figures, values derived by hand, and limits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.predict.cache_estimates import AbsoluteDiscounting, Backoff, Estimate, Laplace, NormCache
from paramgolf.predict.cache_kernel import entropies_into, longest_levels, mix_targets
from paramgolf.predict.cache_rules import entropy_share, gated_norm_cache, norm_cache
from paramgolf.predict.cache_shares import EntropyShare, LearntShare, Position
from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk, Float64
from paramgolf.recipe import ScoreRecipe

NONE = np.zeros(0)


def alpha(share: EntropyShare, entropies: list[float]) -> Float64:
    levels = np.zeros(len(entropies), dtype=np.int64)
    return share.shares(Position(levels, levels, np.array(entropies)), NONE, NONE)


def test_published_share_of_1185() -> None:
    """O1 of #1185: alpha(H) for base .08, range .65, centre 3.5, and what it costs when the counts give nothing."""
    found = alpha(EntropyShare(0.08, 0.65, 3.5), [0, 1, 1.88, 2, 3, 3.5, 4, 5, 6, math.log(1024)])
    stated = "0.0805921833 0.0843503531 0.1044971288 0.1108268176 0.2548119239 0.4050000000 0.5551880761 0.6991731824"
    np.testing.assert_allclose(found, [*map(float, stated.split()), 0.7256496469, 0.7293209201], atol=5e-11, rtol=0)
    cost = ".0840254937 .0881214690 .1103698513 .1174632566 .2941186413 .5191938734 .8101037291 1.2012205367"
    np.testing.assert_allclose(-np.log1p(-found)[:8], [*map(float, cost.split())], atol=5e-11, rtol=0)


def test_published_share_of_1430() -> None:
    """Section 11 of #1430: alpha(H) of the recipe's defaults (.20, .55, 2.5)."""
    found = alpha(entropy_share(ScoreRecipe()), [0, 0.5, 1, 1.5, 2, 2.5, 3, 4, math.log(1024)])
    stated = [0.203681, 0.209892, 0.226084, 0.265562, 0.347918, 0.475, 0.602082, 0.723916, 0.749922]
    np.testing.assert_allclose(found, stated, atol=5e-7, rtol=0)


@pytest.mark.parametrize(
    ("neural", "entropy", "mixed", "more"),
    [(0.5, 2.0, 0.4449103307, 0.1167353406), (0.001, 6.0, 0.0023940669, -0.8729935707)],
)
def test_published_mixture(neural: float, entropy: float, mixed: float, more: float) -> None:
    """O3 of #1185: a neural probability mixed with 3/1027, and how many nats more the token costs."""
    counted_1 = Laplace(1024).targets(one_level(total=3, count=2), np.array([1]), np.array([neural]))
    assert counted_1[0] == pytest.approx(3 / 1027, rel=1e-15)
    out_1, log_1 = np.zeros(1), np.log([neural])
    share_1 = alpha(EntropyShare(0.08, 0.65, 3.5), [entropy])
    mix_targets(log_1, np.array([neural]), counted_1, np.array([1]), share_1, out_1)
    assert math.exp(out_1[0]) == pytest.approx(mixed, abs=5e-11)
    assert log_1[0] - out_1[0] == pytest.approx(more, abs=5e-11)


def one_level(total: int, count: int) -> Evidence:
    """A known context of one token."""
    return Evidence(*(np.array([[9, n]], dtype=np.int32) for n in (total, count, 2)))


def test_add_one_needs_the_vocabulary_of_the_tokenizer() -> None:
    """O7 of #1185: with V = 8192 the rows sum to one, where 1024 written into the formula gave 7.9189."""
    followers = [Followers(np.arange(9), np.ones(9, dtype=np.int64)), Followers(np.array([5, 8000]), np.array([2, 1]))]
    evidence = one_level(total=3, count=2)
    row_V = Laplace(8192).row(evidence, 0, followers, NONE)
    assert abs(row_V.sum() - 1) < 1e-12
    assert row_V[5] == pytest.approx(3 / 8195)
    twelve = [followers[0], Followers(np.array([5, 8000, 7]), np.array([8, 3, 1]))]
    published = sum(Fraction(c + 1, 12 + 1024) for c in [8, 3, 1] + [0] * 8189)
    assert float(published) == pytest.approx(7.9189, abs=5e-5)
    assert abs(Laplace(8192).row(evidence, 0, twelve, NONE).sum() - 1) < 1e-12


STREAM = [1, 2, 3, 1, 2, 3, 1, 2]
UNIFORM_NATS = math.log(5)


def strict_1430(further: list[int]) -> tuple[Evidence, list[Followers]]:
    """Exact counts of section 11's stream and nothing else, looked up after it and `further` tokens."""
    counts = NgramCounts(2, 5, 0, lag=8)
    counts.observe(Chunk(np.array([STREAM]), np.array([8]), np.array([True])))
    asked = Chunk(np.array([[*further, 0]]), np.array([len(further) + 1]), np.array([False]))
    return counts.look_up(asked, 0), counts.followers(asked, 0, len(further))


@pytest.mark.parametrize(("token", "nats"), [(1, 1.438688), (4, 1.848702)])
def test_mixer_of_1430_at_an_unseen_context(token: int, nats: float) -> None:
    """Section 11 of #1430, V = 5: where only the unigram is known, strict and published agree: 3.5/10.5 and .5/10.5."""
    evidence, followers = strict_1430([4])
    assert len(followers) == 1
    row_V = Backoff(5, 1.0).row(evidence, 1, followers, NONE)
    assert row_V[token] == pytest.approx({1: 3.5 / 10.5, 4: 0.5 / 10.5}[token], rel=1e-14)
    share = alpha(entropy_share(ScoreRecipe()), [UNIFORM_NATS])[0]
    assert share == pytest.approx(0.279290, abs=5e-7)
    assert -math.log((1 - share) / 5 + share * row_V[token]) == pytest.approx(nats, abs=5e-7)


@pytest.mark.parametrize("strength", [Fraction(1), Fraction(16), Fraction(1, 8)])
def test_mixer_of_1430_made_exact(strength: Fraction) -> None:
    """The same stream at context (1, 2): unigram, then two steps, in exact fractions; the rows sum to one."""
    evidence, followers = strict_1430([])
    row_V = Backoff(5, float(strength)).row(evidence, 0, followers, NONE)
    unigram = [(count + Fraction(1, 2)) / (8 + Fraction(5, 2)) for count in (0, 3, 3, 2, 0)]
    # 2 was followed by 3 twice, and so was (1, 2); its third occurrence ends the stream.
    after_2 = [(2 * (v == 3) + strength * unigram[v]) / (2 + strength) for v in range(5)]
    after_12 = [(2 * (v == 3) + strength * after_2[v]) / (2 + strength) for v in range(5)]
    assert sum(after_12) == 1
    np.testing.assert_allclose(row_V, [float(p) for p in after_12], rtol=1e-13)


def test_mixer_of_1430_at_strength_one() -> None:
    """By hand: p(3 | 1, 2) = (2 + (2 + 5/21) / 3) / 3 = 173/189; a token never seen has 1/21 of a ninth."""
    evidence, followers = strict_1430([])
    row_V = Backoff(5, 1.0).row(evidence, 0, followers, NONE)
    assert row_V[3] == pytest.approx(173 / 189, rel=1e-14)
    assert row_V[4] == pytest.approx(1 / 189, rel=1e-13)


def test_absolute_discounting_by_hand() -> None:
    """With the first discounts of 1/2 and V = 5: unigram, one context, in exact fractions."""
    followers = [
        Followers(np.array([1, 2, 3]), np.array([3, 3, 2])),
        Followers(np.array([3, 1]), np.array([2, 1])),
    ]
    half = Fraction(1, 2)
    unigram = [(max(c - half, 0) + half * 3 * Fraction(1, 5)) / 8 for c in (0, 3, 3, 2, 0)]
    expected = [(max(c - half, 0) + half * 2 * unigram[v]) / 3 for v, c in enumerate((0, 1, 0, 2, 0))]
    assert sum(expected) == 1
    estimate = AbsoluteDiscounting(5, 2)
    evidence = Evidence(*(np.array([pair], dtype=np.int32) for pair in ([8, 3], [2, 2], [3, 2])))
    np.testing.assert_allclose(estimate.row(evidence, 0, followers, NONE), [float(p) for p in expected], rtol=1e-14)
    found = estimate.targets(evidence, np.array([1]), NONE)
    assert found[0] == pytest.approx(float(expected[3]), rel=1e-14)


def test_discounts_follow_the_counts_of_counts() -> None:
    """Ney's estimate n1 / (n1 + 2 n2), from 1 and 1/2: after six new n-grams, of which two came again, 5 and 2.5."""
    estimate = AbsoluteDiscounting(5, 1)
    counts = np.array([[0]] * 6 + [[1]] * 2, dtype=np.int32)
    estimate.learn(Evidence(counts, counts, counts))
    single = [Followers(np.array([2]), np.array([4]))]
    none = Evidence(*(np.zeros((1, 1), dtype=np.int32) for _ in range(3)))
    discount = 5 / (5 + 2 * 2.5)
    row_V = estimate.row(none, 0, single, NONE)
    assert row_V[2] == pytest.approx(((4 - discount) + discount / 5) / 4)


levels = st.lists(
    st.dictionaries(st.integers(0, 3), st.integers(1, 10**6), min_size=1, max_size=4), min_size=1, max_size=5
)
strengths = st.floats(1e-3, 1e6)


@settings(max_examples=150, deadline=None)
@given(levels, st.sampled_from([4, 256, 1024]), strengths, st.integers(0, 3), st.lists(st.integers(0, 3), max_size=5))
def test_estimates_are_distributions(
    tables: list[dict[int, int]], vocab: int, strength: float, token: int, past: list[int]
) -> None:
    """For any counts each estimate is positive, sums to one within 1e-12, and gives a token its entry, bit for bit."""
    followers = [Followers(np.array([*table]), np.array([*table.values()])) for table in tables]
    total = np.array([[sum(table.values()) for table in tables]], dtype=np.int32)
    count = np.array([[table.get(token, 0) for table in tables]], dtype=np.int32)
    evidence = Evidence(total, count, np.array([[len(table) for table in tables]], dtype=np.int32))
    neural_V = np.random.default_rng(0).dirichlet(np.full(vocab, 0.3))
    discounting = AbsoluteDiscounting(vocab, len(tables))
    before = np.array([[n] * len(tables) for n in past], dtype=np.int32).reshape(-1, len(tables))
    discounting.learn(Evidence(before, before, before))
    estimates: list[Estimate] = [Laplace(vocab), NormCache(0, strength), Backoff(vocab, strength), discounting]
    for estimate in estimates:
        row_V = estimate.row(evidence, 0, followers, neural_V)
        assert abs(row_V.sum() - 1) < 1e-12
        assert (row_V >= 0).all()
        level_1 = np.array([len(tables) - 1])
        assert estimate.targets(evidence, level_1, neural_V[[token]])[0] == row_V[token]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 30))
def test_entropies(size: int, seed: int, sharpness: float) -> None:
    """Entropies agree with NumPy for rows of every length, sharp or flat."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(3, size))
    rows = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    out = np.empty(3)
    entropies_into(rows, out)
    np.testing.assert_allclose(out, -(np.exp(rows) * rows).sum(axis=1), atol=1e-12, rtol=0)


def test_impossible_tokens() -> None:
    """A neural row with zeros has an entropy, and what both halves deny costs a finite number of nats."""
    row = np.array([[math.log(0.5), -math.inf, math.log(0.5)]])
    out = np.empty(1)
    entropies_into(row, out)
    assert out[0] == pytest.approx(math.log(2))
    credit = np.empty(1)
    zero, one = np.zeros(1), np.ones(1)
    mix_targets(np.array([-math.inf]), zero, zero, np.array([3]), one, credit)
    assert credit[0] == pytest.approx(math.log(1e-300))


def test_levels() -> None:
    """The level is the longest known context, or the neural row alone where that is shorter than the rule wants."""
    total = np.array([[0, 0, 0], [4, 0, 0], [4, 2, 0], [4, 2, 1]], dtype=np.int32)
    for least, expected in [(0, [-1, 0, 1, 2]), (1, [-1, -1, 1, 2]), (2, [-1, -1, -1, 2]), (3, [-1] * 4)]:
        found = np.zeros(4, dtype=np.int64)
        longest_levels(total, least, found)
        assert found.tolist() == expected


def test_learnt_shares_are_means_of_what_was_earned() -> None:
    """Online EM by hand: kinds by level, power of two and entropy bin; a position without counts teaches nothing."""
    share = LearntShare(3)
    level_T, total_T = np.array([2, 2, -1, 2, 2, 1]), np.array([4, 7, 0, 8, 5, 4])
    known = Position(level_T, total_T, np.array([0.3, 0.4, 0.3, 0.3, 0.6, 0.3]))
    neural_T, counted_T = np.full(6, 0.1), np.full(6, 0.4)
    first = 0.3
    posterior = first * 0.4 / (first * 0.4 + 0.7 * 0.1)
    second = (4 * first + posterior) / 5
    expected = [first, second, 0.0, first, first, first]
    np.testing.assert_allclose(share.shares(known, neural_T, counted_T), expected, rtol=1e-14)
    np.testing.assert_allclose(share.shares(known, neural_T, counted_T), expected, rtol=1e-14)
    share.learn(known, neural_T, counted_T)
    third = (4 * first + posterior + second * 0.4 / (second * 0.4 + (1 - second) * 0.1)) / 6
    assert share.shares(known, neural_T, counted_T)[0] == pytest.approx(third, rel=1e-14)


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan])
def test_strengths_that_are_none(strength: float) -> None:
    """A strength that is not positive is refused; a backoff's must be finite as well."""
    with pytest.raises(RecipeError, match="strength"):
        NormCache(1, strength)
    with pytest.raises(RecipeError, match="strength"):
        Backoff(5, strength)
    with pytest.raises(RecipeError, match="strength inf"):
        Backoff(5, math.inf)
    with pytest.raises(RecipeError, match=r"0\.5 and 1\.1"):
        EntropyShare(0.5, 0.6, 1.0)


def test_a_cache_that_could_never_speak() -> None:
    """A shortest context longer than the longest one is refused with both settings."""
    recipe = ScoreRecipe(ngram_order=4, cache_least_order=5)
    for rule in (norm_cache, gated_norm_cache):
        with pytest.raises(RecipeError, match=r"cache_least_order=5 .* score\.ngram_order=4"):
            rule(recipe)
