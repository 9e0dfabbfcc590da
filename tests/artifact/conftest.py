"""One small packed file for all tests of the room: each packing starts a process that imports torch."""

from __future__ import annotations

import numpy as np
import pytest

from paramgolf.artifact.pack import pack
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The report of a file with a tiny model and eight documents of noise."""
    model = ModelRecipe(layers=2, width=32, heads=2, kv_heads=1)
    recipe = Recipe("tiny", TokenizerRecipe("bytes", 260), model, score=ScoreRecipe(window=64, stride=48))
    tokenizer, rng = ByteTokenizer(), np.random.default_rng(0)
    shapes = tensor_shapes(model, tokenizer.vocab_size)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    noise = np.random.default_rng(1)
    documents = [tokenizer.encode(noise.bytes(500)) for _ in range(8)]
    return pack(recipe, tokenizer, weights, documents, tmp_path_factory.mktemp("packed") / "model.pyz")


@pytest.fixture(scope="session")
def model(packed):
    """The path of that file."""
    return packed.path
