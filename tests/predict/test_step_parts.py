"""The stepwise model with the parts of #549, #1185 and #2140, one by one and together, against the model in float64."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.model.gpt import GPT
from paramgolf.model.rotary import Rotary
from paramgolf.predict.fixed_rotary import rotary_table
from paramgolf.predict.frames import FrameGrid
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.step import StepPredictor
from paramgolf.predict.step_kernel import StepCache, forward
from paramgolf.predict.step_weights import gather_weights
from paramgolf.recipe import ModelRecipe, ScoreRecipe

V, BOUNDARY = 40, 1
SCORE = ScoreRecipe(window=80, stride=50)


def make_weights(recipe: ModelRecipe, vocab_size: int = V, seed: int = 0) -> dict[str, np.ndarray]:
    """Every part has a voice: gains around one, matrices that keep the variance."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in tensor_shapes(recipe, vocab_size).items():
        drawn = rng.standard_normal(shape)
        if name.endswith(("scale", "skip_weights", "query_gain", "residual_mix", "lanes.kept", "lanes.added")):
            drawn = 1.0 + 0.5 * drawn
        elif name == "softcaps":
            drawn = np.exp(2.5 + 0.3 * drawn)
        elif name.endswith("weight") and "embedding.weight" not in name:
            drawn = drawn / math.sqrt(shape[1])
        weights[name] = np.asarray(drawn, dtype=np.float32)
    return weights


def make_tokens(count: int, seed: int = 1, vocab_size: int = V) -> np.ndarray:
    """Some of them are boundaries, also side by side."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(count) < 0.2, BOUNDARY, rng.integers(0, vocab_size, count))


def make_chunk(tokens: np.ndarray, *, start: bool = False) -> Chunk:
    return Chunk(np.asarray(tokens, dtype=np.int64)[None], np.array([len(tokens)]), np.array([start]))


def step_states(
    recipe: ModelRecipe,
    weights: dict[str, np.ndarray],
    inputs: np.ndarray,
    cuts: list[int],
    cache_dtype: type = np.float64,
) -> np.ndarray:
    """States of one frame, with the kernel called for `cuts` inputs at a time; a float64 cache shows small errors."""
    vocab_size = len(weights["embedding.weight"])
    gathered = gather_weights(weights, recipe, len(inputs), vocab_size, BOUNDARY)
    shape, size = (recipe.visits(), recipe.kv_heads), recipe.head_size()
    keys = np.zeros((*shape, size, len(inputs)), dtype=cache_dtype)
    values = np.zeros((*shape, len(inputs), size), dtype=cache_dtype)
    states, at = np.empty((len(inputs), recipe.width)), 0
    for count in cuts:
        tokens = inputs[max(0, at - 2) : at + count].astype(np.int64)
        forward(gathered, StepCache(keys, values), tokens, at, states[at : at + count])
        at += count
    assert at == len(inputs)
    return states


def model_of(recipe: ModelRecipe, weights: dict[str, np.ndarray]) -> GPT:
    model = GPT(recipe, len(weights["embedding.weight"]), boundary_id=BOUNDARY).double()
    model.load_exported(weights)
    return model


def model_states(recipe: ModelRecipe, weights: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model_of(recipe, weights).hidden(torch.from_numpy(inputs[None]))[0].numpy()


SINGLE_PARTS = [
    {},
    {"mlp_slope": 0.5},
    {"rope_channels": 4},
    {"rope_channels": 6, "rope_length": 20},
    {"xsa_layers": (0, 2)},
    {"value_layers": (1, 2), "value_width": 5},
    {"bigram_buckets": 13, "bigram_width": 6},
    {"smear": "everywhere"},
    {"smear": "within-document"},
    {"bigram_buckets": 3, "smear": "within-document"},
    {"unet": True},
    {"residual_mix": True},
    {"block_scales": True},
    {"depth_scale": True},
    {"value_residual": True},
    {"value_residual": True, "value_layers": (0, 2), "xsa_layers": (1, 2)},
    {"gated_attention": True},
    {"gated_attention": True, "xsa_layers": (0, 1, 2)},
    {"gated_mlp": True},
    {"gated_mlp": True, "mlp_slope": 0.5},
    {"routed_layers": (0, 2)},
    {"routed_layers": (0, 1, 2), "gated_mlp": True, "mlp_slope": 0.5},
    {"smear": "gated", "gate_channels": 7},
    {"smear": "gated", "bigram_buckets": 13},
    {"sparse_gates": True},
    {"sparse_gates": True, "gate_channels": 24, "gate_scale": 1.3, "xsa_layers": (0, 1)},
    {"unet": True, "skip_gates": True},
    {"looped_layers": (1,), "loops": 2},
    {"looped_layers": (0, 1), "loops": 3, "value_residual": True},
    {"looped_layers": (0, 1, 2), "loops": 2, "unet": True, "routed_layers": (1,)},
    {"parallel_layers": 1},
    {"parallel_layers": 3, "residual_mix": True, "block_scales": True},
    {"parallel_layers": 3, "unet": True, "skip_gates": True, "routed_layers": (1, 2)},
    {"parallel_layers": 1, "looped_layers": (0, 1), "unet": True, "residual_mix": True},
]


@pytest.mark.parametrize("part", SINGLE_PARTS, ids=lambda part: ",".join(part) or "plain")
def test_each_part_alone_is_that_of_the_model(part: dict[str, object]) -> None:
    """States agree with the model in float64; a part changes them by far more."""
    plain = ModelRecipe(layers=3, width=24, heads=2, kv_heads=1)
    recipe, inputs = dataclasses.replace(plain, **part), make_tokens(45)
    weights = make_weights(recipe)
    expected = model_states(recipe, weights, inputs)
    found = step_states(recipe, weights, inputs, [1, 33, 2, 9])
    assert np.abs(found - expected).max() < 1e-9
    if part:
        shared = {name: weights[name] for name in tensor_shapes(plain, V)}
        assert np.abs(found - model_states(plain, shared, inputs)).max() > 1e-2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_mixture_of_parts_is_that_of_the_model(small_models: ModuleType, data: st.DataObject) -> None:
    """Random switches, sizes, cuts and tokens: states agree, and no cut moves a bit."""
    draw = data.draw
    recipe = draw(small_models.mixtures())
    cuts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    inputs, weights = (
        make_tokens(sum(cuts), draw(st.integers(0, 99))),
        make_weights(recipe, seed=draw(st.integers(0, 99))),
    )
    found = step_states(recipe, weights, inputs, cuts)
    assert np.abs(found - model_states(recipe, weights, inputs)).max() < 1e-8
    assert (found == step_states(recipe, weights, inputs, [1] * len(inputs))).all()


EVERYTHING = pytest.mark.parametrize("parts", ["GATED", "COMPOSED"])


@EVERYTHING
def test_the_cache_in_float32_costs_little(small_models: ModuleType, parts: str) -> None:
    """The predictor keeps keys and values in float32: states move by less than the logits' rounding hides."""
    recipe = getattr(small_models, parts)
    weights, inputs = make_weights(recipe), make_tokens(90)
    exact = step_states(recipe, weights, inputs, [90])
    found = step_states(recipe, weights, inputs, [90], np.float32)
    assert 0 < np.abs(found - exact).max() < 1e-5


