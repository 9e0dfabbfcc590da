"""Counts mixed with a model: the specs' totals, plain formulas, chunks, lanes, and what a row may know.

`PlainCounts` is the reference of exact counting: dictionaries of tuples.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import TokenizerError
from paramgolf.predict.cache import CachePredictor, ExactCounts
from paramgolf.predict.cache_estimates import Laplace, NormCache
from paramgolf.predict.cache_rules import (
    Rule,
    backoff,
    discounting,
    gated_norm_cache,
    laplace,
    learnt_backoff,
    norm_cache,
)
from paramgolf.predict.cache_shares import ENTROPY_EDGES, FIRST_SEEN, FIRST_SHARE, EntropyShare, Whole
from paramgolf.predict.evidence import Evidence, Followers
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk, Float64, TableRows, single_token
from paramgolf.recipe import ScoreRecipe

VOCAB, BOUNDARY, ORDER = 6, 1, 3
RECIPE = ScoreRecipe(ngram_order=ORDER, cache_least_order=1, cache_strength=2.5)
RULES: dict[str, Callable[[int], Rule]] = {
    "laplace": lambda vocab: laplace(RECIPE, vocab),
    "norm_cache": lambda vocab: norm_cache(RECIPE),
    "gated_norm_cache": lambda vocab: gated_norm_cache(RECIPE),
    "backoff": lambda vocab: backoff(RECIPE, vocab),
    "learnt_backoff": lambda vocab: learnt_backoff(RECIPE, vocab),
    "discounting": lambda vocab: discounting(RECIPE, vocab),
}
texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40)
rules = st.sampled_from(sorted(RULES))


class PlainCounts:
    """Exact counts of contexts of 0..order tokens in a dictionary of tuples; a lag as `NgramCounts` has it."""

    def __init__(self, order: int, vocab_size: int, boundary_id: int, lanes: int = 1, lag: int = 0) -> None:
        self.vocab_size, self.order, self.lag, self.boundary_id = vocab_size, order, lag, boundary_id
        self.known: dict[tuple[int, ...], Counter[int]] = {}
        self.lines = [[boundary_id] for _ in range(lanes)]
        self.waiting: list[list[tuple[tuple[int, ...], int]]] = [[] for _ in range(lanes)]
        self.numbers = [0] * lanes

    def contexts(self, lane: int) -> list[tuple[int, ...]]:
        line = self.lines[lane]
        return [tuple(line[len(line) - k :]) for k in range(min(self.order, len(line)) + 1)]

    def found(self, lane: int) -> list[Counter[int]]:
        """The followers of the known contexts, shortest first."""
        followers: list[Counter[int]] = []
        for context in self.contexts(lane):
            if context not in self.known:
                break
            followers.append(self.known[context])
        return followers

    def read(self, lane: int, token: int) -> None:
        self.waiting[lane] += [(context, token) for context in self.contexts(lane)]
        self.lines[lane].append(token)
        self.numbers[lane] += 1
        if self.numbers[lane] % max(self.lag, 1) == 0:
            for context, follower in self.waiting[lane]:
                self.known.setdefault(context, Counter())[follower] += 1
            self.waiting[lane] = []

    def begun(self, chunk: Chunk, lane: int) -> None:
        if chunk.starts[lane]:
            self.lines[lane] = [self.boundary_id]

    def look_up(self, chunk: Chunk, lane: int) -> Evidence:
        trial = copy.deepcopy(self)
        trial.begun(chunk, lane)
        table = np.zeros((3, chunk.lengths[lane], self.order + 1), dtype=np.int32)
        for t, token in enumerate(chunk.tokens[lane, : chunk.lengths[lane]].tolist()):
            for k, followers in enumerate(trial.found(lane)):
                table[:, t, k] = followers.total(), followers[token], len(followers)
            trial.read(lane, token)
        return Evidence(*table)

    def followers(self, chunk: Chunk, lane: int, position: int) -> list[Followers]:
        trial = copy.deepcopy(self)
        trial.begun(chunk, lane)
        for token in chunk.tokens[lane, :position].tolist():
            trial.read(lane, token)
        return [
            Followers(np.array(list(found), dtype=np.int64), np.array(list(found.values()), dtype=np.int64))
            for found in trial.found(lane)
        ]

    def observe(self, chunk: Chunk) -> None:
        for lane in range(len(chunk.tokens)):
            self.begun(chunk, lane)
            for token in chunk.tokens[lane, : chunk.lengths[lane]].tolist():
                self.read(lane, token)


class PublishedCounts(PlainCounts):
    """The update of #1185 (spec 4.2): each block's list of ids for itself, so n-grams that cross its ends are lost."""

    def read(self, lane: int, token: int) -> None:
        ids = self.lines[lane]
        ids.append(token)
        if (len(ids) - 1) % self.lag:
            return
        block = ids[-1 - self.lag : -1]
        for i, follower in enumerate(block):
            for k in range(min(self.order, i) + 1):
                self.known.setdefault(tuple(block[i - k : i]), Counter())[follower] += 1


