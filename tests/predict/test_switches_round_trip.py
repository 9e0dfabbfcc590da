"""What #1185 and #1430 switch on in the model survives the artifact, and its three implementations still agree."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.packer import Packer
from paramgolf.model.gpt import GPT
from paramgolf.predict.lean_forward import lean_hidden
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.step import StepPredictor
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, SqueezeRecipe, TokenizerRecipe
from paramgolf.squeeze.fit import Setting
from paramgolf.text.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.slow

TOKENIZER = ByteTokenizer()
V, BOUNDARY = TOKENIZER.vocab_size, 1
PLAIN = ModelRecipe(layers=3, width=32, heads=4, kv_heads=2, mlp_slope=0.5, xsa_layers=(0, 1, 2), value_layers=(1, 2))
SWITCHES: dict[str, dict[str, object]] = {
    "value residual": {"value_residual": True},
    "gated attention": {"gated_attention": True},
    "gated MLP": {"gated_mlp": True},
    "routed": {"routed_layers": (0, 2), "routed_share": 0.25},
    "query gain": {"query_gain": 4.0},
}
SWITCHES["all"] = {field: value for part in SWITCHES.values() for field, value in part.items()}


def randomised(recipe: ModelRecipe) -> GPT:
    model, generator = GPT(recipe, V, boundary_id=BOUNDARY), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("query_gain"):  # what the recipe began them with
                spread = 1.0 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1.0
                parameter.normal_(0.0, spread, generator=generator)
    return model


@pytest.mark.parametrize("small_bits", [16, 32])
@pytest.mark.parametrize("part", SWITCHES)
def test_switches_survive_quantising_packing_and_opening(part: str, small_bits: int, tmp_path: Path) -> None:
    """Spec pr1185.md 7.1 (j): the opened recipe has the switches, its rows those of the weights that it holds."""
    model_recipe = dataclasses.replace(PLAIN, **SWITCHES[part])
    score = ScoreRecipe(window=48, stride=48)
    squeeze = SqueezeRecipe(matrix_bits=8, small_bits=small_bits)
    recipe = Recipe("tiny", TokenizerRecipe("bytes", V), model_recipe, squeeze=squeeze, score=score)
    trained = randomised(model_recipe)
    weights = {name: value.detach().numpy() for name, value in trained.exported_weights().items()}
    path = tmp_path / "model.pyz"
    path.write_bytes(Packer(recipe, TOKENIZER, weights, ()).file(Setting(8)))
    artifact = open_artifact(path)
    assert artifact.recipe.model == model_recipe
    assert set(artifact.weights) == set(weights)
    for name in weights:
        if name.endswith(("value_mix", "head_gate.weight", "head_gate.bias", "router.weight", "router.bias")):
            exact = weights[name] if small_bits == 32 else weights[name].astype(np.float16).astype(np.float32)
            assert np.array_equal(artifact.weights[name], exact), name
    opened = GPT(artifact.recipe.model, V, seed=None, boundary_id=BOUNDARY).eval()
    opened.load_exported(artifact.weights)
    tokens = np.random.default_rng(0).integers(0, V, 48)
    inputs = torch.from_numpy(np.concatenate([[BOUNDARY], tokens[:-1]])[None])
    with torch.no_grad():
        states = opened.hidden(inputs)
        torch.testing.assert_close(lean_hidden(opened, inputs), states, atol=5e-5, rtol=1e-4)
        rows = torch.log_softmax(opened.logits(states)[0].double(), dim=1).numpy()
        before = torch.log_softmax(trained(inputs)[0].double(), dim=1).numpy()
    chunk = Chunk(tokens[None], np.array([48]), np.array([True]))
    step = StepPredictor(artifact.weights, artifact.recipe.model, score, V, BOUNDARY).predict(chunk).all_rows(0)
    assert np.abs(step - rows).max() < 1 / 256 + 1e-4
    apart = (np.exp(before) * (before - rows)).sum(axis=1).mean()  # what quantising to 8 bits changed, in nats
    assert apart < 0.02
