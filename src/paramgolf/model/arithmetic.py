"""Sizes and costs of a model, from its recipe alone; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from paramgolf.errors import ArtifactError
from paramgolf.recipe import ModelRecipe

Shapes = dict[str, tuple[int, ...]]

# Which matrices a bank holds, in order: all layers of the first, then all layers of the second.
BANKS = {
    "banks.query_output": ("attention.query", "attention.output"),
    "banks.key_value": ("attention.key", "attention.value"),
    "banks.up": ("mlp.up",),
    "banks.gate": ("mlp.gate",),  # of a gated MLP only
    "banks.down": ("mlp.down",),
}
MATRICES = tuple(kind for kinds in BANKS.values() for kind in kinds)
TABLES = ("embedding.weight", "bigram.embedding.weight", "value_embedding.embedding.weight")


def usable_softcaps(caps: Sequence[float]) -> tuple[float, float]:
    """The two caps of an artifact's logits; `ArtifactError` with both if one is not positive or no finite number."""
    above, below = caps
    if not (0 < above < math.inf and 0 < below < math.inf):
        raise ArtifactError(f"softcaps of {above:g} and {below:g}: both must be positive; no training leaves others")
    return above, below


def bank_rows(bank: str, rows: int) -> list[str]:
    """Names in an artifact of the `rows` matrices of a bank, in its order."""
    kinds = BANKS[bank]
    layers = rows // len(kinds)
    return [f"blocks.{layer}.{kind}.weight" for kind in kinds for layer in range(layers)]


def parameter_shapes(recipe: ModelRecipe, vocab_size: int) -> Shapes:
    """Name and shape of every parameter of the module, in its order."""
    width, layers = recipe.width, recipe.layers
    shapes: Shapes = {}
    if recipe.unet:
        shapes["skip_weights"] = (recipe.skips(), width)
    if recipe.skip_gates:
        shapes["skip_gates"] = (recipe.skips(), width)
    if recipe.asymmetric_softcap:
        shapes["softcaps"] = (2,)
    shapes["embedding.weight"] = (vocab_size, width)
    if recipe.bigram_buckets:
        shapes["bigram.scale"] = ()
        shapes["bigram.embedding.weight"] = (recipe.bigram_buckets, recipe.bigram_width)
        shapes["bigram.projection.weight"] = (width, recipe.bigram_width)
    if recipe.smear == "gated":
        shapes["smear.gate"] = (recipe.gate_channels,)
        shapes["smear.scale"] = ()
    elif recipe.smear != "none":
        shapes["smear.gate"] = (width,)
    shapes["banks.query_output"] = (2 * layers, width, width)
    shapes["banks.key_value"] = (2 * layers, recipe.kv_width(), width)
    shapes["banks.up"] = (layers, recipe.mlp_width(), width)
    if recipe.gated_mlp:
        shapes["banks.gate"] = (layers, recipe.mlp_width(), width)
    shapes["banks.down"] = (layers, width, recipe.mlp_width())
    if recipe.value_layers:
        shapes["value_embedding.scale"] = ()
        shapes["value_embedding.embedding.weight"] = (vocab_size, recipe.value_width)
        shapes["value_embedding.projection.weight"] = (recipe.kv_width(), recipe.value_width)
    if recipe.parallel_layers:  # rows of all layers: published, those of the others are there and unused
        shapes["lanes.added"] = (layers, 2, 2)
        shapes["lanes.kept"] = (layers, 2)
    for layer in range(layers):
        shapes |= _block_shapes(recipe, layer)
    return shapes


def _block_shapes(recipe: ModelRecipe, layer: int) -> Shapes:
    block, width = f"blocks.{layer}", recipe.width
    shapes: Shapes = {}
    if recipe.residual_mix:
        shapes[f"{block}.residual_mix"] = (2, width)
    if recipe.block_scales:
        shapes[f"{block}.attention_scale"] = (width,)
        shapes[f"{block}.mlp_scale"] = (width,)
    if layer in recipe.value_layers:
        shapes[f"{block}.value_scale"] = (1,)
    if recipe.value_residual:
        shapes[f"{block}.value_mix"] = (2,)
    shapes[f"{block}.attention.query_gain"] = (recipe.heads,)
    if recipe.gated_attention:
        shapes[f"{block}.head_gate.weight"] = (recipe.heads, width)
        shapes[f"{block}.head_gate.bias"] = (recipe.heads,)
    if recipe.sparse_gates:
        shapes[f"{block}.sparse_gate.weight"] = (recipe.heads, recipe.gate_channels)
    if layer in recipe.routed_layers:
        shapes[f"{block}.router.weight"] = (1, width)
        shapes[f"{block}.router.bias"] = (1,)
    return shapes


def tensor_shapes(recipe: ModelRecipe, vocab_size: int) -> Shapes:
    """Name and shape of every tensor that an artifact holds: the parameters, with the banks taken apart."""
    exported: Shapes = {}
    for name, shape in parameter_shapes(recipe, vocab_size).items():
        exported |= dict.fromkeys(bank_rows(name, shape[0]), shape[1:]) if name in BANKS else {name: shape}
    return exported


def parameter_count(recipe: ModelRecipe, vocab_size: int) -> int:
    """Numbers in all parameters; the tied embedding counts once."""
    return sum(math.prod(shape) for shape in parameter_shapes(recipe, vocab_size).values())


def flops_per_token(
    recipe: ModelRecipe, vocab_size: int, sequence: int, *, backward: bool = True, looping: bool = True
) -> int:
    """Floating-point operations for one token of training (or of inference, without `backward`).

    Two for each weight of a matrix product (the embedding serves as the head; look-ups are free), two products of
    attention over `(sequence + 1) / 2` positions on average, and the backward pass at twice the forward one. Norms,
    rotary, softmax and other pointwise work are left out (PaLM, appendix B, with the causal half counted once). A
    routed MLP counts in full: training computes all of it, and reading out leaves about `1 - routed_share` of it away.
    A looped layer counts once for each of its runs; without `looping` (`train.loop_from`) it runs once. In packed rows
    `sequence` is the length of a document.
    """
    recipe = recipe if looping else replace(recipe, looped_layers=())
    looked_up = set(TABLES) - {"embedding.weight"}
    weights = sum(
        math.prod(shape) * _times_used(recipe, name)
        for name, shape in tensor_shapes(recipe, vocab_size).items()
        if name.endswith(".weight") and name not in looked_up
    )
    attention = recipe.visits() * 2 * recipe.width * (sequence + 1)
    return (2 * weights + attention) * (3 if backward else 1)


def _times_used(recipe: ModelRecipe, name: str) -> int:
    looped = any(name.startswith(f"blocks.{layer}.") for layer in recipe.looped_layers)
    return recipe.loops if looped else 1


def squeezed_bytes(recipe: ModelRecipe, vocab_size: int, matrix_bits: int, embedding_bits: int) -> int:
    """Estimate of the packed weights in bytes: the bits of every number, and 16 for each row's scale.

    The entropy coder does better on trained weights; the container, tokenizer and runtime come on top.
    """
    bits = 0
    for name, shape in tensor_shapes(recipe, vocab_size).items():
        if name in TABLES:
            bits += math.prod(shape) * embedding_bits + 16 * shape[0]
        elif name.removesuffix(".weight").endswith(MATRICES):
            bits += math.prod(shape) * matrix_bits + 16 * shape[0]
        else:
            bits += 16 * math.prod(shape)
    return bits // 8