class Table:
    """A stand-in for the model: a fixed row for each previous token, one line for each lane."""

    def __init__(self, logits_VV: Float64, boundary_id: int, lanes: int = 1) -> None:
        self.vocab_size = len(logits_VV)
        self.table_VV = logits_VV - np.log(np.exp(logits_VV).sum(axis=1, keepdims=True))
        self.boundary_id = boundary_id
        self.last_B = np.full(lanes, boundary_id)

    def predict(self, chunk: Chunk) -> TableRows:
        first_B = np.where(chunk.starts, self.boundary_id, self.last_B)
        previous_BT = np.concatenate([first_B[:, None], chunk.tokens[:, :-1]], axis=1)
        return TableRows(self.table_VV[previous_BT], chunk)

    def observe(self, chunk: Chunk) -> None:
        for b, length in enumerate(chunk.lengths):
            if chunk.starts[b]:
                self.last_B[b] = self.boundary_id
            if length:
                self.last_B[b] = chunk.tokens[b, length - 1]


def chunk_of(tokens: list[int], *, start: bool = False) -> Chunk:
    return Chunk(np.array([tokens], dtype=np.int64), np.array([len(tokens)]), np.array([start]))


def uniform(vocab_size: int, boundary_id: int) -> Table:
    return Table(np.zeros((vocab_size, vocab_size)), boundary_id)


def varied(vocab_size: int = VOCAB, boundary_id: int = BOUNDARY, lanes: int = 1) -> Table:
    logits = 1.5 * np.random.default_rng(0).normal(size=(vocab_size, vocab_size))
    return Table(logits, boundary_id, lanes)


def made(rule: str, lanes: int = 1, lag: int = 0) -> CachePredictor:
    counts = NgramCounts(ORDER, VOCAB, BOUNDARY, lanes, lag=lag)
    return CachePredictor(varied(lanes=lanes), counts, RULES[rule](VOCAB))


TOY = [1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 3, 0]  # after id 0, which is the boundary's place


def nats(predictor: CachePredictor, sizes: list[int]) -> Float64:
    """Credits of the toy text, fed in chunks of those sizes."""
    parts, at = [], 0
    for size in sizes:
        chunk = chunk_of(TOY[at : at + size], start=at == 0)
        parts.append(-predictor.predict(chunk).realised()[0])
        predictor.observe(chunk)
        at += size
    assert at == len(TOY)
    return np.concatenate(parts)


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1] * 12, [5, 7]])
def test_published_rule_end_to_end(sizes: list[int]) -> None:
    """O4 of #1185: add one, chunks of four ids, orders 2 and 3, a uniform model of four tokens."""
    counts = PublishedCounts(2, 4, 0, lag=4)
    predictor = CachePredictor(uniform(4, 0), counts, Rule(Laplace(4), EntropyShare(0.08, 0.65, 3.5)))
    found = nats(predictor, sizes)
    stated = [0.25] * 4 + [0.263402079] * 4 + [0.272336799, 0.263402079, 0.245532640, 0.25]
    np.testing.assert_allclose(np.exp(-found), stated, atol=5e-10)
    assert abs(found.sum() - 16.3068809162) < 1e-9


