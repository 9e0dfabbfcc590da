"""Tokens to code and back through a predictor's two verbs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.codec.arithmetic import (
    TokenDecoder,
    TokenEncoder,
    decode_plan,
    decode_tokens,
    encode_plan,
    encode_tokens,
)
from paramgolf.errors import CodecError
from paramgolf.model.gpt import GPT
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Predictor, TableRows
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 60, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, chunk=24, ttt_chunk=48, ttt_lr=1e-2)


class Counts:
    """Order-0 counts over everything observed; inside a chunk it learns nothing."""

    vocab_size = V

    def __init__(self) -> None:
        self.counts = np.ones(V)

    def predict(self, chunk: Chunk) -> TableRows:
        row = np.log(self.counts / self.counts.sum())
        return TableRows(np.broadcast_to(row, (*chunk.tokens.shape, V)), chunk)

    def observe(self, chunk: Chunk) -> None:
        np.add.at(self.counts, chunk.tokens[chunk.real()], 1.0)


class Peek(Counts):
    """Knows the target: gives it 0.9."""

    def predict(self, chunk: Chunk) -> TableRows:
        rows = np.full((*chunk.tokens.shape, V), 0.1 / (V - 1))
        np.put_along_axis(rows, chunk.tokens[:, :, None], 0.9, axis=2)
        return TableRows(np.log(rows), chunk)


def make_model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def make_predictor(name: str, lanes: int = 1, chunk: int = 1) -> Predictor:
    if name == "counts":
        return Counts()
    if name == "step":
        weights = {key: value.detach().numpy() for key, value in make_model().exported_weights().items()}
        return StepPredictor(weights, MODEL, SCORE, V, BOUNDARY)
    if name == "window":
        return WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes, 1)
    return TttPredictor(WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes, 1), chunk=chunk)


def text(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(2, V, 30), count // 30 + 1)[:count]
    return np.where(rng.random(count) < 0.1, rng.integers(2, V, count), tokens)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, V - 1), max_size=60), st.sampled_from([1, 7, 24]))
def test_any_tokens_come_back_from_counts(tokens: list[int], chunk: int) -> None:
    """Whatever the tokens and the chunks, an equal predictor gives them back."""
    code = encode_tokens(Counts(), tokens, chunk)
    assert decode_tokens(Counts(), code, len(tokens), chunk).tolist() == tokens


@pytest.mark.parametrize(("name", "chunk"), [("step", 1), ("step", 24), ("window", 1), ("window", 24), ("ttt", 1)])
def test_tokens_come_back_from_a_network(name: str, chunk: int) -> None:
    """The neural predictors decode in one lane, over frame borders and weight updates."""
    tokens = text(110)
    code = encode_tokens(make_predictor(name, chunk=chunk), tokens, chunk)
    assert (decode_tokens(make_predictor(name, chunk=chunk), code, 110, chunk) == tokens).all()


@pytest.mark.parametrize("name", ["counts", "window", "ttt"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_documents_come_back_through_the_plan(name: str, lanes: int) -> None:
    """What the scorer feeds can be decoded: several lanes, chunks of 24, documents of any length, weights that move."""
    documents = [text(n) for n in (61, 0, 1, 24, 40, 30)]
    order = plan([len(d) for d in documents], lanes=lanes, chunk=24)
    code, claimed_bits = encode_plan(make_predictor(name, lanes, 24), documents, order, BOUNDARY)
    decoded = decode_plan(make_predictor(name, lanes, 24), code, order, BOUNDARY)
    assert [d.tolist() for d in decoded] == [d.tolist() for d in documents]
    assert 0 <= len(code) * 8 - claimed_bits < 0.005 * claimed_bits + 64


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 3000), st.floats(0.01, 20.0), st.integers(0, 2**32 - 1))
def test_a_code_is_as_long_as_its_rows_claim(vocab: int, sharpness: float, seed: int) -> None:
    """200 tokens drawn from random rows take the bits that the rows claim, plus 0.3 % and two words."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((200, vocab)) * sharpness
    logits -= logits.max(axis=1, keepdims=True)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    drawn = [int(rng.choice(vocab, p=np.exp(row) / np.exp(row).sum())) for row in rows]
    encoder = TokenEncoder()
    for row, token in zip(rows, drawn):
        encoder.put(row, token)
    assert encoder.claimed_bits == pytest.approx(-sum(row[token] for row, token in zip(rows, drawn)) / np.log(2))
    assert 8 * len(encoder.code()) <= encoder.claimed_bits * 1.003 + 64
    decoder = TokenDecoder(encoder.code())
    assert [decoder.get(row) for row in rows] == drawn


def test_last_bits_of_a_row_do_not_matter() -> None:
    """A decoder whose rows differ in the last bits reads the same tokens."""
    rng = np.random.default_rng(1)
    rows = np.log(rng.dirichlet(np.ones(300), 500))
    tokens = rng.integers(0, 300, 500)
    encoder = TokenEncoder()
    for row, token in zip(rows, tokens):
        encoder.put(row, int(token))
    decoder = TokenDecoder(encoder.code())
    moved = [np.nextafter(row, rng.choice([-np.inf, np.inf], row.shape)) for row in rows]
    assert [decoder.get(row) for row in moved] == tokens.tolist()


def test_an_impossible_token_still_comes_back() -> None:
    """A token to which its row gives nothing costs many bits, and is not lost."""
    row = np.log(np.array([0.5, 0.5, 1e-300]))
    row[2] = -np.inf
    encoder = TokenEncoder()
    encoder.put(row, 2)
    assert encoder.claimed_bits == np.inf
    assert TokenDecoder(encoder.code()).get(row) == 2


def test_a_predictor_that_peeks_cannot_be_decoded() -> None:
    """Rows that depend on their own target give a short code that decodes to something else."""
    tokens = text(50)
    code = encode_tokens(Peek(), tokens, 24)
    assert len(code) < 50
    assert decode_tokens(Peek(), code, 50, 24).tolist() != tokens.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.log([0.5, 0.4]), "sums to 0.9, not to 1"),
        (np.log([0.9, 0.9]), "sums to 1.8, not to 1"),
        (np.array([0.0, np.nan]), "sums to nan"),
        (np.array([np.inf, 0.0]), "sums to"),
        (np.full(3, -np.inf), "sums to 0, not to 1"),
    ],
)
def test_a_row_that_is_no_distribution_is_refused(row: np.ndarray, message: str) -> None:
    """Unnormalised and broken rows are a CodecError with their sum, in both directions."""
    with pytest.raises(CodecError, match=message):
        TokenEncoder().put(row, 0)
    with pytest.raises(CodecError, match=message):
        TokenDecoder(b"\0\0\0\0").get(row)


@pytest.mark.parametrize("token", [-1, 2])
def test_a_token_outside_the_row_is_refused(token: int) -> None:
    """An id that is not in the vocabulary names the range."""
    with pytest.raises(CodecError, match=rf"token {token} is outside 0\.\.1"):
        TokenEncoder().put(np.log([0.5, 0.5]), token)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_garbage_decodes_to_some_tokens_or_is_refused(garbage: bytes) -> None:
    """Any bytes as a code give tokens of the vocabulary or a CodecError, nothing else."""
    try:
        tokens = decode_tokens(Counts(), garbage, 30)
    except CodecError:
        return
    assert len(garbage) % 4 == 0
    assert ((tokens >= 0) & (tokens < V)).all()
