"""The mixer: a distribution whatever it mixes, independent of chunks, and better than its worse half."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.predict.mix import MixPredictor
from paramgolf.predict.mix_kernel import FIRST_SHARE, LEARNING_RATE, LEAST_SHARE
from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.protocol import Chunk, TableRows, single_token

VOCAB = 6
BOUNDARY = 1
texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=50)


class LastToken:
    """A stand-in for the model: a fixed table of rows by the previous token."""

    vocab_size = VOCAB

    def __init__(self, seed: int = 0, sharpness: float = 1.0) -> None:
        logits = sharpness * np.random.default_rng(seed).normal(size=(VOCAB, VOCAB))
        self.table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        self.last = BOUNDARY

    def predict(self, chunk: Chunk) -> TableRows:
        previous = np.concatenate([[self.last], chunk.tokens[0, :-1]])
        return TableRows(self.table[previous][None], chunk)

    def observe(self, chunk: Chunk) -> None:
        self.last = int(chunk.tokens[0, chunk.lengths[0] - 1])


def mixed(seed: int = 0, sharpness: float = 1.0) -> MixPredictor:
    return MixPredictor(LastToken(seed, sharpness), NgramPredictor(2, VOCAB, BOUNDARY))


def chunk_of(tokens: list[int]) -> Chunk:
    return Chunk(np.array([tokens], dtype=np.int64), np.array([len(tokens)]), np.array([False]))


@settings(max_examples=40, deadline=None)
@given(texts)
def test_credits_equal_a_plain_mixture(tokens: list[int]) -> None:
    """One token at a time, the mixer is the formula of its docstring with shares that follow the plain gradient."""
    mixer, neural, ngram = mixed(), LastToken(), NgramPredictor(2, VOCAB, BOUNDARY)
    shares = np.full(ngram.evidence_values(), FIRST_SHARE)
    for token in tokens:
        one = single_token(token)
        p, q = np.exp(neural.predict(one).row(0, 0)), np.exp(ngram.predict(one).row(0, 0))
        cell = ngram.first_evidence(one, 0)
        expected = (1 - shares[cell]) * q + shares[cell] * p
        rows = mixer.predict(one)
        np.testing.assert_allclose(np.exp(rows.row(0, 0)), expected, rtol=1e-11)
        np.testing.assert_allclose(rows.realised()[0, 0], np.log(expected[token]), rtol=1e-11)
        moved = shares[cell] + LEARNING_RATE * (p[token] - q[token]) / expected[token] * shares[cell] * (
            1 - shares[cell]
        )
        shares[cell] = np.clip(moved, LEAST_SHARE, 1 - LEAST_SHARE)
        for predictor in (mixer, neural, ngram):
            predictor.observe(one)


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(1, 7))
def test_rows_do_not_depend_on_the_chunks(tokens: list[int], size: int) -> None:
    """Credits and whole rows are the same bits whether the stream comes at once or in pieces."""
    rows = mixed().predict(chunk_of(tokens))
    parts, at = mixed(), 0
    while at < len(tokens):
        piece = chunk_of(tokens[at : at + size])
        asked = parts.predict(piece)
        assert np.array_equal(asked.realised()[0], rows.realised()[0, at : at + size])
        assert np.array_equal(asked.row(0, 0), rows.row(0, at))
        parts.observe(piece)
        at += size


@settings(max_examples=40, deadline=None)
@given(texts, texts)
def test_observe_learns_from_the_chunk_it_is_shown(tokens: list[int], other: list[int]) -> None:
    """A question about another chunk between `predict` and `observe` leaves no trace."""
    asked, plain = mixed(), mixed()
    asked.predict(chunk_of(tokens)).realised()
    asked.predict(chunk_of(other)).realised()
    for predictor in (asked, plain):
        predictor.observe(chunk_of(tokens))
    question = chunk_of(other)
    assert np.array_equal(asked.predict(question).realised(), plain.predict(question).realised())


@settings(max_examples=30, deadline=None)
@given(texts)
def test_every_row_is_a_distribution(tokens: list[int]) -> None:
    """Each row sums to one and holds the credited value."""
    mixer = mixed()
    mixer.observe(chunk_of([2, 3, 4] * 5))
    rows = mixer.predict(chunk_of(tokens))
    for t, token in enumerate(tokens):
        row = rows.row(0, t)
        assert abs(np.exp(row).sum() - 1) < 1e-11
        assert abs(row[token] - rows.realised()[0, t]) < 1e-12


def test_the_mixer_learns_whom_to_trust() -> None:
    """On text that repeats, the mixture ends near the better expert, whichever that is."""
    repeating = [2, 3, 4, 5, 0] * 200
    confident_and_wrong = mixed(seed=1, sharpness=6.0)
    alone = NgramPredictor(2, VOCAB, BOUNDARY)
    chunk = chunk_of(repeating)
    assert confident_and_wrong.predict(chunk).realised().sum() > alone.predict(chunk).realised().sum() - 40