@pytest.mark.parametrize("counts_of", [PlainCounts, NgramCounts])
@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1] * 12, [5, 7]])
def test_repaired_cache_end_to_end(counts_of: type[PlainCounts] | type[NgramCounts], sizes: list[int]) -> None:
    """O5 of #1185: NormCache, beta 1, from contexts of one token, over a uniform model of four tokens."""
    predictor = CachePredictor(uniform(4, 0), counts_of(2, 4, 0, lag=4), Rule(NormCache(1, 1.0), Whole()))
    found = nats(predictor, sizes)
    stated = [0.25] * 4 + [0.625] * 4 + [0.75, 0.75, 0.0625, 0.25]
    np.testing.assert_allclose(np.exp(-found), stated, rtol=1e-14)
    assert abs(found.sum() - 12.1594391897) < 1e-9


@pytest.mark.parametrize("counts_of", [PlainCounts, NgramCounts])
def test_repaired_counts(counts_of: type[PlainCounts] | type[NgramCounts]) -> None:
    """O5 of #1185: totals and counts of contexts of one and two tokens, those of the boundary's place included."""
    evidence = counts_of(2, 4, 0, lag=4).look_up(chunk_of(TOY, start=True), 0)
    assert evidence.total_TK[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 2, 3, 3, 0]
    assert evidence.count_TK[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 2, 3, 0, 0]
    assert evidence.total_TK[:, 2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 0]
    assert evidence.count_TK[:, 2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0]


def plain_dirichlet(found: list[Counter[int]], prior: Float64, strengths: list[float]) -> Float64:
    """Dirichlet steps, one context after the other, on whole rows."""
    for followers, strength in zip(found, strengths, strict=True):
        counts = np.array([followers[v] for v in range(len(prior))])
        prior = (counts + strength * prior) / (counts.sum() + strength)
    return prior


def plain_discounting(found: list[Counter[int]], vocab: int, once: list[float], twice: list[float]) -> Float64:
    """Interpolated absolute discounting on whole rows."""
    row = np.full(vocab, 1 / vocab)
    for k, followers in enumerate(found):
        counts, discount = np.array([followers[v] for v in range(vocab)]), once[k] / (once[k] + 2 * twice[k])
        row = (np.maximum(counts - discount, 0) + discount * (counts > 0).sum() * row) / counts.sum()
    return row


def plain_rows(rule: str, tokens: list[int], lag: int) -> Float64:
    """The definition of each rule, one token at a time, with dictionaries and NumPy: log-probabilities [T, V]."""
    counts, table, rows = PlainCounts(ORDER, VOCAB, BOUNDARY, lag=lag), varied().table_VV, []
    earned: dict[tuple[int, int, int], float] = {}
    seen: dict[tuple[int, int, int], float] = {}
    once, twice = [1.0] * (ORDER + 1), [0.5] * (ORDER + 1)
    for token in tokens:
        neural = np.exp(table[counts.lines[0][-1]])
        found, entropy = counts.found(0), -float(neural @ np.log(neural))
        level = len(found) - 1
        share, kind = (
            RECIPE.alpha_base + RECIPE.alpha_range / (1 + math.exp(-2 * (entropy - RECIPE.alpha_centre))),
            None,
        )
        if level < (0 if rule in ("backoff", "learnt_backoff", "discounting") else 1):
            share, counted = 0.0, neural
        else:
            if rule == "laplace":
                counted = plain_dirichlet(found[-1:], np.full(VOCAB, 1 / VOCAB), [VOCAB])
            elif rule in ("norm_cache", "gated_norm_cache"):
                counted = plain_dirichlet(found[-1:], neural, [RECIPE.cache_strength])
            elif rule == "discounting":
                counted = plain_discounting(found, VOCAB, once, twice)
            else:
                counted = plain_dirichlet(
                    found, np.full(VOCAB, 1 / VOCAB), [VOCAB / 2] + [RECIPE.cache_strength] * level
                )
            if rule == "norm_cache":
                share = 1.0
            elif rule in ("gated_norm_cache", "learnt_backoff", "discounting"):
                kind = level, int(math.log2(found[-1].total())), int((entropy >= ENTROPY_EDGES).sum())
                share = earned.get(kind, FIRST_SHARE * FIRST_SEEN) / seen.get(kind, FIRST_SEEN)
        row = (1 - share) * neural + share * counted
        rows.append(np.log(row))
        if kind is not None:
            earned[kind] = earned.get(kind, FIRST_SHARE * FIRST_SEEN) + share * counted[token] / row[token]
            seen[kind] = seen.get(kind, FIRST_SEEN) + 1
        for k in range(ORDER + 1):
            before = found[k][token] if k <= level else 0
            once[k] = max(once[k] + (before == 0) - (before == 1), 1.0)
            twice[k] = max(twice[k] + (before == 1) - (before == 2), 0.5)
        counts.read(0, token)
    return np.stack(rows)


