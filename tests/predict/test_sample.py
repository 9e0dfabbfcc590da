"""Text drawn from an artifact."""

from __future__ import annotations

import hashlib
import sys
import types

import numpy as np
import pytest
import torch

from paramgolf.artifact.artifact import Artifact
from paramgolf.errors import RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Predictor, single_token
from paramgolf.predict.sample import draw, sample
from paramgolf.predict.step import StepPredictor
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer

MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)


def make_artifact(boundary_boost: float = 0.0) -> Artifact:
    model = GPT(MODEL, 260)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in model.exported_weights().items():
        weights[name] = (torch.randn(parameter.shape, generator=generator) * 0.5).numpy()
    weights["embedding.weight"][1] *= boundary_boost
    recipe = Recipe("test", TokenizerRecipe("bytes", 260), MODEL, score=ScoreRecipe(window=16, stride=12))
    return Artifact(recipe, ByteTokenizer(), weights, digest=hashlib.sha256(b"").hexdigest())


def build(artifact: Artifact, adapt: str, *, incremental: bool, tokens: int) -> Predictor:
    assert adapt == "none" and incremental
    return StepPredictor(artifact.weights, artifact.recipe.model, artifact.recipe.score, 260, 1)


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("paramgolf.predict.adapt")
    module.build_predictor = build
    monkeypatch.setitem(sys.modules, "paramgolf.predict.adapt", module)


def test_the_same_seed_gives_the_same_text() -> None:
    """Equal arguments give equal bytes, another seed or prompt gives others."""
    first = sample(make_artifact(), b"prompt", 30, seed=1)
    assert first == sample(make_artifact(), b"prompt", 30, seed=1)
    assert first != sample(make_artifact(), b"prompt", 30, seed=2)
    assert sample(make_artifact(), b"prompt", 30, 0.0) != sample(make_artifact(), b"another", 30, 0.0)


@pytest.mark.parametrize("prompt", [b"", b"ab"])
def test_temperature_zero_takes_the_likeliest_token(prompt: bytes) -> None:
    """Without chance each byte is the top of its row, given what stands before it."""
    predictor = build(make_artifact(), "none", incremental=True, tokens=0)
    expected = ByteTokenizer().encode(prompt).tolist()
    for token in expected:
        predictor.observe(single_token(token))
    while len(expected) < len(prompt) + 20:
        token = int(predictor.predict(single_token(0)).row(0, 0).argmax())
        assert token != 1, "the model ends the document: choose other weights for this test"
        expected.append(token)
        predictor.observe(single_token(token))
    assert sample(make_artifact(), prompt, 20, temperature=0) == ByteTokenizer().decode(expected[len(prompt) :])


def test_the_boundary_ends_the_text() -> None:
    """A model that ends its documents at once gives a short text."""
    sizes = [len(sample(make_artifact(100.0), b"", 200, seed=seed)) for seed in range(5)]
    assert min(sizes) < 200


def test_draws_follow_the_row() -> None:
    """At temperature 1 the shares are the row's, at 0.5 their squares."""
    row = np.log([0.1, 0.2, 0.7])
    rng = np.random.default_rng(0)
    for temperature, expected in ((1.0, [0.1, 0.2, 0.7]), (0.5, np.array([1, 4, 49]) / 54)):
        drawn = np.bincount([draw(row, temperature, rng) for _ in range(4000)], minlength=3) / 4000
        np.testing.assert_allclose(drawn, expected, atol=0.03)


@pytest.mark.parametrize(("tokens", "temperature"), [(-1, 1.0), (1, -0.5), (1, float("nan"))])
def test_impossible_settings_are_refused(tokens: int, temperature: float) -> None:
    """Negative settings and NaN are a RecipeError with both values."""
    with pytest.raises(RecipeError, match="temperature"):
        sample(make_artifact(), b"", tokens, temperature)