@EVERYTHING
def test_states_that_nobody_wants_are_left_out_without_moving_the_others(small_models: ModuleType, parts: str) -> None:
    """With room for the last states only, those have the bits of a call for all, and so have later ones."""
    recipe = getattr(small_models, parts)
    weights, inputs = make_weights(recipe), make_tokens(90)
    expected = step_states(recipe, weights, inputs, [90], np.float32)
    gathered = gather_weights(weights, recipe, 90, V, BOUNDARY)
    keys = np.zeros((recipe.visits(), 2, 6, 90), dtype=np.float32)
    cache = StepCache(keys, np.zeros((recipe.visits(), 2, 90, 6), dtype=np.float32))
    few, rest = np.empty((3, 24)), np.empty((20, 24))
    forward(gathered, cache, inputs[:70], 0, few)
    forward(gathered, cache, inputs[68:], 70, rest)
    assert (few == expected[67:70]).all() and (rest == expected[70:]).all()


@EVERYTHING
def test_rows_with_all_parts_agree_with_the_model_within_the_rounding(small_models: ModuleType, parts: str) -> None:
    """Over several frames the rows are those of the model at each frame's inputs, to the logits' 1/256."""
    recipe = getattr(small_models, parts)
    weights, tokens = make_weights(recipe), make_tokens(190)
    rows = StepPredictor(weights, recipe, SCORE, V, BOUNDARY).predict(make_chunk(tokens)).all_rows(0)
    model, line = model_of(recipe, weights), np.concatenate([[BOUNDARY], tokens])
    for piece in FrameGrid(SCORE.window, SCORE.stride).pieces(0, len(tokens)):
        frame = line[piece.start :][: SCORE.window]
        frame = np.pad(frame, (0, SCORE.window - len(frame)))  # the NTK base is that of a whole window
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.from_numpy(frame[None]))[0], dim=1).numpy()
        wanted = expected[piece.first - piece.start : piece.stop - piece.start]
        assert np.abs(rows[piece.first : piece.stop] - wanted).max() < 1 / 256 + 1e-5


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["GATED", "COMPOSED"]), st.lists(st.integers(0, 90), min_size=1, max_size=5))
def test_rows_with_all_parts_have_the_same_bits_however_the_stream_is_cut(
    small_models: ModuleType, parts: str, cuts: list[int]
) -> None:
    """Chunks of any lengths give the bits of one chunk: pairs and smears look back over the cuts."""
    recipe, tokens = getattr(small_models, parts), make_tokens(sum(cuts))
    weights = make_weights(recipe)
    whole = StepPredictor(weights, recipe, SCORE, V, BOUNDARY).predict(make_chunk(tokens)).all_rows(0)
    predictor, at = StepPredictor(weights, recipe, SCORE, V, BOUNDARY), 0
    for size in cuts:
        chunk = make_chunk(tokens[at : at + size])
        assert (predictor.predict(chunk).all_rows(0) == whole[at : at + size]).all()
        predictor.observe(chunk)
        at += size


