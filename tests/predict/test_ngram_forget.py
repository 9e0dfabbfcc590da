"""N-gram counts in bounded memory: what is forgotten, what stays consistent, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from paramgolf.errors import RecipeError
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.ngram_table import COUNT, DISTINCT, FOLLOW, PARENT, SIBLING, TOTAL, USED
from paramgolf.predict.protocol import Chunk

VOCAB, ORDER = 50, 6


def least_bytes() -> int:
    """The bound that the refusal of a smaller one names."""
    with pytest.raises(RecipeError, match="ngram_bytes=1000") as caught:
        NgramCounts(ORDER, VOCAB, 0, most_bytes=1000)
    found = re.search(r"at least (\d+)", str(caught.value))
    assert found
    return int(found[1])


def text(length: int, seed: int = 0) -> np.ndarray:
    """Skewed tokens with repeats: some contexts are frequent, most are rare."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.integers(0, VOCAB, length), rng.integers(0, VOCAB, length))
    for at in range(0, length - 40, 90):
        tokens[at : at + 20] = np.arange(20)
    return tokens


def chunk_of(tokens: np.ndarray) -> Chunk:
    return Chunk(tokens[None].astype(np.int64), np.array([len(tokens)]), np.array([False]))


def assert_consistent(counts: NgramCounts) -> None:
    """Every total is the sum of the followers' counts, every variety their number; no row is lost."""
    nodes, slots, history, scalars = counts._trie.trie
    used = int(scalars[USED])
    sums, numbers = np.zeros(used, dtype=np.int64), np.zeros(used, dtype=np.int64)
    child = nodes[VOCAB + 1 : used]
    np.add.at(sums, child[:, PARENT], child[:, COUNT])
    np.add.at(numbers, child[:, PARENT], 1)
    sums[0], numbers[0] = nodes[1 : VOCAB + 1, COUNT].sum(), (nodes[1 : VOCAB + 1, COUNT] > 0).sum()
    single = nodes[:used, FOLLOW] < 0
    assert not numbers[single].any() and (history[~nodes[:used, FOLLOW][single]] >= 0).all()
    assert np.array_equal(sums + single, nodes[:used, TOTAL])
    assert np.array_equal(numbers + single, nodes[:used, DISTINCT])
    listed = [row for row in nodes[1:used, FOLLOW] if row > 0] + [row for row in child[:, SIBLING] if row > 0]
    assert sorted(listed) == list(range(VOCAB + 1, used))  # each node is in its parent's list, once
    assert sorted((slots[slots > 0] & np.uint64(0xFFFFFFFF)).tolist()) == list(range(VOCAB + 1, used))
    assert not nodes[used:].any()


@pytest.mark.parametrize("lag", [0, 100])
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_full_memory_forgets_and_stays_consistent(lanes: int, lag: int) -> None:
    """The arrays never exceed the bound, sums hold after every chunk, and no count exceeds the true one."""
    bound = least_bytes() + 5000
    counts = NgramCounts(ORDER, VOCAB, 0, lanes, lag=lag, most_bytes=bound)
    true = NgramCounts(ORDER, VOCAB, 0, lanes, lag=lag)
    tokens = np.stack([text(6000, seed) for seed in range(lanes)])
    for first in range(0, 6000, 250):
        chunk = Chunk(tokens[:, first : first + 250], np.full(lanes, 250), np.full(lanes, first % 1000 == 0))
        for lane in range(lanes):
            found, most = counts.look_up(chunk, lane), true.look_up(chunk, lane)
            assert (found.total_TK <= most.total_TK).all() and (found.count_TK <= found.total_TK).all()
            assert (found.distinct_TK <= found.total_TK).all() and (found.count_TK <= most.count_TK).all()
            listed = counts.followers(chunk, lane, 200)
            assert [int(one.counts.sum()) for one in listed] == [n for n in found.total_TK[200].tolist() if n]
            assert [int(one.tokens.size) for one in listed] == [n for n in found.distinct_TK[200].tolist() if n]
        counts.observe(chunk)
        true.observe(chunk)
        assert_consistent(counts)
        assert counts.bytes_in_memory() <= bound
    assert counts.forgotten > 0 and true.forgotten == 0


def test_the_frequent_is_kept() -> None:
    """After much forgetting the phrase that came again and again is still known to its full length."""
    counts = NgramCounts(ORDER, VOCAB, 0, most_bytes=least_bytes())
    counts.observe(chunk_of(text(8_000)))
    assert counts.forgotten > 1000
    found = counts.look_up(chunk_of(np.arange(20)), 0)
    assert (found.count_TK[8:, ORDER] > 40).all()


@pytest.mark.parametrize("lag", [0, 64])
def test_forgetting_does_not_depend_on_the_chunks(lag: int) -> None:
    """With one lane all counts after `observe` are the same bytes however the stream was cut."""
    tokens, states = text(15_000, 3), []
    for size in (15_000, 700, 1):
        counts = NgramCounts(ORDER, VOCAB, 0, lag=lag, most_bytes=least_bytes())
        for first in range(0, len(tokens), size):
            counts.observe(chunk_of(tokens[first : first + size]))
        states.append(([array.tobytes() for array in counts._trie.trie], counts.forgotten))
    assert states[0] == states[1] == states[2]
    assert states[0][1] > 0


def test_looking_up_never_forgets() -> None:
    """A chunk that the memory cannot hold is answered all the same, and every byte is as before."""
    counts = NgramCounts(ORDER, VOCAB, 0, most_bytes=least_bytes())
    counts.observe(chunk_of(text(500)))
    before = [array.tobytes() for array in counts._trie.trie]
    long = text(20_000, 5)
    evidence = counts.look_up(chunk_of(long), 0)
    listed = counts.followers(chunk_of(long), 0, 19_999)
    assert [array.tobytes() for array in counts._trie.trie] == before and counts.forgotten == 0
    assert (evidence.total_TK[:, 0] > 0).all()
    assert [int(one.counts.sum()) for one in listed] == [n for n in evidence.total_TK[-1].tolist() if n]


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    """Bounded and unbounded memory give the same evidence as long as there is room."""
    tokens = chunk_of(text(3000))
    free, bound = NgramCounts(ORDER, VOCAB, 0), NgramCounts(ORDER, VOCAB, 0, most_bytes=1 << 21)
    free.observe(tokens)
    bound.observe(tokens)
    again = chunk_of(text(500, 9))
    assert all(np.array_equal(a, b) for a, b in zip(free.look_up(again, 0), bound.look_up(again, 0)))
    assert bound.forgotten == 0


def test_learnt_escapes_work_in_bounded_memory() -> None:
    """Rows of a predictor that forgets still sum to one, and hold the credited values."""
    predictor = NgramPredictor(ORDER, VOCAB, 0, most_bytes=least_bytes())
    predictor.prime([text(12_000).astype(np.int32)])
    assert predictor.forgotten > 0
    asked = text(60, 2)
    rows = predictor.predict(chunk_of(asked))
    for t, token in enumerate(asked):
        row = rows.row(0, t)
        assert abs(np.exp(row).sum() - 1) < 1e-12
        assert abs(row[token] - rows.realised()[0, t]) < 1e-12
