"""The stepwise model: the rows of the window predictor, one token at a time, the same bits everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.errors import ArtifactError
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk, single_token
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

V, BOUNDARY = 260, 1
MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(window=16, stride=12)


def make_weights(recipe: ModelRecipe = MODEL, vocab_size: int = V, scale: float = 0.5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(recipe, vocab_size)
    return {name: (rng.standard_normal(shape) * scale).astype(np.float32) for name, shape in shapes.items()}


def make_step(score: ScoreRecipe = SCORE) -> StepPredictor:
    return StepPredictor(make_weights(), MODEL, score, V, BOUNDARY)


def make_window(score: ScoreRecipe = SCORE) -> WindowPredictor:
    model = GPT(MODEL, V)
    model.load_exported(make_weights())
    return WindowPredictor(model, score, V, BOUNDARY)


def make_chunk(tokens: np.ndarray, *, start: bool = False) -> Chunk:
    return Chunk(np.asarray(tokens, dtype=np.int64)[None], np.array([len(tokens)]), np.array([start]))


def step_rows(predictor: StepPredictor, tokens: np.ndarray) -> np.ndarray:
    rows = []
    for token in tokens:
        chunk = single_token(int(token))
        rows.append(predictor.predict(chunk).row(0, 0))
        predictor.observe(chunk)
    return np.array(rows).reshape(-1, V)


@pytest.mark.parametrize(("window", "stride"), [(16, 12), (16, 16), (16, 5), (16, 1), (1, 1), (24, 9)])
def test_rows_agree_with_the_window_predictor(window: int, stride: int) -> None:
    """Over several frame borders the rows differ by no more than the rounding of the logits to 1/256."""
    recipe = ScoreRecipe(window=window, stride=stride)
    tokens = np.random.default_rng(1).integers(0, V, 75)
    expected = make_window(recipe).predict(make_chunk(tokens)).all_rows(0)
    rows = step_rows(make_step(recipe), tokens)
    assert np.abs(rows - expected).max() < 1 / 256 + 1e-4
    assert np.abs(np.exp(rows).sum(axis=1) - 1).max() < 1e-12
    steps = (rows - rows[:, :1]) * 256
    assert np.abs(steps - np.round(steps)).max() < 1e-6


def test_rounding_costs_next_to_nothing() -> None:
    """Tokens drawn from the window predictor's own rows cost the same bits in both, within 0.05 %."""
    rng = np.random.default_rng(2)
    tokens: list[int] = []
    window = make_window()
    for _ in range(300):
        row = np.exp(window.predict(single_token(0)).row(0, 0))
        tokens.append(int(rng.choice(V, p=row / row.sum())))
        window.observe(single_token(tokens[-1]))
    chunk = make_chunk(np.array(tokens))
    exact = -make_window().predict(chunk).realised().sum()
    assert abs(-make_step().predict(chunk).realised().sum() - exact) < 5e-4 * exact


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_rows_have_the_same_bits_however_the_stream_is_cut(cuts: list[int]) -> None:
    """Chunks of any lengths, empty ones too, give exactly the rows of single tokens."""
    tokens = np.random.default_rng(3).integers(0, V, sum(cuts))
    expected = step_rows(make_step(), tokens)
    predictor, at = make_step(), 0
    for size in cuts:
        chunk = make_chunk(tokens[at : at + size])
        assert (predictor.predict(chunk).all_rows(0) == expected[at : at + size]).all()
        predictor.observe(chunk)
        at += size
    assert (predictor.predict(single_token(0)).row(0, 0) == step_rows(make_step(), np.append(tokens, 0))[-1]).all()


def test_predict_changes_nothing() -> None:
    """Long looks ahead, over frame borders and from a new start, leave every later row as it was."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(0, V, 60)
    expected = step_rows(make_step(), tokens)
    predictor = make_step()
    for t, token in enumerate(tokens):
        predictor.predict(make_chunk(rng.integers(0, V, 1 + t % 30), start=t % 7 == 0))
        assert (predictor.predict(single_token(int(token))).row(0, 0) == expected[t]).all()
        predictor.observe(single_token(int(token)))


def test_a_start_forgets_the_past() -> None:
    """After a start the rows are those of a fresh predictor, in `predict` already."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, V, 30)
    fresh = make_step().predict(make_chunk(tokens)).all_rows(0)
    predictor = make_step()
    predictor.observe(make_chunk(rng.integers(0, V, 23)))
    assert (predictor.predict(make_chunk(tokens, start=True)).all_rows(0) == fresh).all()
    predictor.observe(make_chunk(tokens[:9], start=True))
    assert (predictor.predict(make_chunk(tokens[9:])).all_rows(0) == fresh[9:]).all()


