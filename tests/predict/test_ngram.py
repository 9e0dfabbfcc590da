"""Exact n-gram counts: against a plain second implementation with dictionaries, and as a predictor."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.ngram_kernel import LEARNING_RATE, LEAST_ESCAPE, TOTAL_BUCKETS, first_escapes, variety_bucket
from paramgolf.predict.protocol import Chunk, single_token

VOCAB = 7
BOUNDARY = 1
texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60)


class PlainNgram:
    """The docstring of ngram_kernel, word for word, with dictionaries and recursion."""

    def __init__(self, order: int) -> None:
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.history: list[int] = []  # the virtual boundary is a context once a boundary has been counted
        self.order = order
        self.escapes = first_escapes(order + 1)

    def contexts(self) -> list[tuple[int, ...]]:
        found = []
        for k in range(self.order + 1):
            context = tuple(self.history[len(self.history) - k :])
            if len(context) < k or not self.counts[context]:
                break
            found.append(context)
        return found

    def cell(self, context: tuple[int, ...]) -> tuple[int, int, int]:
        counter = self.counts[context]
        total = sum(counter.values())
        return len(context), min(int(np.log2(total)), TOTAL_BUCKETS - 1), variety_bucket(total, len(counter))

    def row(self) -> np.ndarray:
        row = np.full(VOCAB, 1.0 / VOCAB)
        for context in self.contexts():
            counter, gate = self.counts[context], self.escapes[self.cell(context)]
            shares = np.array([counter[v] for v in range(VOCAB)]) / sum(counter.values())
            row = (1 - gate) * shares + gate * row
        return row

    def learn(self, token: int) -> None:
        contexts = self.contexts()
        cells = [self.cell(context) for context in contexts]
        gates = [self.escapes[cell] for cell in cells]
        shares = [self.counts[c][token] / sum(self.counts[c].values()) for c in contexts]
        below = [1.0 / VOCAB]
        for gate, share in zip(gates, shares):
            below.append((1 - gate) * share + gate * below[-1])
        for k in range(len(contexts)):
            slope = float(np.prod(gates[k + 1 :])) * (below[k] - shares[k]) / below[-1]
            moved = gates[k] + LEARNING_RATE * slope * (gates[k] * (1 - gates[k])) ** 2
            self.escapes[cells[k]] = np.clip(moved, LEAST_ESCAPE, 1 - LEAST_ESCAPE)
        for k in range(self.order + 1):
            if len(self.history) >= k:
                self.counts[tuple(self.history[len(self.history) - k :])][token] += 1
        self.history.append(token)


def chunk_of(tokens: list[int], start: bool = False) -> Chunk:
    return Chunk(np.array([tokens], dtype=np.int64), np.array([len(tokens)]), np.array([start]))


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(0, 4))
def test_rows_equal_the_plain_implementation(tokens: list[int], order: int) -> None:
    """Rows, credits and learnt escapes are those of dictionaries and recursion."""
    fast, plain = NgramPredictor(order, VOCAB, BOUNDARY), PlainNgram(order)
    for token in tokens:
        rows = fast.predict(single_token(token))
        np.testing.assert_allclose(np.exp(rows.row(0, 0)), plain.row(), rtol=1e-12)
        np.testing.assert_allclose(rows.realised()[0, 0], np.log(plain.row()[token]), rtol=1e-12)
        fast.observe(single_token(token))
        plain.learn(token)


@settings(max_examples=40, deadline=None)
@given(texts, st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_rows_do_not_depend_on_the_chunks(tokens: list[int], sizes: list[int]) -> None:
    """The same stream cut into other chunks gives the same credits, bit for bit."""
    whole = NgramPredictor(3, VOCAB, BOUNDARY).predict(chunk_of(tokens)).realised()[0]
    parts, cut, at = NgramPredictor(3, VOCAB, BOUNDARY), [], 0
    while at < len(tokens):
        size = sizes[len(cut) % len(sizes)]
        piece = chunk_of(tokens[at : at + size])
        cut.append(parts.predict(piece).realised()[0])
        parts.observe(piece)
        at += size
    assert np.array_equal(np.concatenate(cut), whole)


@settings(max_examples=40, deadline=None)
@given(texts, texts)
def test_predict_leaves_the_counts_as_they_were(seen: list[int], asked: list[int]) -> None:
    """After any question the table holds the very same bytes."""
    predictor = NgramPredictor(4, VOCAB, BOUNDARY)
    predictor.observe(chunk_of(seen))
    before = [array.tobytes() for array in (*predictor._trie.trie, predictor._escapes)]
    rows = predictor.predict(chunk_of(asked))
    rows.realised()
    rows.row(0, len(asked) - 1)
    assert [array.tobytes() for array in (*predictor._trie.trie, predictor._escapes)] == before


@settings(max_examples=30, deadline=None)
@given(texts, texts)
def test_every_row_sums_to_one(seen: list[int], asked: list[int]) -> None:
    """Each row is a distribution and holds the credited value."""
    predictor = NgramPredictor(3, VOCAB, BOUNDARY)
    predictor.observe(chunk_of(seen))
    rows = predictor.predict(chunk_of(asked))
    for t, token in enumerate(asked):
        row = rows.row(0, t)
        assert abs(np.exp(row).sum() - 1) < 1e-12
        assert abs(row[token] - rows.realised()[0, t]) < 1e-12


def test_a_table_that_grows_forgets_nothing() -> None:
    """Counts started in a table that doubles several times equal those of one that never had to."""
    tokens = np.random.default_rng(3).integers(0, VOCAB, 12000).tolist()
    small, large = (NgramPredictor(8, VOCAB, BOUNDARY, expected_tokens=n) for n in (1, 1 << 17))
    first_bytes = small.bytes_in_memory()
    assert first_bytes < large.bytes_in_memory()
    for first in range(0, len(tokens), 250):
        piece = chunk_of(tokens[first : first + 250])
        assert np.array_equal(small.predict(piece).realised(), large.predict(piece).realised())
        for predictor in (small, large):
            predictor.observe(piece)
    assert 2 * first_bytes < small.bytes_in_memory() < large.bytes_in_memory()


def test_lanes_share_counts_but_not_contexts() -> None:
    """What one lane observed sharpens another lane's rows; inside a chunk lanes do not see each other."""
    predictor = NgramPredictor(2, VOCAB, BOUNDARY, lanes=2)
    tokens = np.array([[2, 3, 2, 3, 2, 3], [4, 5, 4, 5, 4, 5]])
    chunk = Chunk(tokens, np.array([6, 6]), np.array([True, True]))
    swapped = Chunk(np.array([tokens[0], tokens[0]]), np.array([6, 6]), np.array([True, True]))
    assert np.array_equal(predictor.predict(chunk).realised()[0], predictor.predict(swapped).realised()[0])
    before = predictor.predict(Chunk(tokens[::-1].copy(), chunk.lengths, chunk.starts)).realised()
    predictor.observe(chunk)
    after = predictor.predict(Chunk(tokens[::-1].copy(), chunk.lengths, chunk.starts)).realised()
    assert (after.sum(axis=1) > before.sum(axis=1)).all()


def test_priming_is_observing() -> None:
    """A primed predictor has counted exactly what one that observed the documents with their boundaries has."""
    documents = [np.array([2, 3, 4, 2, 3], dtype=np.int32), np.array([5, 2, 3], dtype=np.int32)]
    primed, shown = NgramPredictor(3, VOCAB, BOUNDARY), NgramPredictor(3, VOCAB, BOUNDARY)
    primed.prime(documents)
    shown.observe(chunk_of([2, 3, 4, 2, 3, BOUNDARY, 5, 2, 3, BOUNDARY], start=True))
    question = chunk_of([2, 3, 4, 5, 5, 2], start=True)
    assert np.array_equal(primed.predict(question).realised(), shown.predict(question).realised())


def test_an_order_beyond_32_is_refused() -> None:
    """Orders are 0 to 32; the message names the value."""
    with pytest.raises(RecipeError, match="order 33"):
        NgramPredictor(33, VOCAB, BOUNDARY)
