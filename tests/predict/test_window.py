"""Frames and the neural window predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.model.gpt import GPT
from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.lean_forward import lean_hidden, lean_logits
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Float64
from paramgolf.predict.score import score
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

V, BOUNDARY = 260, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12, chunk=24)


def make_model(seed: int = 0) -> GPT:
    generator = torch.Generator().manual_seed(seed)
    model = GPT(MODEL, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def make_chunk(tokens: np.ndarray, lengths: list[int] | None = None, starts: list[bool] | None = None) -> Chunk:
    tokens = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
    lanes, length = tokens.shape
    return Chunk(tokens, np.array(lengths or [length] * lanes), np.array(starts or [False] * lanes))


def plain_rows(model: GPT, tokens: np.ndarray, recipe: ScoreRecipe) -> Float64:
    """The definition: for every position, the last row of a sequence that begins where its frame begins."""
    inputs = np.concatenate([[BOUNDARY], tokens])
    rows = []
    with torch.no_grad():
        for p in range(len(tokens)):
            start = max(0, (p // recipe.stride + 1) * recipe.stride - recipe.window)
            logits = model(torch.from_numpy(inputs[start : p + 1][None]))[0, -1].double()
            rows.append(torch.log_softmax(logits, dim=0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lean_forward_pass_is_the_model(dtype: torch.dtype) -> None:
    """Without gradients the fast path gives the model's states and logits to float noise, odd sizes too."""
    recipe = ModelRecipe(layers=2, width=36, heads=6, kv_heads=3, mlp_ratio=1.5, rope_base=100.0, softcap=9.0)
    model = GPT(recipe, 50).to(dtype)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 50, (3, 21), generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        hidden = lean_hidden(model, tokens)
        torch.testing.assert_close(hidden, model.hidden(tokens), atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(lean_logits(model, hidden[0]), model.logits(hidden[0]), atol=2e-5, rtol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 300), st.integers(1, 100))
def test_pieces_cover_each_position_once_within_the_window(window: int, stride: int, first: int, count: int) -> None:
    """Every position lies in one piece, whose frame is long enough for it and starts at 0 or ends with its stride."""
    stride = min(window, stride)
    grid = FrameGrid(window, stride)
    covered = []
    for piece in grid.pieces(first, first + count):
        covered += range(piece.first, piece.stop)
        assert 0 <= piece.start <= piece.first < piece.stop <= piece.start + window
        assert piece.start == 0 or piece.first - piece.start >= window - stride
        assert {grid.start(p) for p in range(piece.first, piece.stop)} == {piece.start}
    assert covered == list(range(first, first + count))


@pytest.mark.parametrize("stride", [16, 12, 5, 1])
def test_rows_are_those_of_the_definition(stride: int) -> None:
    """Batched frames give the rows of one sequence a position, to float noise."""
    model, recipe = make_model(), ScoreRecipe(window=16, stride=stride)
    tokens = np.random.default_rng(0).integers(0, V, 53)
    rows = WindowPredictor(model, recipe, V, BOUNDARY).predict(make_chunk(tokens))
    expected = plain_rows(model, tokens, recipe)
    np.testing.assert_allclose(rows.all_rows(0), expected, atol=2e-5)
    np.testing.assert_allclose(rows.realised()[0], expected[np.arange(53), tokens], atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_rows_do_not_depend_on_how_the_stream_is_cut(cuts: list[int]) -> None:
    """Chunks of any lengths give the rows of one chunk, to float noise."""
    tokens = np.random.default_rng(1).integers(0, V, sum(cuts))
    whole = WindowPredictor(make_model(), SCORE, V, BOUNDARY).predict(make_chunk(tokens)).all_rows(0)
    predictor = WindowPredictor(make_model(), SCORE, V, BOUNDARY)
    at, parts = 0, []
    for size in cuts:
        chunk = make_chunk(tokens[at : at + size])
        parts.append(predictor.predict(chunk).all_rows(0))
        predictor.observe(chunk)
        at += size
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)


def test_what_follows_a_position_does_not_move_its_row_by_one_bit() -> None:
    """Rows up to t are the same bits whatever stands at t and after it."""
    rng = np.random.default_rng(2)
    predictor = WindowPredictor(make_model(), SCORE, V, BOUNDARY)
    predictor.observe(make_chunk(rng.integers(0, V, 31)))
    tokens = rng.integers(0, V, 40)
    before = predictor.predict(make_chunk(tokens)).all_rows(0)
    for t in (0, 4, 5, 17, 39):
        other = tokens.copy()
        other[t:] = rng.integers(0, V, 40 - t)
        after = predictor.predict(make_chunk(other)).all_rows(0)
        assert (before[: t + 1] == after[: t + 1]).all()
        assert t == 39 or (before[t + 1 :] != after[t + 1 :]).any()


def test_credits_are_entries_of_rows_that_sum_to_one() -> None:
    """realised, row and all_rows agree to the last bit and rows sum to one within 1e-7, in padded lanes too."""
    rng = np.random.default_rng(3)
    predictor = WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes=3)
    chunk = make_chunk(rng.integers(0, V, (3, 200)), lengths=[200, 0, 77], starts=[True] * 3)
    rows = predictor.predict(chunk)
    realised = rows.realised()
    assert (realised[~chunk.real()] == 0).all()
    for lane in (0, 2):
        table = rows.all_rows(lane)
        assert len(table) == chunk.lengths[lane]
        assert np.abs(np.exp(table).sum(axis=1) - 1).max() < 1e-7
        assert (table[np.arange(len(table)), chunk.tokens[lane, : len(table)]] == realised[lane, : len(table)]).all()
        assert (rows.row(lane, 71) == table[71]).all()
    with pytest.raises(IndexError, match="lane 1 position 0 is padding"):
        rows.row(1, 0)


