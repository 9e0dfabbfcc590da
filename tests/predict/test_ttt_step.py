"""The steps of test-time training: schedule, SGD, freezing, the last chunk, and what is not finite."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.errors import RecipeError
from paramgolf.kernels.loss import softcapped_loss
from paramgolf.model.arithmetic import BANKS, bank_rows
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.ttt_step import learning_rate
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 60, 1
MODEL = ModelRecipe(layers=3, width=16, heads=4, kv_heads=2, block_scales=True, residual_mix=True)
SGD = ScoreRecipe(
    window=16,
    stride=12,
    chunk=24,
    ttt_chunk=48,
    ttt_optimizer="sgd",
    ttt_lr=0.05,
    ttt_momentum=0.9,
    ttt_schedule="cosine",
    ttt_epochs=2,
    ttt_sequences=2,
)
TOKENS = np.random.default_rng(0).integers(2, V, 160)


def make_model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def make_chunk(tokens: np.ndarray) -> Chunk:
    return Chunk(tokens[None].astype(np.int64), np.array([len(tokens)]), np.array([False]))


def read(recipe: ScoreRecipe, tokens: np.ndarray, told: int | None = None) -> TttPredictor:
    """A predictor that has observed `tokens` in chunks."""
    window = WindowPredictor(make_model(), recipe, V, BOUNDARY)
    predictor = TttPredictor(window, tokens=len(tokens) if told is None else told)
    for first in range(0, len(tokens), recipe.chunk):
        predictor.observe(make_chunk(tokens[first : first + recipe.chunk]))
    return predictor


def weights(predictor: TttPredictor) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in predictor._model.named_parameters()}


def test_the_published_rates() -> None:
    """0.002 falling by a cosine over 1,893 chunks (spec pr549.md 8.6)."""
    recipe = dataclasses.replace(SGD, ttt_lr=0.002)
    expected = {0: 0.002, 1: 0.00199999862, 473: 0.00170710678, 946: 0.001, 1419: 0.000292893219}
    for chunk, rate in expected.items():
        assert learning_rate(recipe, chunk, 1893) == pytest.approx(rate, abs=1e-11)
    assert learning_rate(recipe, 1890, 1893) == pytest.approx(5.514e-9, rel=1e-3)
    assert learning_rate(recipe, 1891, 1893) == pytest.approx(1.379e-9, rel=1e-3)


def test_a_cosine_needs_the_length_of_the_text() -> None:
    """Without it the predictor is refused before it reads anything; a constant rate needs nothing."""
    window = WindowPredictor(make_model(), SGD, V, BOUNDARY)
    with pytest.raises(RecipeError, match="needs the number of tokens"):
        TttPredictor(window)
    constant = dataclasses.replace(SGD, ttt_schedule="constant")
    TttPredictor(WindowPredictor(make_model(), constant, V, BOUNDARY))


def test_updates_are_sgd_with_momentum_on_the_scored_tokens() -> None:
    """A plain loop (48 tokens as 3 sequences, 2 a step, 2 epochs, momentum over updates) ends at the same weights."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    stream = torch.from_numpy(np.concatenate([[BOUNDARY], TOKENS]))
    for update in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * update / 3))
        inputs, targets = (stream[48 * update + shift :][:48].view(3, 16) for shift in (0, 1))
        for _ in range(2):
            for part in (slice(0, 2), slice(2, 3)):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[part]).flatten(0, 1), targets[part].flatten()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    found = weights(read(SGD, TOKENS))
    for name, expected in model.named_parameters():
        torch.testing.assert_close(found[name], expected.detach(), atol=1e-5, rtol=1e-4, msg=name)


def test_the_last_chunk_is_not_trained_on() -> None:
    """160 tokens are four chunks and three updates; 144 are three and two, though the last one is full."""
    assert read(SGD, TOKENS).learning.updates == 3
    assert read(SGD, TOKENS[:144]).learning.updates == 2
    assert read(SGD, TOKENS[:144], told=145).learning.updates == 3
    assert read(SGD, TOKENS[:20]).learning.updates == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_blocks_stand_still(optimizer: str) -> None:
    """All of a frozen block, its matrices in the banks included, keeps its bits; everything else moves."""
    recipe = dataclasses.replace(SGD, ttt_optimizer=optimizer, ttt_frozen_blocks=2)
    before, after = dict(make_model().named_parameters()), weights(read(recipe, TOKENS))
    for name, value in before.items():
        rows = bank_rows(name, len(value)) if name in BANKS else [name]
        pairs = zip(value, after[name], strict=True) if name in BANKS else [(value, after[name])]
        for row, (old, new) in zip(rows, pairs, strict=True):
            assert bool((old == new).all()) == row.startswith(("blocks.0.", "blocks.1.")), row


def test_frozen_gradients_do_not_count_in_the_norm() -> None:
    """A clip so low that it always acts moves the free weights further when others are frozen."""
    recipe = dataclasses.replace(SGD, ttt_clip_norm=1e-3, ttt_epochs=1)
    start = dict(make_model().named_parameters())["banks.up"][2]
    moves = [
        (weights(read(dataclasses.replace(recipe, ttt_frozen_blocks=n), TOKENS))["banks.up"][2] - start).norm()
        for n in (0, 2)
    ]
    assert moves[1] > 1.01 * moves[0]


def test_more_frozen_blocks_than_there_are_is_refused() -> None:
    """Both numbers are named."""
    with pytest.raises(RecipeError, match=r"ttt_frozen_blocks=4 .* model\.layers=3"):
        read(dataclasses.replace(SGD, ttt_frozen_blocks=4), TOKENS)


def test_a_gradient_that_is_no_number_ends_the_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the middle of the second update: the weights are, bit for bit, those after the first, and stay so."""
    calls = []

    def loss(*given: object) -> torch.Tensor:
        calls.append(1)
        return softcapped_loss(*given) * (math.nan if len(calls) == 7 else 1.0)

    monkeypatch.setattr("paramgolf.predict.ttt_step.softcapped_loss", loss)
    predictor = read(SGD, TOKENS)
    assert predictor.learning.updates == 1
    assert predictor.learning.stopped.startswith("update 2, after 96 tokens, met numbers that are not finite")
    expected = weights(read(SGD, TOKENS[:48], told=160))
    assert all((value == expected[name]).all() for name, value in weights(predictor).items())
    assert np.isfinite(predictor.predict(make_chunk(TOKENS[:10])).realised()).all()


def test_a_last_step_that_ruins_the_weights_is_taken_back() -> None:
    """An infinite rate and one step an update: no gradient after it could tell, the weights themselves do."""
    predictor = read(dataclasses.replace(SGD, ttt_lr=math.inf, ttt_sequences=8, ttt_epochs=1), TOKENS)
    assert predictor.learning.updates == 0 and predictor.learning.stopped.startswith("update 1, after 48 tokens")
    expected = dict(make_model().named_parameters())
    assert all((value == expected[name]).all() for name, value in weights(predictor).items())
