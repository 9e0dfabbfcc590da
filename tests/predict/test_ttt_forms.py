"""Forms of test-time training: AdamW with decay, a rate with a floor, blocks that really freeze, averaged weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.model.arithmetic import BANKS, bank_rows
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.ttt import TttPredictor
from paramgolf.predict.ttt_step import learning_rate
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 60, 1
MODEL = ModelRecipe(layers=3, width=16, heads=4, kv_heads=2, block_scales=True, residual_mix=True)
ADAMW = ScoreRecipe(
    window=16,
    stride=12,
    chunk=24,
    ttt_chunk=48,
    ttt_lr=0.01,
    ttt_weight_decay=0.1,
    ttt_schedule="cosine",
    ttt_least_lr=0.004,
    ttt_epochs=2,
    ttt_sequences=2,
)
TOKENS = np.random.default_rng(0).integers(2, V, 160)


def make_model(recipe: ModelRecipe = MODEL) -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(recipe, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def make_chunk(tokens: np.ndarray) -> Chunk:
    return Chunk(tokens[None].astype(np.int64), np.array([len(tokens)]), np.array([False]))


def read(recipe: ScoreRecipe, model: GPT | None = None, ranks: Ranks | None = None) -> TttPredictor:
    """A predictor that has observed all tokens in chunks: three updates."""
    window = WindowPredictor(model or make_model(), recipe, V, BOUNDARY, ranks=ranks)
    predictor = TttPredictor(window, tokens=len(TOKENS))
    for first in range(0, len(TOKENS), recipe.chunk):
        predictor.observe(make_chunk(TOKENS[first : first + recipe.chunk]))
    assert predictor.learning.updates == 3
    return predictor


def raw_weights(predictor: TttPredictor) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in predictor._model.named_parameters()}


def row_weights(predictor: TttPredictor) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in predictor.model.named_parameters()}


def plain_steps(recipe: ScoreRecipe) -> list[dict[str, torch.Tensor]]:
    """The weights after every optimizer step of a plain loop: 48 tokens as 3 sequences, 2 a step, 2 epochs."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=recipe.ttt_weight_decay)
    stream = torch.from_numpy(np.concatenate([[BOUNDARY], TOKENS]))
    found = []
    for update in range(3):
        cosine = recipe.ttt_lr * 0.5 * (1 + math.cos(math.pi * update / 3))
        optimizer.param_groups[0]["lr"] = max(cosine, recipe.ttt_least_lr)
        inputs, targets = (stream[48 * update + shift :][:48].view(3, 16) for shift in (0, 1))
        for _ in range(2):
            for part in (slice(0, 2), slice(2, 3)):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[part]).flatten(0, 1), targets[part].flatten()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                found.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return found


def test_the_published_rates() -> None:
    """1e-3 falling over 1,893 chunks to a floor of 1e-4, met at chunk 1505 (spec pr1430.md 11, "TTT lr")."""
    recipe = dataclasses.replace(ADAMW, ttt_lr=1e-3, ttt_least_lr=1e-4)
    expected = {0: 1e-3, 473: 8.535534e-4, 946: 5e-4, 1419: 1.464466e-4, 1504: 1.002275e-4}
    for chunk, rate in expected.items():
        assert learning_rate(recipe, chunk, 1893) == pytest.approx(rate, abs=6e-11)
    assert {learning_rate(recipe, chunk, 1893) for chunk in range(1505, 1893)} == {1e-4}
    constant = dataclasses.replace(recipe, ttt_schedule="constant", ttt_lr=1e-5)
    assert learning_rate(constant, 7, None) == 1e-5


def test_updates_are_adamw_with_decay_on_the_scored_tokens() -> None:
    """A plain loop with torch's AdamW, its decay and the floor of the rate ends at the same weights."""
    found, expected = raw_weights(read(ADAMW)), plain_steps(ADAMW)[-1]
    for name, value in expected.items():
        # AdamW divides by the gradient's size, so that float noise of tiny gradients moves a weight by part of a rate.
        assert (found[name] - value).abs().mean() < 1e-4, name
    undecayed = raw_weights(read(dataclasses.replace(ADAMW, ttt_weight_decay=0.0)))
    assert (undecayed["embedding.weight"] - found["embedding.weight"]).abs().mean() > 1e-3


