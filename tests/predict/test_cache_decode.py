"""What every rule codes, an equal predictor decodes: chunks of one token give the coder the bits it needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from paramgolf.codec.arithmetic import TokenEncoder, decode_tokens, encode_chunks, encode_tokens, stream_chunks
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.model.gpt import GPT
from paramgolf.predict.cache import CachePredictor
from paramgolf.predict.cache_rules import (
    Rule,
    backoff,
    discounting,
    gated_norm_cache,
    laplace,
    learnt_backoff,
    norm_cache,
)
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.plan import plan
from paramgolf.predict.score import score
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.slow

VOCAB, BOUNDARY = 24, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, ngram_order=4, cache_least_order=2, cache_strength=4.0)
RULES: dict[str, Callable[[], Rule]] = {
    "laplace": lambda: laplace(SCORE, VOCAB),
    "norm_cache": lambda: norm_cache(SCORE),
    "gated_norm_cache": lambda: gated_norm_cache(SCORE),
    "backoff": lambda: backoff(SCORE, VOCAB),
    "learnt_backoff": lambda: learnt_backoff(SCORE, VOCAB),
    "discounting": lambda: discounting(SCORE, VOCAB),
}


def made(rule: str, lag: int) -> CachePredictor:
    """A small stepwise model with counts that were primed; built anew for each direction."""
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(MODEL, VOCAB)
    weights = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    counts = NgramCounts(SCORE.ngram_order, VOCAB, BOUNDARY, lag=lag)
    counts.prime([np.array([2, 3, 4, 5, 6, 7] * 5, dtype=np.int32)])
    return CachePredictor(StepPredictor(weights, MODEL, SCORE, VOCAB, BOUNDARY), counts, RULES[rule]())


def text() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate([[2, 3, 4, 5, 6, 7] * 20, rng.integers(0, VOCAB, 60), [5, 6, 9] * 20])


@pytest.mark.parametrize("lag", [0, 7])
@pytest.mark.parametrize("rule", RULES)
def test_a_text_comes_back_with(rule: str, lag: int) -> None:
    """Encoder and decoder, built apart, agree token by token; the code is as long as the rows and the credits claim."""
    tokens, encoder, credits = text(), TokenEncoder(), 0.0
    encode_chunks(made(rule, lag), stream_chunks(tokens, 1), encoder)
    code = encoder.code()
    assert np.array_equal(decode_tokens(made(rule, lag), code, len(tokens)), tokens)
    assert 0 <= 8 * len(code) - encoder.claimed_bits < 64
    scored = made(rule, lag)
    for chunk in stream_chunks(tokens, 50):
        credits -= float(scored.predict(chunk).realised().sum()) / np.log(2)
        scored.observe(chunk)
    assert encoder.claimed_bits == pytest.approx(credits, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_longer_chunks_decode_too(rule: str) -> None:
    """In chunks of nine, asked for again at each position with the later tokens unknown, the text comes back."""
    tokens = text()[90:170]
    code = encode_tokens(made(rule, 0), tokens, chunk=9)
    assert np.array_equal(decode_tokens(made(rule, 0), code, len(tokens), chunk=9), tokens)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_the_audit_passes(rule: str, lanes: int) -> None:
    """Scored over the neural window, alone or in lanes, every audited row is one that a referee accepts."""
    documents = [text()[at : at + 57] for at in (0, 90, 150)] + [text()[:0]]
    neural = WindowPredictor(GPT(MODEL, VOCAB, seed=3), SCORE, VOCAB, BOUNDARY, lanes, frames_per_batch=2)
    counts = NgramCounts(SCORE.ngram_order, VOCAB, BOUNDARY, lanes)
    order = plan([len(document) for document in documents], lanes=lanes, chunk=24)
    found = score(
        CachePredictor(neural, counts, RULES[rule]()),
        documents,
        order,
        BOUNDARY,
        raw_bytes=300,
        text_digest="none",
        audit_positions=6,
        seed=5,
    )
    assert found.audit.positions >= 5
    assert found.audit.passed()