@settings(max_examples=120, deadline=None)
@given(rules, texts, st.integers(0, 5))
def test_rows_are_the_plain_formulas(rule: str, tokens: list[int], lag: int) -> None:
    """Every row of every rule is its definition written down with dictionaries, and so is every credit."""
    expected_TV = plain_rows(rule, tokens, lag)
    rows = made(rule, lag=lag).predict(chunk_of(tokens, start=True))
    np.testing.assert_allclose(rows.all_rows(0), expected_TV, rtol=0, atol=1e-11)
    expected_T = expected_TV[np.arange(len(tokens)), tokens]
    np.testing.assert_allclose(rows.realised()[0], expected_T, rtol=0, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(rules, texts, st.integers(1, 7), st.integers(0, 3))
def test_rows_do_not_depend_on_the_chunks(rule: str, tokens: list[int], size: int, lag: int) -> None:
    """Credits and whole rows are the same bits whether the stream comes at once or in pieces, with a lag as well."""
    rows, parts, at = made(rule, lag=lag).predict(chunk_of(tokens)), made(rule, lag=lag), 0
    while at < len(tokens):
        piece = chunk_of(tokens[at : at + size])
        asked = parts.predict(piece)
        assert np.array_equal(asked.realised()[0], rows.realised()[0, at : at + size])
        last = piece.tokens.shape[1] - 1
        assert np.array_equal(asked.row(0, 0), rows.row(0, at))
        assert np.array_equal(asked.row(0, last), rows.row(0, at + last))
        parts.observe(piece)
        at += size


@settings(max_examples=60, deadline=None)
@given(rules, texts, texts, st.data())
def test_a_row_does_not_know_its_token(rule: str, past: list[int], tokens: list[int], data: st.DataObject) -> None:
    """7.1 (b) of #1185: other tokens at and after a position leave its row as it is, bit for bit."""
    position = data.draw(st.integers(0, len(tokens) - 1))
    rest = st.lists(st.integers(0, VOCAB - 1), min_size=len(tokens) - position, max_size=len(tokens) - position)
    predictor = made(rule)
    predictor.observe(chunk_of(past))
    row = predictor.predict(chunk_of(tokens)).row(0, position)
    other = predictor.predict(chunk_of(tokens[:position] + data.draw(rest))).row(0, position)
    assert np.array_equal(row, other)


@settings(max_examples=40, deadline=None)
@given(rules, texts, texts)
def test_questions_leave_no_trace(rule: str, tokens: list[int], other: list[int]) -> None:
    """7.1 (c) of #1185: whatever was asked before `observe`, the next answers are the same bits."""
    asked, plain = made(rule), made(rule)
    for question in (tokens, other):
        rows = asked.predict(chunk_of(question))
        rows.realised()
        rows.row(0, len(question) - 1)
    for predictor in (asked, plain):
        predictor.observe(chunk_of(tokens))
    for question in (other, tokens):
        assert np.array_equal(
            asked.predict(chunk_of(question)).all_rows(0), plain.predict(chunk_of(question)).all_rows(0)
        )


@pytest.mark.parametrize("vocab", [4, 256, 1024, 8192])
@pytest.mark.parametrize("rule", RULES)
def test_every_row_is_a_distribution(rule: str, vocab: int) -> None:
    """7.1 (a) of #1185: rows sum to one within 1e-9 at every size, and hold the credited value to 1e-9."""
    rng = np.random.default_rng(vocab)
    few = rng.integers(0, vocab, 9)
    tokens = few[rng.integers(0, 9, 300)]
    counts = NgramCounts(ORDER, vocab, 0)
    predictor = CachePredictor(OneRow(vocab), counts, RULES[rule](vocab))
    predictor.observe(chunk_of(tokens.tolist(), start=True))
    asked = np.append(few[rng.integers(0, 9, 30)], [0, vocab - 1])  # the last two come after contexts new and old
    rows = predictor.predict(chunk_of(asked.tolist()))
    all_TV = rows.all_rows(0)
    np.testing.assert_allclose(np.exp(all_TV).sum(axis=1), 1.0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(all_TV[np.arange(len(asked)), asked], rows.realised()[0], rtol=0, atol=1e-9)
    assert np.array_equal(all_TV[17], rows.row(0, 17))
    if rule != "norm_cache" or vocab == 4:
        assert not np.array_equal(all_TV[17], OneRow(vocab).row_V)  # the counts did have a say


class OneRow:
    """A model that always says the same, peaked row, and gives all rows of a lane at once."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        logits = 3.0 * np.random.default_rng(1).normal(size=vocab_size)
        self.row_V = logits - np.log(np.exp(logits).sum())

    def predict(self, chunk: Chunk) -> OneRows:
        return OneRows(self.row_V, chunk)

    def observe(self, chunk: Chunk) -> None:
        pass


class OneRows(TableRows):
    def __init__(self, row_V: Float64, chunk: Chunk) -> None:
        super().__init__(np.broadcast_to(row_V, (*chunk.tokens.shape, len(row_V))), chunk)
        self.row_V, self.lengths = row_V, chunk.lengths

    def all_rows(self, lane: int) -> Float64:
        return np.broadcast_to(self.row_V, (self.lengths[lane], len(self.row_V)))


@settings(max_examples=30, deadline=None)
@given(texts)
def test_an_infinite_strength_is_the_neural_row(tokens: list[int]) -> None:
    """7.1 (f) of #1185: of infinite strength, or with empty counts, credits and rows are the model's, bit for bit."""
    for rule, past in ((Rule(NormCache(0, math.inf), Whole()), tokens), (RULES["norm_cache"](VOCAB), [])):
        predictor, neural = CachePredictor(varied(), NgramCounts(ORDER, VOCAB, BOUNDARY), rule), varied()
        for _ in range(bool(past)):
            predictor.observe(chunk_of(past))
            neural.observe(chunk_of(past))
        question = chunk_of(tokens if past else tokens[:1])
        asked, expected = predictor.predict(question), neural.predict(question)
        assert np.array_equal(asked.realised(), expected.realised())
        assert np.array_equal(asked.row(0, 0), expected.row(0, 0))


@pytest.mark.parametrize("rule", RULES)
def test_lanes(rule: str) -> None:
    """Three lanes of unequal length: no row knows another lane's chunk, padding is 0, the next chunk knows all."""
    rng = np.random.default_rng(2)
    predictor, alone = made(rule, lanes=3), made(rule, lanes=3)
    first = Chunk(rng.integers(0, VOCAB, (3, 30)), np.array([30, 0, 17]), np.array([True, True, True]))
    predictor.observe(first)
    alone.observe(first)
    second = Chunk(rng.integers(0, VOCAB, (3, 9)), np.array([4, 9, 7]), np.array([False, True, False]))
    other = Chunk(second.tokens.copy(), second.lengths, second.starts)
    other.tokens[[0, 2]] = (other.tokens[[0, 2]] + 1) % VOCAB
    rows, rows_other = predictor.predict(second), alone.predict(other)
    assert np.array_equal(rows.all_rows(1), rows_other.all_rows(1))
    assert (rows.realised()[~second.real()] == 0).all() and (rows.realised()[second.real()] < 0).all()
    assert rows.all_rows(0).shape == (4, VOCAB)
    predictor.observe(second)
    alone.observe(other)
    third = Chunk(second.tokens[[1, 0, 2], :4], np.array([4, 4, 4]), np.array([False, False, False]))  # lane 0's text
    assert not np.array_equal(predictor.predict(third).realised()[1], alone.predict(third).realised()[1])
    with pytest.raises(IndexError, match="lane 0 position 4 is padding"):
        rows.row(0, 4)


def test_what_was_learnt_does_not_depend_on_the_questions() -> None:
    """With several lanes and a rule that learns, asking for credits before `observe` changes nothing after it."""
    rng = np.random.default_rng(3)
    for rule in RULES:
        asked, plain = made(rule, lanes=2), made(rule, lanes=2)
        for start in (True, False):
            chunk = Chunk(rng.integers(0, 3, (2, 20)), np.array([20, 15]), np.array([start, start]))
            asked.predict(chunk).realised()
            asked.observe(chunk)
            plain.observe(chunk)
        assert np.array_equal(asked.predict(chunk).realised(), plain.predict(chunk).realised())


def test_ids_outside_the_vocabulary_are_refused() -> None:
    """Wrong ids raise one line with the range, before anything is learnt; padding may hold anything."""
    predictor = made("backoff")
    for tokens in ([0, VOCAB], [-1, 2]):
        for verb in (predictor.predict, predictor.observe):
            with pytest.raises(TokenizerError, match=r"are not in the vocabulary 0\.\.5"):
                verb(chunk_of(tokens))
    padded = Chunk(np.array([[2, -7]]), np.array([1]), np.array([True]))
    assert predictor.predict(padded).realised()[0, 0] == made("backoff").predict(single_token(2)).realised()[0, 0]
    with pytest.raises(ValueError, match="vocabularies differ: 6 and 7"):
        CachePredictor(varied(), NgramCounts(1, 7, 0), RULES["backoff"](6))


def test_bounded_counts_still_give_distributions() -> None:
    """Counts that forget under a bound of memory leave totals that fit: rows sum to one."""
    rng = np.random.default_rng(4)
    bound = 200_000
    counts = NgramCounts(ORDER, 64, 0, most_bytes=bound)
    predictor = CachePredictor(OneRow(64), counts, RULES["discounting"](64))
    for _ in range(5):
        predictor.observe(chunk_of(rng.integers(0, 64, 2000).tolist()))
    assert counts.forgotten > 0
    rows = predictor.predict(chunk_of(rng.integers(0, 64, 50).tolist())).all_rows(0)
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0, rtol=0, atol=1e-9)


def test_learnt_shares_find_the_better_half() -> None:
    """On text that repeats under a model that is sure and wrong, learnt shares leave it; the published ones cannot."""
    wrong = Table(8.0 * np.random.default_rng(5).normal(size=(VOCAB, VOCAB)), BOUNDARY)
    text = chunk_of([2, 3, 4, 5, 0] * 200)
    nats_of = {}
    for rule in ("learnt_backoff", "discounting", "backoff"):
        counts: ExactCounts = NgramCounts(ORDER, VOCAB, BOUNDARY)
        predictor = CachePredictor(copy.deepcopy(wrong), counts, RULES[rule](VOCAB))
        nats_of[rule] = -predictor.predict(text).realised().sum() / 1000
    assert max(nats_of["learnt_backoff"], nats_of["discounting"]) < 0.2 < 1.0 < nats_of["backoff"]
