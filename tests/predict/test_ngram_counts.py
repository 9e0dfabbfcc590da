"""Exact n-gram counts against dictionaries and against the rank-and-sort counting of spec #1185, 4.10."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RecipeError, TokenizerError
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk, single_token


class PlainCounts:
    """The docstring of `NgramCounts` with dictionaries: one counter for each context of each length."""

    def __init__(self, order: int, boundary: int, lanes: int, lag: int) -> None:
        self.order, self.boundary, self.lag = order, boundary, lag
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.texts = [[boundary] for _ in range(lanes)]
        self.observed = [0] * lanes
        self.waiting: list[list[tuple[tuple[int, ...], int]]] = [[] for _ in range(lanes)]

    def contexts(self, lane: int) -> list[tuple[int, ...]]:
        text = self.texts[lane]
        return [tuple(text[len(text) - k :]) for k in range(min(self.order, len(text)) + 1)]

    def known(self, lane: int) -> list[Counter[int]]:
        found = []
        for context in self.contexts(lane):
            if not self.counts[context]:
                break
            found.append(self.counts[context])
        return found

    def start(self, lane: int) -> None:
        self.texts[lane] = [self.boundary]

    def learn(self, lane: int, token: int) -> None:
        self.waiting[lane] += [(context, token) for context in self.contexts(lane)]
        self.texts[lane].append(token)
        self.observed[lane] += 1
        if self.lag == 0 or self.observed[lane] % self.lag == 0:
            for context, follower in self.waiting[lane]:
                self.counts[context][follower] += 1
            self.waiting[lane] = []


def evidence_of(plain: PlainCounts, lane: int, token: int) -> np.ndarray:
    """Rows total, count, distinct; columns the contexts."""
    expected = np.zeros((3, plain.order + 1), dtype=np.int64)
    for k, counter in enumerate(plain.known(lane)):
        expected[:, k] = sum(counter.values()), counter[token], len([v for v in counter.values() if v])
    return expected


def chunk_of(tokens: list[int] | np.ndarray, start: bool = False) -> Chunk:
    return Chunk(np.array([tokens], dtype=np.int64), np.array([len(tokens)]), np.array([start]))


def fingerprint(counts: NgramCounts) -> list[bytes]:
    """Every byte of the state."""
    owner = counts._trie
    arrays = [*owner.trie, owner._rows_BK, owner._lane_B2, *owner._tails, *counts._tails, np.array(counts._observed)]
    return [array.tobytes() for array in arrays] + [repr(counts._pending).encode()]


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, int, int, int, list[Chunk]]:
    """Vocabulary, order, lanes, lag, and chunks with padding, empty lanes and document starts."""
    vocab, order = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    lanes, lag = draw(st.integers(1, 3)), draw(st.sampled_from([0, 0, 1, 3, 8]))
    chunks = []
    for _ in range(draw(st.integers(1, 8))):
        width = draw(st.integers(0, 12))
        tokens = draw(st.lists(st.integers(0, vocab - 1), min_size=lanes * width, max_size=lanes * width))
        lengths = draw(st.lists(st.integers(0, width), min_size=lanes, max_size=lanes))
        starts = draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes))
        shaped = np.array(tokens, dtype=np.int64).reshape(lanes, width)
        chunks.append(Chunk(shaped, np.array(lengths), np.array(starts)))
    return vocab, order, lanes, lag, chunks


@settings(max_examples=50, deadline=None)
@given(streams(), st.data())
def test_counts_equal_dictionaries(stream: tuple[int, int, int, int, list[Chunk]], data: st.DataObject) -> None:
    """Evidence and followers of every context equal those of dictionaries, whatever the lanes, starts, cuts and lag."""
    vocab, order, lanes, lag, chunks = stream
    boundary = data.draw(st.integers(0, vocab - 1))
    fast = NgramCounts(order, vocab, boundary, lanes, lag=lag, expected_tokens=1)
    plain = PlainCounts(order, boundary, lanes, lag)
    for chunk in chunks:
        before = fingerprint(fast)
        for lane in range(lanes):
            ahead = copy.deepcopy(plain)
            if chunk.starts[lane]:
                ahead.start(lane)
            found = np.stack(fast.look_up(chunk, lane), axis=1)
            assert found.shape == (chunk.lengths[lane], 3, order + 1)
            for t in range(chunk.lengths[lane]):
                token = int(chunk.tokens[lane, t])
                assert np.array_equal(found[t], evidence_of(ahead, lane, token))
                listed = fast.followers(chunk, lane, t)
                assert [dict(zip(f.tokens.tolist(), f.counts.tolist())) for f in listed] == ahead.known(lane)
                ahead.learn(lane, token)
        assert fingerprint(fast) == before
        fast.observe(chunk)
        for lane in range(lanes):
            if chunk.starts[lane]:
                plain.start(lane)
            for token in chunk.tokens[lane, : chunk.lengths[lane]].tolist():
                plain.learn(lane, token)


def ranked_counts(ids: np.ndarray, order: int, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """T and c of spec #1185, 4.10, items 1 and 2, [contexts of 0..order tokens, target index]: by sorting alone."""
    total, count = (np.zeros((order + 1, len(ids)), dtype=np.int64) for _ in range(2))
    block = (np.arange(len(ids)) - 1) // max(lag, 1)
    rank = np.zeros(len(ids), dtype=np.int64)
    for k in range(order + 1):
        targets = np.arange(max(1, k), len(ids))
        if k:  # the rank of the context of k tokens, from that of k - 1 tokens and one id more
            pair = rank[targets] * (ids.max() + 1) + ids[targets - k]
            rank = np.full(len(ids), -1)
            rank[targets] = np.unique(pair, return_inverse=True)[1]
        for into, key in ((total, rank[targets]), (count, rank[targets] * (ids.max() + 1) + ids[targets])):
            composite = np.sort(key * (len(ids) + 1) + block[targets])
            first = np.searchsorted(composite, key * (len(ids) + 1))
            into[k, targets] = np.searchsorted(composite, key * (len(ids) + 1) + block[targets]) - first
    return total, count


