"""SLOT as published and rescoring, around a real model: they use its states and its weights, and are caught."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from paramgolf.exhibits import EXHIBITS
from paramgolf.exhibits.inner import unwrapped
from paramgolf.exhibits.rescore import shorter
from paramgolf.exhibits.slot import fitted_rows
from paramgolf.model.gpt import GPT
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Int64, Predictor
from paramgolf.predict.slot import SlotPredictor
from paramgolf.predict.slot_readout import FixedReadout
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe
from paramgolf.referee.probes import probe_predictor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

V, BOUNDARY = 60, 1
SCORE = ScoreRecipe(window=16, stride=12, chunk=32, ttt_lr=3e-3, ttt_epochs=3)
SLOTS = ("slot", "slot-shared")


@functools.cache
def make_model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(ModelRecipe(layers=2, width=16, heads=4, kv_heads=2), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


class Forwarding:
    """What a command line puts around a predictor."""

    def __init__(self, inner: Predictor) -> None:
        self.inner = inner
        self.vocab_size = inner.vocab_size

    def predict(self, chunk: Chunk) -> object:
        return self.inner.predict(chunk)

    def observe(self, chunk: Chunk) -> None:
        self.inner.observe(chunk)


def window(lanes: int = 1) -> WindowPredictor:
    return WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes, frames_per_batch=2)


@functools.cache
def text() -> tuple[Int64, ...]:
    """Three documents of source code, by letter."""
    ids = np.frombuffer(inspect.getsource(inspect).encode(), dtype=np.uint8)[3000:3240].astype(np.int64) % 57 + 2
    return tuple(np.split(ids, [100, 180]))


def nats(predictor: Predictor, documents: Sequence[Int64], chunk: int = 32) -> float:
    """The mean cost of a token."""
    order, total = plan([len(d) for d in documents], lanes=1, chunk=chunk), 0.0
    for one in order.chunks(documents, BOUNDARY):
        total -= float(predictor.predict(one).realised().sum())
        predictor.observe(one)
    return total / order.token_count


@pytest.mark.parametrize("name", [*SLOTS, "ttt-rescore"])
def test_around_a_model_each_is_caught_by_its_rule(name: str) -> None:
    """States, weights and all: the rule that names the exhibit fails, wrapped or not."""
    exhibit = EXHIBITS[name]
    found = probe_predictor(
        lambda held_out: exhibit.build(lambda: Forwarding(window()), held_out),
        text(),
        lanes=1,
        chunk=32,
        boundary_id=BOUNDARY,
        seed=5,
        positions=4,
        counterfactuals=1,
        candidates=8,
        decoded_tokens=4,
    )
    assert {finding.rule: finding.status for finding in found}[exhibit.rule] == "FAIL"


@pytest.mark.parametrize("name", [*SLOTS, "ttt-rescore"])
def test_around_a_model_each_pretends_a_gain(name: str) -> None:
    """What it reports is lower than what the model's own rows cost."""
    built = EXHIBITS[name].build(lambda: Forwarding(window()), text())
    assert nats(built, text()) < nats(window(), text()) - 0.05


def test_the_published_form_fits_states_too() -> None:
    """Around a model it fits delta and bias: rows are those of the readout on "both", not of a bias alone."""
    chunk = Chunk(text()[0][None, :40], np.array([40]), np.array([True]))
    rows = EXHIBITS["slot"].build(lambda: Forwarding(window()), ()).predict(chunk)
    neural = window().predict(chunk)
    expected = fitted_rows(window().readout("both"), neural.states(0), chunk.tokens[0])
    np.testing.assert_allclose(rows.realised()[0], expected[np.arange(40), chunk.tokens[0]], atol=1e-9)
    alone = fitted_rows(FixedReadout("logits", V), neural.all_rows(0), chunk.tokens[0])
    assert np.abs(alone - expected).max() > 0.1


def test_the_fitted_rows_gain_and_the_one_left_out_loses() -> None:
    """Spec pr1430.md 4.3: on uniform tokens fitted positions fall below ln V, the excluded last one rises above it."""
    rng, flat = np.random.default_rng(0), np.full((64, 512), -np.log(512.0))
    readout, fitted, left_out = FixedReadout("logits", 512), [], []
    for _ in range(20):
        targets = rng.integers(0, 512, 64)
        cost = -fitted_rows(readout, flat, targets)[np.arange(64), targets]
        fitted.append(cost[:63].mean())
        left_out.append(cost[63])
    assert max(fitted) < np.log(512) - 1.5
    assert np.mean(left_out) > np.log(512) + 1.0


def test_the_shared_delta_leaks_and_the_strict_one_does_not() -> None:
    """On uniform tokens the batch's delta claims what is impossible, the strict one pays (spec pr1430.md 5)."""
    noise = [np.random.default_rng(2).integers(0, 16, 2048)]

    class Uniform:
        vocab_size = 16

        def predict(self, chunk: Chunk) -> object:
            from paramgolf.predict.protocol import TableRows

            return TableRows(np.full((*chunk.tokens.shape, 16), -np.log(16.0)), chunk)

        def observe(self, chunk: Chunk) -> None:
            pass

    shared = nats(EXHIBITS["slot-shared"].build(Uniform, ()), noise, chunk=256)
    assert 2048 * (np.log(16) - shared) > 21  # e-value: P <= 1e-9 for any honest predictor (spec 8.3, T5)
    strict = ScoreRecipe(slot_on="logits", slot_optimizer="lbfgs", slot_steps=25, slot_warm=1.0, slot_context=64)
    assert nats(SlotPredictor(Uniform(), strict), noise, chunk=256) > np.log(16)


def test_the_first_pass_of_rescoring_fits_short_texts() -> None:
    """A text of any length has at least three updates, and chunks divide what lies between them."""
    for tokens in (1, 3, 40, 1500, 60_000):
        recipe = shorter(ScoreRecipe(chunk=1792, ttt_chunk=5376), tokens)
        assert recipe.ttt_chunk % recipe.chunk == 0
        assert tokens < 4 or tokens // recipe.ttt_chunk >= 4
        assert recipe.chunk <= 1792 and recipe.ttt_chunk <= 5376


def test_wrappers_are_taken_off() -> None:
    """However often a model is wrapped, its own states are reached."""
    inner = window()
    assert unwrapped(Forwarding(Forwarding(inner))) is inner  # type: ignore[arg-type]  # rows are of any kind here
