"""Sizes and costs of a model, from its recipe alone; no torch."""

from __future__ import annotations

import math

from paramgolf.recipe import ModelRecipe


def tensor_shapes(recipe: ModelRecipe, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in the order of the module."""
    width, kv_width, mlp_width = recipe.width, recipe.kv_width(), recipe.mlp_width()
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocab_size, width)}
    for layer in range(recipe.layers):
        block = f"blocks.{layer}"
        shapes |= {
            f"{block}.attention.query_gain": (recipe.heads,),
            f"{block}.attention.query.weight": (width, width),
            f"{block}.attention.key.weight": (kv_width, width),
            f"{block}.attention.value.weight": (kv_width, width),
            f"{block}.attention.output.weight": (width, width),
            f"{block}.mlp.up.weight": (mlp_width, width),
            f"{block}.mlp.down.weight": (width, mlp_width),
        }
    return shapes


def parameter_count(recipe: ModelRecipe, vocab_size: int) -> int:
    """Numbers in all parameters; the tied embedding counts once."""
    return sum(math.prod(shape) for shape in tensor_shapes(recipe, vocab_size).values())


def flops_per_token(recipe: ModelRecipe, vocab_size: int, sequence: int, *, backward: bool = True) -> int:
    """Floating-point operations for one token of training (or of inference, without `backward`).

    Two for each weight of a matrix product (the embedding serves as the head, its look-up is free), two products of
    attention over `(sequence + 1) / 2` positions on average, and the backward pass at twice the forward one. Norms,
    rotary and softmax are left out (PaLM, appendix B, with the causal half counted once).
    """
    weights = sum(math.prod(s) for s in tensor_shapes(recipe, vocab_size).values() if len(s) == 2)
    attention = recipe.layers * 2 * recipe.width * (sequence + 1)
    return (2 * weights + attention) * (3 if backward else 1)


def squeezed_bytes(recipe: ModelRecipe, vocab_size: int, matrix_bits: int, embedding_bits: int) -> int:
    """Estimate of the packed weights in bytes: the bits of every number, and 16 for each row's scale.

    The entropy coder does better on trained weights; the container, tokenizer and runtime come on top.
    """
    bits = 0
    for name, shape in tensor_shapes(recipe, vocab_size).items():
        if len(shape) == 1:
            bits += 16 * shape[0]
        else:
            bits += math.prod(shape) * (embedding_bits if name == "embedding.weight" else matrix_bits) + 16 * shape[0]
    return bits // 8