@pytest.mark.parametrize("gated", [False, True])
def test_frozen_blocks_keep_their_bits_under_decay(gated: bool) -> None:
    """Neither decay nor momentum nor averaging moves a bit of a frozen block, in the banks or beside them."""
    recipe = dataclasses.replace(ADAMW, ttt_frozen_blocks=2, ttt_polyak=0.9, ttt_weight_decay=0.5)
    model = make_model(dataclasses.replace(MODEL, gated_mlp=gated))
    before, predictor = dict(model.named_parameters()), read(recipe, model)
    for after in (raw_weights(predictor), row_weights(predictor)):
        for name, value in before.items():
            rows = bank_rows(name, len(value)) if name in BANKS else [name]
            pairs = zip(value, after[name], strict=True) if name in BANKS else [(value, after[name])]
            for row, (old, new) in zip(rows, pairs, strict=True):
                assert bool((old == new).all()) == row.startswith(("blocks.0.", "blocks.1.")), row


def test_rows_come_from_the_average_and_training_from_the_weights() -> None:
    """The average is a plain running one over all steps (spec pr1185.md 5); the trained weights do not know of it."""
    recipe = dataclasses.replace(ADAMW, ttt_polyak=0.8)
    predictor = read(recipe)
    plain = raw_weights(read(ADAMW))
    assert all((value == plain[name]).all() for name, value in raw_weights(predictor).items())
    average = {name: value.detach().clone() for name, value in make_model().named_parameters()}
    for weights in plain_steps(recipe):
        average = {name: 0.8 * value + 0.2 * weights[name] for name, value in average.items()}
    found = row_weights(predictor)
    for name, value in average.items():
        assert (found[name] - value).abs().mean() < 1e-4, name
    chunk = make_chunk(TOKENS[:20])
    rows = predictor.predict(chunk).all_rows(0)
    reader = WindowPredictor(predictor.model, recipe, V, BOUNDARY)
    reader.observe(make_chunk(TOKENS))
    assert (rows == reader.predict(chunk).all_rows(0)).all()


def test_before_the_first_update_the_average_is_the_model() -> None:
    """The first ttt_chunk rows have the bits of the model's own."""
    recipe = dataclasses.replace(ADAMW, ttt_polyak=0.8, ttt_schedule="constant")
    window = WindowPredictor(make_model(), recipe, V, BOUNDARY)
    chunk = make_chunk(TOKENS[:48])
    assert (TttPredictor(window).predict(chunk).all_rows(0) == window.predict(chunk).all_rows(0)).all()


def test_an_update_that_meets_no_numbers_puts_the_average_back_too() -> None:
    """After a rate that blows the weights up, rows come from the model as it was, and it says why."""
    recipe = dataclasses.replace(ADAMW, ttt_polyak=0.5, ttt_schedule="constant", ttt_lr=1e38, ttt_optimizer="sgd")
    model = make_model()
    predictor = TttPredictor(WindowPredictor(model, recipe, V, BOUNDARY), tokens=len(TOKENS))
    for first in range(0, len(TOKENS), recipe.chunk):
        predictor.observe(make_chunk(TOKENS[first : first + recipe.chunk]))
    assert predictor.learning.stopped and predictor.learning.updates == 0
    for weights in (raw_weights(predictor), row_weights(predictor)):
        assert all((weights[name] == value).all() for name, value in model.named_parameters())


def test_all_ranks_end_at_the_same_weights_and_averages(on_ranks: Callable[..., list[Any]]) -> None:
    """With decay, frozen blocks and averaging, three ranks hold the same bits, near those of one alone."""
    recipe = dataclasses.replace(ADAMW, ttt_frozen_blocks=1, ttt_polyak=0.9)
    found = on_ranks(3, lambda ranks: read(recipe, ranks=ranks))
    alone = read(recipe)
    for weights in (raw_weights, row_weights):
        for name, value in weights(found[0]).items():
            assert all((weights(other)[name] == value).all() for other in found[1:]), name
            assert (weights(alone)[name] - value).abs().mean() < 1e-4, name
