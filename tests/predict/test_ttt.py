"""Score-first test-time training."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from paramgolf.errors import RecipeError
from paramgolf.model.gpt import GPT
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.score import score
from paramgolf.predict.ttt import Pending, TttPredictor
from paramgolf.predict.ttt_step import IGNORED
from paramgolf.predict.window import WindowPredictor
from paramgolf.ranks import Ranks
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 60, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, chunk=24, ttt_chunk=48, ttt_lr=1e-2, ttt_epochs=2)


def make_model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def learner(
    recipe: ScoreRecipe = SCORE,
    lanes: int = 1,
    chunk: int | None = None,
    tokens: int | None = None,
    model: GPT | None = None,
    ranks: Ranks | None = None,
) -> TttPredictor:
    window = WindowPredictor(make_model() if model is None else model, recipe, V, BOUNDARY, lanes, ranks=ranks)
    return TttPredictor(window, chunk=chunk, tokens=tokens)


def make_chunk(tokens: np.ndarray, lengths: list[int] | None = None, starts: list[bool] | None = None) -> Chunk:
    tokens = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
    lanes, length = tokens.shape
    return Chunk(tokens, np.array(lengths or [length] * lanes), np.array(starts or [False] * lanes))


def all_rows(predictor: TttPredictor, tokens: np.ndarray, size: int) -> np.ndarray:
    parts = []
    for first in range(0, len(tokens), size):
        chunk = make_chunk(tokens[first : first + size])
        parts.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
    return np.concatenate(parts)


def text(count: int) -> np.ndarray:
    """A text that repeats itself with errors, so that there is something to learn."""
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(2, V, 30), count // 30 + 1)[:count]
    return np.where(rng.random(count) < 0.1, rng.integers(2, V, count), tokens)


def test_rows_before_the_first_update_are_those_of_the_model() -> None:
    """The first ttt_chunk rows come from the untouched model, the next one does not."""
    tokens = text(72)
    plain = WindowPredictor(make_model(), SCORE, V, BOUNDARY).predict(make_chunk(tokens)).all_rows(0)
    rows = all_rows(learner(), tokens, 24)
    np.testing.assert_allclose(rows[:48], plain[:48], atol=2e-5)
    assert np.abs(rows[48] - plain[48]).max() > 1e-3


def test_the_update_is_adamw_on_exactly_the_scored_tokens() -> None:
    """A plain loop over the 48 scored tokens in frames of 16 gives the rows that follow."""
    tokens = text(60)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=SCORE.ttt_lr, weight_decay=0.0)
    before = np.concatenate([[BOUNDARY], tokens])
    inputs, targets = (torch.from_numpy(a.reshape(3, 16).copy()) for a in (before[:48], tokens[:48]))
    for _ in range(SCORE.ttt_epochs):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    plain = WindowPredictor(model, SCORE, V, BOUNDARY)
    plain.observe(make_chunk(tokens[:48]))
    expected = plain.predict(make_chunk(tokens[48:])).all_rows(0)
    rows = all_rows(learner(), tokens, 12)
    np.testing.assert_allclose(rows[48:], expected, atol=1e-3)


def test_learning_lowers_the_cost_of_a_text_that_repeats() -> None:
    """On a text that repeats itself the second half costs at least a tenth less than without learning."""
    tokens = text(960)
    at = np.arange(960)
    plain = all_rows(learner(dataclasses.replace(SCORE, ttt_chunk=96_000)), tokens, 24)
    learnt = all_rows(learner(), tokens, 24)
    assert learnt[at, tokens][480:].sum() > 0.9 * plain[at, tokens][480:].sum()


def test_rows_do_not_depend_on_how_the_stream_is_cut() -> None:
    """Chunks that divide ttt_chunk give the same rows, to the noise of float32 training."""
    tokens = text(160)
    rows = [all_rows(learner(chunk=size), tokens, size) for size in (24, 1, 16)]
    np.testing.assert_allclose(rows[1], rows[0], atol=2e-3)
    np.testing.assert_allclose(rows[2], rows[0], atol=2e-3)


def test_two_runs_are_the_same_bits() -> None:
    """A fresh predictor of the same model repeats every row exactly, and the model itself never changed."""
    model, tokens = make_model(), text(200)
    before = copy.deepcopy(model.state_dict())
    first = all_rows(learner(model=model), tokens, 24)
    assert (all_rows(learner(model=model), tokens, 24) == first).all()
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_score_passes_its_audit(lanes: int) -> None:
    """The scorer's audit finds no error at all, with updates on the way."""
    documents = [text(n) for n in (130, 1, 64, 145)]
    predictor = learner(lanes=lanes)
    order = plan([len(d) for d in documents], lanes=lanes, chunk=SCORE.chunk)
    result = score(predictor, documents, order, BOUNDARY, raw_bytes=340, text_digest="x", audit_positions=12)
    assert result.audit.passed()
    assert result.audit.max_causal_error == 0


def test_pending_gives_each_token_once_with_what_stood_before_it() -> None:
    """Over lanes, starts and takes, each real token is a target once, next to its true predecessor."""
    rng = np.random.default_rng(1)
    pending = Pending(5, BOUNDARY, 2)
    expected: list[tuple[int, int]] = []
    last = [BOUNDARY, BOUNDARY]
    found: list[tuple[int, int]] = []
    for step in range(30):
        starts = (rng.random(2) < 0.2).tolist()
        chunk = make_chunk(rng.integers(0, V, (2, 8)), lengths=rng.integers(0, 9, 2).tolist(), starts=starts)
        for b in range(2):
            previous = BOUNDARY if starts[b] else last[b]
            for token in chunk.tokens[b, : chunk.lengths[b]].tolist():
                expected.append((previous, token))
                previous = token
            last[b] = previous
        pending.append(chunk)
        if step % 4 == 3 or step == 29:
            assert pending.count == len(expected) - len(found)
            inputs, targets = pending.take()
            assert inputs.shape == targets.shape and inputs.shape[1] == 5
            found += list(zip(inputs[targets != IGNORED].tolist(), targets[targets != IGNORED].tolist()))
            assert pending.count == 0
    assert sorted(found) == sorted(expected)


def test_a_chunk_that_does_not_divide_is_refused() -> None:
    """One lane whose chunks straddle an update is a RecipeError with both numbers; several lanes are fine."""
    recipe = dataclasses.replace(SCORE, chunk=36)
    with pytest.raises(RecipeError, match=r"ttt_chunk=48 is no multiple of score\.chunk=36"):
        learner(recipe)
    learner(recipe, lanes=2)
    learner(recipe, chunk=1)


def test_a_chunk_over_an_update_is_refused() -> None:
    """A chunk that would need a row from weights that do not exist yet names the numbers."""
    predictor = learner()
    predictor.observe(make_chunk(text(40)))
    with pytest.raises(ValueError, match="chunk of 9 tokens straddles an update: 40 tokens of ttt_chunk=48"):
        predictor.predict(make_chunk(text(9)))
