"""What recipes exist; with a name, everything that decides a run of it and the tensors of its model."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math

from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An optional name."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe; without it all are listed")


def run(options: argparse.Namespace, output: Output) -> int:
    """List the recipes, or show one."""
    if options.name is None:
        _list(output)
    else:
        _show(options.name, output)
    return 0


def _list(output: Output) -> None:
    from paramgolf.model.arithmetic import parameter_count
    from paramgolf.recipes import RECIPE_NAMES, get_recipe

    rows, records = [], []
    for name in RECIPE_NAMES:
        recipe = get_recipe(name)
        count = parameter_count(recipe.model, recipe.tokenizer.vocab_size)
        seconds = recipe.budget.train_seconds
        rows.append((name, f"{count:,} parameters", f"{seconds:g} s of training"))
        records.append({"name": name, "parameters": count, "train_seconds": seconds})
    output.table(rows, right=(1, 2))
    output.next("paramgolf", "recipes", RECIPE_NAMES[0])
    output.result({"recipes": records})


def _show(name: str, output: Output) -> None:
    from paramgolf.model.arithmetic import parameter_count, parameter_shapes, squeezed_bytes
    from paramgolf.recipes import get_recipe
    from paramgolf.squeeze.size_law import size_law

    recipe = get_recipe(name)
    vocab_size = recipe.tokenizer.vocab_size
    shapes = parameter_shapes(recipe.model, vocab_size)
    count = parameter_count(recipe.model, vocab_size)
    heads = recipe.train.future_heads * vocab_size * recipe.model.width
    squeeze = recipe.squeeze
    estimate = squeezed_bytes(recipe.model, vocab_size, squeeze.matrix_bits, squeeze.embedding_bits)
    law = size_law(recipe.model, squeeze, vocab_size) if squeeze.clip == "sigma" else None
    estimate = estimate if law is None else round(law.total())
    output.table([(tensor, " x ".join(map(str, shape)), f"{math.prod(shape):,}") for tensor, shape in shapes.items()])
    output.say(f"{count:,} parameters in {len(shapes)} tensors, weights of about {estimate:,} bytes")
    if law is not None:
        parts = ", ".join(f"{part} {size / 1e6:.3f}" for part, size in dataclasses.asdict(law).items())
        output.say(f"planned by the entropy of Gaussian weights at the recipe's clips, MB: {parts}")
    if heads:
        output.say(f"{count + heads:,} parameters in training: {recipe.train.future_heads} heads look further ahead")
    output.say(recipe.to_json())
    output.next("paramgolf", "train", name, "--data", "SHARDS")
    output.result(
        {
            "name": recipe.name,
            "parameters": count + heads,
            "exported_parameters": count,
            "tensors": {tensor: list(shape) for tensor, shape in shapes.items()},
            "estimated_weight_bytes": estimate,
            "fingerprint": recipe.fingerprint(),
            "recipe": json.loads(recipe.to_json()),
        }
    )