def test_a_lane_is_that_of_a_predictor_of_its_own() -> None:
    """Lanes do not touch each other, a start forgets the lane's past, and a lane may stand still."""
    rng = np.random.default_rng(4)
    together = WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes=2)
    alone = WindowPredictor(make_model(), SCORE, V, BOUNDARY)
    together.observe(make_chunk(rng.integers(0, V, (2, 20)), starts=[True, True]))
    first = make_chunk(rng.integers(0, V, (2, 24)), lengths=[24, 9], starts=[False, True])
    second = make_chunk(rng.integers(0, V, (2, 24)), lengths=[0, 24])
    for chunk in (first, second):
        length = int(chunk.lengths[1])
        own = Chunk(chunk.tokens[1:, :length], chunk.lengths[1:], chunk.starts[1:])
        shared = together.predict(chunk).all_rows(1)
        np.testing.assert_allclose(shared, alone.predict(own).all_rows(0), atol=2e-5)
        together.observe(chunk)
        alone.observe(own)


def test_predict_changes_nothing() -> None:
    """Asking for other chunks first does not change an answer."""
    rng = np.random.default_rng(5)
    predictor = WindowPredictor(make_model(), SCORE, V, BOUNDARY)
    predictor.observe(make_chunk(rng.integers(0, V, 21)))
    chunk = make_chunk(rng.integers(0, V, 24))
    before = predictor.predict(chunk).all_rows(0)
    predictor.predict(make_chunk(rng.integers(0, V, 50), starts=[True]))
    assert (predictor.predict(chunk).all_rows(0) == before).all()


def test_a_score_passes_its_audit() -> None:
    """The scorer's own audit finds no error at all in one lane and in several."""
    rng = np.random.default_rng(6)
    documents = [rng.integers(2, V, n) for n in (30, 1, 64, 45)]
    for lanes in (1, 3):
        predictor = WindowPredictor(make_model(), SCORE, V, BOUNDARY, lanes)
        order = plan([len(d) for d in documents], lanes=lanes, chunk=SCORE.chunk)
        result = score(predictor, documents, order, BOUNDARY, raw_bytes=140, text_digest="x", audit_positions=12)
        assert result.audit.passed()
        assert result.audit.max_causal_error == 0
        assert result.audit.max_credit_error < 1e-12


def test_a_model_is_left_as_it_was() -> None:
    """Scoring leaves weights, gradients and the training mode alone, and the model can still be trained."""
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chunk = make_chunk(np.arange(30))
    WindowPredictor(model, SCORE, V, BOUNDARY).predict(chunk).realised()
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    model.loss(torch.zeros((1, 16), dtype=torch.int64), torch.ones((1, 16), dtype=torch.int64)).backward()


def test_a_chunk_of_other_lanes_is_refused() -> None:
    """A chunk of two lanes for a predictor of one names both numbers."""
    with pytest.raises(ValueError, match="2 lanes for a predictor of 1"):
        WindowPredictor(make_model(), SCORE, V, BOUNDARY).predict(make_chunk(np.zeros((2, 3))))


def test_rows_are_computed_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row costs one batch of frames, the credits the others; what was computed stays, and no bit depends on it."""
    passes: list[int] = []

    def counted(model: GPT, tokens: torch.Tensor, last: int | None = None) -> torch.Tensor:
        passes.append(len(tokens))
        return lean_hidden(model, tokens, last)

    monkeypatch.setattr("paramgolf.predict.window.lean_hidden", counted)
    tokens = np.random.default_rng(7).integers(0, V, 100)
    predictor = WindowPredictor(make_model(), ScoreRecipe(window=16, stride=4), V, BOUNDARY, frames_per_batch=2)
    lazy, eager = predictor.predict(make_chunk(tokens)), predictor.predict(make_chunk(tokens))
    assert not passes
    row = lazy.row(0, 55)
    assert passes == [2]
    credits = eager.realised()
    assert passes == [2] * (1 + 11)  # 22 frames: one for the first 16 positions, 21 of 4 each
    assert (eager.row(0, 55) == row).all() and (lazy.realised() == credits).all()
    assert passes == [2] * (1 + 11 + 10)


def test_the_first_window_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions whose inputs begin at 0 share one frame, and have the rows of the definition."""
    shapes: list[tuple[int, ...]] = []

    def counted(model: GPT, tokens: torch.Tensor, last: int | None = None) -> torch.Tensor:
        shapes.append(tuple(tokens.shape))
        return lean_hidden(model, tokens, last)

    monkeypatch.setattr("paramgolf.predict.window.lean_hidden", counted)
    tokens, recipe, model = np.random.default_rng(8).integers(0, V, 64), ScoreRecipe(window=64, stride=2), make_model()
    rows = WindowPredictor(model, recipe, V, BOUNDARY, frames_per_batch=1).predict(make_chunk(tokens))
    found = rows.all_rows(0)
    assert shapes == [(1, 64)]
    for position in (0, 1, 31, 63):
        inputs = torch.from_numpy(np.concatenate([[BOUNDARY], tokens])[: position + 1][None])
        with torch.no_grad():
            expected = torch.log_softmax(model(inputs)[0, -1].double(), dim=0).numpy()
        np.testing.assert_allclose(found[position], expected, atol=2e-5)