@pytest.mark.parametrize("lag", [1, 7, 64])
@pytest.mark.parametrize("order", [3, 22, 32])
def test_counts_equal_ranks_and_sorting(order: int, lag: int) -> None:
    """Streaming counts are those of the offline rank-and-sort method at every order (spec #1185, 4.10 and 7.1 d)."""
    rng = np.random.default_rng(order + lag)
    phrase = rng.integers(0, 6, 60)
    ids = np.concatenate([phrase, rng.integers(0, 6, 200), phrase[5:], rng.integers(0, 2, 100), phrase])
    total, count = ranked_counts(ids, order, lag)
    fast = NgramCounts(order, 6, int(ids[0]), lag=lag)  # index 0 is the virtual boundary
    found = []
    for first in range(1, len(ids), 50):
        chunk = chunk_of(ids[first : first + 50])
        found.append(np.stack(fast.look_up(chunk, 0)))
        fast.observe(chunk)
    together = np.concatenate(found, axis=1)
    assert np.array_equal(together[0], total[:, 1:].T)
    assert np.array_equal(together[1], count[:, 1:].T)


def test_published_counts_of_a_short_text() -> None:
    """Oracle O2 of spec #1185: the followers after 1 2 3 1 2 4 1 2 3."""
    fast = NgramCounts(2, 1024, 1, lag=8)  # the text's first id is the virtual boundary; then the block is over
    fast.observe(chunk_of([2, 3, 1, 2, 4, 1, 2, 3]))
    published = {
        (1,): {2: 3}, (2,): {3: 2, 4: 1}, (3,): {1: 1}, (4,): {1: 1},
        (1, 2): {3: 2, 4: 1}, (2, 3): {1: 1}, (3, 1): {2: 1}, (2, 4): {1: 1}, (4, 1): {2: 1},
    }  # fmt: skip
    for context, followers in published.items():
        listed = fast.followers(chunk_of([*context, 0], start=True), 0, len(context))[len(context)]
        assert dict(zip(listed.tokens.tolist(), listed.counts.tolist())) == followers
    assert len(fast.followers(chunk_of([9, 2, 0], start=True), 0, 2)) == 2  # after 9 2 only 2 is known


def test_corrected_counts_of_a_short_text() -> None:
    """Oracle O5 of spec #1185: T and c for contexts of one and two ids, chunks of four."""
    ids = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 3, 0]
    fast = NgramCounts(2, 4, ids[0], lag=4)
    total, count, _ = fast.look_up(chunk_of(ids[1:]), 0)
    assert total[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 2, 3, 3, 0]
    assert count[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 2, 3, 0, 0]
    assert total[:, 2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 0]
    assert count[:, 2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=300), st.lists(st.integers(1, 40), min_size=1), st.integers(0, 32)
)
def test_one_walk_is_looking_up_and_observing(tokens: list[int], sizes: list[int], order: int) -> None:
    """`look_up_and_observe` gives the evidence of `look_up` and leaves the state of `observe`, byte for byte."""
    one, two = (NgramCounts(order, 4, 0, expected_tokens=1) for _ in range(2))
    at, number = 0, 0
    while at < len(tokens):
        chunk = chunk_of(tokens[at : at + sizes[number % len(sizes)]])
        at, number = at + len(chunk.tokens[0]), number + 1
        expected = two.look_up(chunk, 0)
        two.observe(chunk)
        (found,) = one.look_up_and_observe(chunk)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected))
    used = [owner._trie.nodes_in_use() for owner in (one, two)]
    assert used[0] == used[1]
    assert np.array_equal(one._trie.trie.nodes[: used[0]], two._trie.trie.nodes[: used[0]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=200), st.integers(1, 30), st.sampled_from([0, 5]))
