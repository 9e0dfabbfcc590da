"""The model of #2140, with random weights, in its implementations that predict: rows, bits, code and back."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paramgolf.codec.arithmetic import decode_tokens, encode_tokens
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk, single_token
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ScoreRecipe
from paramgolf.recipes import get_recipe

V, BOUNDARY = 90, 1
TINY = get_recipe("pr2140_tiny").model
NARROW = dataclasses.replace(TINY, width=32, rope_channels=4)
SCORE = ScoreRecipe(window=40, stride=16)


def make_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Every part has a voice, and the two caps lie apart."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in tensor_shapes(NARROW, V).items():
        drawn = rng.standard_normal(shape)
        if name == "softcaps":
            drawn = np.array([9.0, 4.0])
        elif name.endswith(("scale", "skip_weights", "query_gain", "residual_mix", "lanes.kept", "lanes.added")):
            drawn = 1.0 + 0.3 * drawn
        elif name.endswith("weight") and name != "embedding.weight":
            drawn = drawn / math.sqrt(shape[1])
        weights[name] = np.asarray(drawn, dtype=np.float32)
    return weights


def make_tokens(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(count) < 0.1, BOUNDARY, rng.integers(0, V, count))


def make_chunk(tokens: np.ndarray) -> Chunk:
    return Chunk(tokens[None], np.array([len(tokens)]), np.array([False]))


def make_step(score: ScoreRecipe = SCORE) -> StepPredictor:
    return StepPredictor(make_weights(), NARROW, score, V, BOUNDARY)


def make_window(score: ScoreRecipe = SCORE) -> WindowPredictor:
    model = GPT(NARROW, V, boundary_id=BOUNDARY)
    model.load_exported(make_weights())
    return WindowPredictor(model, score, V, BOUNDARY)


def test_the_recipe_has_every_part() -> None:
    """What these tests run on loops, joins by gates, has two lanes, sparse gates, a gated smear and two caps."""
    assert NARROW.visits() > NARROW.layers and NARROW.skips() == NARROW.visits() // 2
    assert NARROW.skip_gates and NARROW.parallel_layers and NARROW.sparse_gates
    assert NARROW.smear == "gated" and NARROW.asymmetric_softcap


@pytest.mark.parametrize("stride", [40, 30, 16, 1])
def test_rows_of_the_two_predictors_agree(stride: int) -> None:
    """Over frame borders, with whole and with narrow last visits, rows differ by the rounding of logits alone."""
    score, tokens = dataclasses.replace(SCORE, stride=stride), make_tokens(110)
    expected = make_window(score).predict(make_chunk(tokens)).all_rows(0)
    rows = make_step(score).predict(make_chunk(tokens)).all_rows(0)
    assert np.abs(rows - expected).max() < 1 / 256 + 1e-4
    assert np.abs(np.exp(rows).sum(axis=1) - 1).max() < 1e-12


def test_a_text_comes_back_from_its_code() -> None:
    """Tokens coded over several frames come back from fresh weights, and the code is as long as the rows claim."""
    tokens = make_tokens(130)
    code = encode_tokens(make_step(), tokens)
    assert (decode_tokens(make_step(), code, len(tokens)) == tokens).all()
    claimed = -make_step().predict(make_chunk(tokens)).realised().sum() / math.log(2)
    assert claimed <= 8 * len(code) < claimed + 64


@pytest.mark.parametrize("on", ["hidden", "both"])
def test_offsets_of_nothing_leave_the_rows_as_they_are(on: str) -> None:
    """SLOT's readouts know both caps: with zero offsets they give the rows of the predictor that made the states."""
    chunk = make_chunk(make_tokens(60))
    for predictor, tolerance in ((make_step(), 1 / 256 + 1e-6), (make_window(), 1e-5)):
        rows, readout = predictor.predict(chunk), predictor.readout(on)
        found = readout.rows(rows.states(0), np.zeros(readout.parameters))
        np.testing.assert_allclose(found, rows.all_rows(0), rtol=0, atol=tolerance)


PROGRAM = """
import dataclasses, hashlib, sys
import numpy as np
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.step import StepPredictor
from paramgolf.recipe import ScoreRecipe
from paramgolf.recipes import get_recipe
loaded = dict(np.load(sys.argv[1]))
tokens = loaded.pop("tokens")
recipe = dataclasses.replace(get_recipe("pr2140_tiny").model, width=32, rope_channels=4)
step = StepPredictor(loaded, recipe, ScoreRecipe(window=40, stride=16), 90, 1)
rows = step.predict(Chunk(tokens[None], np.array([len(tokens)]), np.array([True]))).all_rows(0)
print(hashlib.sha256(rows.tobytes()).hexdigest(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_with_any_number_of_threads_computes_the_same_bits(tmp_path: Path, threads: str) -> None:
    """A fresh process gives, chunk at once, the very rows that this one gives token by token, without torch."""
    tokens, step, rows = make_tokens(100), make_step(), []
    np.savez(tmp_path / "model.npz", tokens=tokens, **make_weights())
    for token in tokens:
        rows.append(step.predict(single_token(int(token))).row(0, 0))
        step.observe(single_token(int(token)))
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model.npz")]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    assert found == [hashlib.sha256(np.array(rows).tobytes()).hexdigest(), "False"]


def test_a_boundary_hides_what_the_smear_would_show() -> None:
    """With attention silent only the smear looks back, and at a boundary it does not (spec pr2140.md 2.3)."""
    silent = {name: value * (not name.endswith("attention.output.weight")) for name, value in make_weights().items()}
    model = GPT(NARROW, V, boundary_id=BOUNDARY)
    model.load_exported(silent)
    one, other = make_tokens(30), make_tokens(30, 2)
    one[20] = other[20] = BOUNDARY
    one[21:] = other[21:]
    states = [
        predictor.predict(make_chunk(tokens)).states(0)
        for tokens in (one, other)
        for predictor in (
            StepPredictor(silent, NARROW, SCORE, V, BOUNDARY),
            WindowPredictor(model, SCORE, V, BOUNDARY),
        )
    ]
    for first, second in ((states[0], states[2]), (states[1], states[3])):
        assert (first[21:] == second[21:]).all()  # the state that predicts position 21 stands at the boundary
        assert (first[2:20] != second[2:20]).any(axis=1).all()
