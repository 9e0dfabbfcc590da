"""The arithmetic agrees with the module that it describes."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paramgolf.model.arithmetic import (
    flops_per_token,
    parameter_count,
    parameter_shapes,
    squeezed_bytes,
    tensor_shapes,
)
from paramgolf.model.gpt import GPT
from paramgolf.recipe import ModelRecipe

RECIPES = [
    ModelRecipe(),
    ModelRecipe(layers=1, width=8, heads=1, kv_heads=1, mlp_ratio=1.3),
    ModelRecipe(layers=5, width=48, heads=6, kv_heads=3, mlp_ratio=2.0),
    ModelRecipe(
        layers=5,
        width=48,
        heads=6,
        kv_heads=3,
        value_layers=(1, 4),
        value_width=7,
        bigram_buckets=11,
        bigram_width=5,
        smear="within-document",
        unet=True,
        residual_mix=True,
        block_scales=True,
    ),
    ModelRecipe(
        layers=4,
        width=48,
        heads=6,
        kv_heads=3,
        value_layers=(1, 3),
        value_width=7,
        residual_mix=True,
        block_scales=True,
        value_residual=True,
        gated_attention=True,
        gated_mlp=True,
        routed_layers=(0, 2, 3),
    ),
    ModelRecipe(
        layers=6,
        width=48,
        heads=6,
        kv_heads=3,
        smear="gated",
        unet=True,
        skip_gates=True,
        looped_layers=(1, 2),
        loops=3,
        parallel_layers=2,
        sparse_gates=True,
        asymmetric_softcap=True,
        residual_mix=True,
        value_layers=(2, 5),
        value_width=7,
    ),
]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("vocab_size", [17, 1024])
def test_shapes_and_count_equal_the_module(recipe: ModelRecipe, vocab_size: int) -> None:
    """Names, order, shapes and the count equal those of the torch module."""
    model = GPT(recipe, vocab_size)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert list(parameter_shapes(recipe, vocab_size).items()) == list(expected.items())
    exported = {name: tuple(value.shape) for name, value in model.exported_weights().items()}
    assert list(tensor_shapes(recipe, vocab_size).items()) == list(exported.items())
    assert parameter_count(recipe, vocab_size) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("recipe", RECIPES[2:])
def test_matrix_flops_equal_the_counted_ones(recipe: ModelRecipe) -> None:
    """At sequence 1 attention is negligible and the count equals what torch counts for the matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        GPT(recipe, 64).requires_grad_(False)(torch.zeros(4, 1, dtype=torch.int64))
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if str(operation) in ("aten.mm", "aten.addmm"))
    attention = recipe.visits() * 2 * recipe.width * 2
    assert products == 4 * (flops_per_token(recipe, 64, 1, backward=False) - attention)
    assert flops_per_token(recipe, 64, 9) == 3 * flops_per_token(recipe, 64, 9, backward=False)


def test_flops_of_loops() -> None:
    """Each further run of a looped layer costs what the layer costs; before the loops begin it runs once."""
    recipe = dataclasses.replace(RECIPES[-1], value_layers=())
    layer = 48 * (48 * 2 + 24 * 2 + 144 * 2) + 6 * 12  # a product for each weight
    attention = 2 * 48 * (9 + 1)
    once, looped = (flops_per_token(recipe, 64, 9, backward=False, looping=looping) for looping in (False, True))
    assert looped - once == 2 * 2 * (2 * layer + attention)
    assert once == flops_per_token(dataclasses.replace(recipe, looped_layers=()), 64, 9, backward=False)


def test_arithmetic_needs_no_torch() -> None:
    """Importing the arithmetic leaves torch unloaded."""
    code = "import sys, paramgolf.model.arithmetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_squeezed_bytes_by_hand() -> None:
    """Bits of every number plus 16 for each row and gain, in bytes."""
    recipe = ModelRecipe(layers=1, width=8, heads=2, kv_heads=1, mlp_ratio=2.0)
    matrices = 8 * 8 + 4 * 8 + 4 * 8 + 8 * 8 + 16 * 8 + 8 * 16
    rows = 8 + 4 + 4 + 8 + 16 + 8
    bits = 10 * 8 * 7 + 10 * 16 + matrices * 5 + rows * 16 + 2 * 16
    assert squeezed_bytes(recipe, 10, matrix_bits=5, embedding_bits=7) == bits // 8


def test_squeezed_bytes_of_gates_by_hand() -> None:
    """A gate matrix of the MLP costs the bits of a matrix; gates of heads, routers and pairs of gains 16 a number."""
    plain = ModelRecipe(layers=2, width=8, heads=2, kv_heads=1, mlp_ratio=2.0)
    gated = dataclasses.replace(plain, gated_mlp=True, gated_attention=True, value_residual=True, routed_layers=(1,))
    matrices = 2 * (16 * 8 * 5 + 16 * 16)
    small = 16 * (2 * (2 * 8 + 2) + 2 * 2 + 8 + 1)
    more = squeezed_bytes(gated, 10, 5, 7) - squeezed_bytes(plain, 10, 5, 7)
    assert abs(more - (matrices + small) / 8) < 1