def test_counts_do_not_depend_on_the_chunks(tokens: list[int], size: int, lag: int) -> None:
    """One lane's evidence is the same however its stream is cut."""
    whole = np.stack(NgramCounts(6, 4, 0, lag=lag).look_up(chunk_of(tokens), 0))
    parts, found = NgramCounts(6, 4, 0, lag=lag), []
    for first in range(0, len(tokens), size):
        chunk = chunk_of(tokens[first : first + size])
        found.append(np.stack(parts.look_up(chunk, 0)))
        parts.observe(chunk)
    assert np.array_equal(np.concatenate(found, axis=1), whole)


@pytest.mark.parametrize("lag", [0, 6])
def test_what_comes_later_is_not_known(lag: int) -> None:
    """Other tokens at and after a position, and in other lanes, leave its followers alone (spec #1185, 7.1 b, c)."""
    rng = np.random.default_rng(0)
    fast = NgramCounts(4, 3, 0, lanes=2, lag=lag)
    fast.observe(Chunk(rng.integers(0, 3, (2, 40)), np.array([40, 40]), np.array([True, True])))
    tokens = rng.integers(0, 3, (2, 12))
    for t in range(12):
        changed = tokens.copy()
        changed[0, t:] = 2 - changed[0, t:]
        changed[1] = rng.integers(0, 3, 12)
        known = []
        for each in (tokens, changed):
            listed = fast.followers(Chunk(each, np.array([12, 12]), np.array([False, False])), 0, t)
            known.append([sorted(zip(one.tokens.tolist(), one.counts.tolist())) for one in listed])
        assert known[0] == known[1]


def test_priming_is_observing_one_text() -> None:
    """A primed engine has counted what one lane that was shown the documents and their boundaries has."""
    documents = [
        np.array([2, 3, 4, 2, 3], dtype=np.int32),
        np.empty(0, dtype=np.int32),
        np.array([2, 3], dtype=np.int32),
    ]
    primed, shown = NgramCounts(5, 5, 1), NgramCounts(5, 5, 1)
    primed.prime(documents)
    shown.observe(chunk_of([2, 3, 4, 2, 3, 1, 1, 2, 3, 1], start=True))
    question = chunk_of([2, 3, 4, 0, 2, 3, 1], start=True)
    assert all(np.array_equal(a, b) for a, b in zip(primed.look_up(question, 0), shown.look_up(question, 0)))


@pytest.mark.parametrize("token", [-1, 7, 1 << 40])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    """A wrong id is named with its place, and nothing was counted; padding may hold anything."""
    fast = NgramCounts(3, 7, 1, lag=2)
    fast.observe(chunk_of([1, 2, 3]))
    before = fingerprint(fast)
    chunk = chunk_of([2, token])
    for ask in (
        fast.observe,
        fast.look_up_and_observe,
        lambda c: fast.look_up(c, 0),
        lambda c: fast.followers(c, 0, 0),
    ):
        with pytest.raises(TokenizerError, match=rf"token {token} at lane 0 position 1 .* vocabulary of 7"):
            ask(chunk)
    with pytest.raises(TokenizerError, match="token 9"):
        fast.prime([np.array([2], dtype=np.int32), np.array([9], dtype=np.int32)])
    assert fingerprint(fast) == before
    fast.observe(Chunk(chunk.tokens, np.array([1]), np.array([False])))
    with pytest.raises(IndexError, match="position 1 is padding"):
        fast.followers(Chunk(chunk.tokens, np.array([1]), np.array([False])), 0, 1)


def test_orders_and_lags_that_are_not_offered_are_refused() -> None:
    """The message names the value."""
    with pytest.raises(RecipeError, match="order 33"):
        NgramCounts(33, 4, 0)
    with pytest.raises(RecipeError, match="-1"):
        NgramCounts(3, 4, 0, lag=-1)


def test_order_zero_counts_single_tokens() -> None:
    """Without a context there are token frequencies alone."""
    fast = NgramCounts(0, 4, 0)
    total, count, distinct = fast.look_up(chunk_of([1, 1, 2, 1]), 0)
    assert (total.T.tolist(), count.T.tolist(), distinct.T.tolist()) == ([[0, 1, 2, 3]], [[0, 1, 0, 2]], [[0, 1, 1, 2]])
    fast.observe(single_token(3))
    assert fast.followers(single_token(0), 0, 0)[0].tokens.tolist() == [3]