def test_padding_is_neither_credited_nor_observed() -> None:
    """Only the real length of a chunk counts."""
    tokens = np.random.default_rng(6).integers(0, V, 20)
    padded = Chunk(tokens[None], np.array([13]), np.array([False]))
    one, other = make_step(), make_step()
    realised = one.predict(padded).realised()
    assert (realised[0, 13:] == 0).all() and (realised[0, :13] < 0).all()
    one.observe(padded)
    other.observe(make_chunk(tokens[:13]))
    assert (one.predict(single_token(0)).row(0, 0) == other.predict(single_token(0)).row(0, 0)).all()


PROGRAM = """
import hashlib, sys
import numpy as np
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.step import StepPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe
weights = dict(np.load(sys.argv[1]))
recipe = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
tokens = np.random.default_rng(7).integers(0, 260, (1, 90))
step = StepPredictor(weights, recipe, ScoreRecipe(window=16, stride=12), 260, 1)
rows = step.predict(Chunk(tokens, np.array([90]), np.array([True]))).all_rows(0)
print(hashlib.sha256(rows.tobytes()).hexdigest(), "torch" in sys.modules)
"""


def run_program(tmp_path, environment: dict[str, str]) -> list[str]:
    np.savez(tmp_path / "weights.npz", **make_weights())
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment}
    if "NUMBA_CPU_NAME" not in environment:
        del environment["NUMBA_CACHE_DIR"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "weights.npz")]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


def own_digest() -> str:
    tokens = np.random.default_rng(7).integers(0, V, 90)
    return hashlib.sha256(step_rows(make_step(), tokens).tobytes()).hexdigest()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_with_any_number_of_threads_computes_the_same_bits(tmp_path, threads: str) -> None:
    """Fresh processes with one and two threads give these very rows, and need no torch."""
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    assert run_program(tmp_path, environment) == [own_digest(), "False"]


@pytest.mark.slow
def test_a_cpu_without_vector_extensions_computes_the_same_bits(tmp_path) -> None:
    """Compiled for the plainest CPU of this architecture (no AVX, no fused multiply-add), rows are the same bits."""
    assert run_program(tmp_path, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""})[0] == own_digest()


@pytest.mark.parametrize("tokens", [[-1], [0, V]])
def test_tokens_outside_the_vocabulary_are_refused(tokens: list[int]) -> None:
    """An id that the kernel could only read from foreign memory is a ValueError with the values."""
    with pytest.raises(ValueError, match=r"outside 0\.\.259"):
        make_step().observe(make_chunk(np.array(tokens)))


def test_two_lanes_are_refused() -> None:
    """The stepwise model has one lane and says so."""
    with pytest.raises(ValueError, match="2 lanes for a predictor of one"):
        make_step().predict(Chunk(np.zeros((2, 1), dtype=np.int64), np.array([1, 1]), np.array([False, False])))


def test_weights_that_do_not_fit_are_refused() -> None:
    """A missing tensor and one of another shape are named."""
    weights = make_weights()
    gone = {name: value for name, value in weights.items() if name != "blocks.1.mlp.up.weight"}
    with pytest.raises(ArtifactError, match=r"lack blocks\.1\.mlp\.up\.weight"):
        StepPredictor(gone, MODEL, SCORE, V, BOUNDARY)
    with pytest.raises(ArtifactError, match=r"embedding\.weight has shape \(260, 16\), the recipe says \(300, 16\)"):
        StepPredictor(weights, MODEL, SCORE, 300, BOUNDARY)


def test_odd_sizes_agree_too() -> None:
    """A model whose sizes are no multiples of the kernel's blocks agrees with torch."""
    recipe = ModelRecipe(layers=1, width=44, heads=2, kv_heads=1, mlp_ratio=1.7, rope_base=500.0, softcap=8.0)
    weights = make_weights(recipe, 37, 0.3)
    model = GPT(recipe, 37)
    model.load_exported(weights)
    chunk = make_chunk(np.random.default_rng(8).integers(0, 37, 60))
    expected = WindowPredictor(model, SCORE, 37, BOUNDARY).predict(chunk).all_rows(0)
    rows = StepPredictor(weights, recipe, SCORE, 37, BOUNDARY).predict(chunk).all_rows(0)
    assert np.abs(rows - expected).max() < 1 / 256 + 1e-4
