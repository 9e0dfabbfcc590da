"""Every honest adaptation codes a file and gives it back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from paramgolf.artifact.artifact import Artifact
from paramgolf.codec.file import decode_bytes, encode
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.adapt import ADAPTATIONS
from paramgolf.recipe import ModelRecipe, Recipe, ScoreRecipe, TokenizerRecipe
from paramgolf.text.byte_tokenizer import ByteTokenizer

MODEL = ModelRecipe(layers=2, width=16, heads=4, kv_heads=2)
SCORE = ScoreRecipe(
    lora_chunks=(8,), lora_rank=2, window=16, stride=12, chunk=24, ttt_chunk=48, ngram_order=3, cache_least_order=2
)
PRIMER = b"the cat sat on the mat; " * 5


def make_artifact() -> Artifact:
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(MODEL, 260)
    weights = {name: (rng.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    recipe = Recipe("test", TokenizerRecipe("bytes", 260), MODEL, score=SCORE)
    primer = (ByteTokenizer().encode(PRIMER),)
    return Artifact(recipe, ByteTokenizer(), weights, primer, hashlib.sha256(b"test").hexdigest())


@pytest.mark.parametrize("adapt", ADAPTATIONS)
def test_a_file_comes_back_with(adapt: str) -> None:
    """Encoder and decoder, two predictors built apart, agree token by token; the code is what the rows claim."""
    data = PRIMER[:70] + "öäü \xff the mat sat on the cat".encode("latin-1") + bytes(range(40))
    coded = encode(make_artifact(), data, adapt, method="model")
    assert decode_bytes(make_artifact(), coded.data) == data
    assert 0 <= 8 * coded.code_bytes - coded.claimed_bits < 0.005 * coded.claimed_bits + 64


def test_a_primer_is_worth_something() -> None:
    """Counts of the carried text make a text like it cheaper."""
    bits = {
        name: encode(make_artifact(), PRIMER, name, method="model").claimed_bits for name in ("ngram", "ngram-fresh")
    }
    assert bits["ngram"] < 0.8 * bits["ngram-fresh"]