def test_the_rows_that_a_router_leaves_out_are_those_of_the_stream_alone() -> None:
    """A router whose bias shuts it for all positions gives, bit for bit, a model whose MLP adds nothing."""
    recipe = ModelRecipe(layers=1, width=24, heads=2, kv_heads=1, routed_layers=(0,))
    weights, inputs = make_weights(recipe), make_tokens(45)
    shut = weights | {"blocks.0.router.bias": np.array([-1e4], dtype=np.float32)}
    silent = weights | {"blocks.0.mlp.down.weight": np.zeros_like(weights["blocks.0.mlp.down.weight"])}
    found = step_states(recipe, shut, inputs, [45])
    assert (found == step_states(recipe, silent, inputs, [45])).all()
    assert (found != step_states(recipe, weights, inputs, [45])).any()


@pytest.mark.parametrize(("pairs", "base", "length"), [(8, 22081.790273476247, 2048), (32, 1e4, 256), (1, 1e4, 9)])
def test_the_rotary_table_is_the_models(pairs: int, base: float, length: int) -> None:
    """Decimal arithmetic and products of turns give the cosines of the model, to 1e-9."""
    recipe = ModelRecipe(layers=1, width=2 * pairs, heads=1, kv_heads=1, rope_base=base)
    rotary = Rotary(recipe).double()
    rotary.prepare(length)
    table = rotary_table(pairs, base, length)
    np.testing.assert_allclose(table[..., 0], rotary.cos_TR[:, :pairs].numpy(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(table[..., 1], rotary.sin_TR[:, :pairs].numpy(), rtol=0, atol=1e-9)


@pytest.fixture
def spec_weights(small_models: ModuleType) -> dict[str, np.ndarray]:
    """The filled model of spec pr549.md 8.10, under an artifact's names."""
    return {name: w.detach().float().numpy() for name, w in small_models.spec_model().exported_weights().items()}


def test_the_tiny_model_of_the_spec(small_models: ModuleType, spec_weights: dict[str, np.ndarray]) -> None:
    """Stream before the last norm (by its direction), logits, losses of spec pr549.md 8.10.

    Weights are float32 here, which moves states by 1.5e-6; a wrong epsilon would move them by 2e-5.
    """
    weights, tokens = spec_weights, np.array([(7 * i * i + 3 * i) % 16 for i in range(7)])
    states = step_states(small_models.SPEC, weights, tokens[:6], [1] * 6)
    last = np.array(
        [-0.93868574, 1.11415652, -0.66064995, -0.11567744, 1.57216452, -0.98889847, -0.54073102, 0.59011744]
    )
    np.testing.assert_allclose(states[5], last / np.sqrt(np.mean(last**2) + 1.1920929e-07), atol=3e-6)
    logits = 30 * np.tanh(states @ weights["embedding.weight"].astype(np.float64).T / 30)
    np.testing.assert_allclose(logits[0, :4], [0.13274846, 0.52034261, 0.67433797, 0.52571464], atol=3e-6)
    np.testing.assert_allclose(logits[5, :4], [0.06890009, 0.32634147, 0.43728740, 0.35196792], atol=3e-6)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), tokens[1:]]
    expected = [2.49045368, 3.44363172, 2.49279508, 2.25673446, 2.88935244, 2.99441572]
    np.testing.assert_allclose(losses, expected, atol=3e-6)


def test_the_tiny_model_in_sliding_windows(small_models: ModuleType, spec_weights: dict[str, np.ndarray]) -> None:
    """The 20 rows of the windows of 8 with stride 2, each position once, cost what the model's do, to the rounding."""
    tokens = np.array([(7 * i * i + 3 * i) % 16 for i in range(21)])
    predictor = StepPredictor(spec_weights, small_models.SPEC, ScoreRecipe(window=8, stride=2), 16, int(tokens[0]))
    found = predictor.predict(make_chunk(tokens[1:])).realised()[0]
    model = model_of(small_models.SPEC, spec_weights)
    for piece in FrameGrid(8, 2).pieces(0, 20):
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens[None, piece.start : piece.stop]))[0]
        expected = torch.log_softmax(logits, dim=1).numpy()[
            np.arange(len(logits)), tokens[piece.start + 1 : piece.stop + 1]
        ]
        wanted = expected[piece.first - piece.start :]
        np.testing.assert_allclose(found[piece.first : piece.stop], wanted, atol=1 / 256 + 1e-6)
