"""Seconds of full GPTQ for a model of a given size, Hessians given.

    OMP_NUM_THREADS=1 python bench/gptq_speed.py [RECIPE] [--json]

The weights are random, of the shapes of RECIPE's matrices (default pr549: 66 of them); the Hessians are second moments
of random inputs whose channels are correlated and differ in scale by a factor of some hundreds. Timed are the factors,
the search for the steps with the rounding (eight passes), and one rounding with steps that are given, which is what
each further probe of the byte budget takes. The matrices go side by side on all cores, so BLAS should have one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np

from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.recipes import RECIPE_NAMES, get_recipe
from paramgolf.squeeze.matrices import rounded_names
from paramgolf.squeeze.matrix_rounder import MatrixRounder
from paramgolf.squeeze.quantize import Scheme

_SHARED = {"key": "query", "value": "query", "gate": "up"}  # matrices that take the inputs of another


def problem(shapes: dict[str, tuple[int, int]]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights and Hessians by name."""
    rng = np.random.default_rng(0)
    weights, hessians, shared = {}, {}, {}
    for name, (rows, columns) in shapes.items():
        weights[name] = (rng.standard_t(6, (rows, columns)) * 0.05).astype(np.float32)
        _, layer, *_, kind, _ = name.split(".")
        inputs = layer, _SHARED.get(kind, kind)
        if inputs not in shared:
            shared[inputs] = hessian(rng, columns)
        hessians[name] = shared[inputs]
    return weights, hessians


def hessian(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Moments of correlated inputs of uneven scale."""
    hidden = rng.normal(0, 1, (4 * columns, columns // 2)).astype(np.float32)
    inputs = hidden @ rng.normal(0, 1, (columns // 2, columns)).astype(np.float32) / np.sqrt(columns / 2)
    inputs += rng.normal(0, 0.2, inputs.shape).astype(np.float32)
    inputs *= np.exp(rng.normal(0, 1, columns)).astype(np.float32)
    return inputs.T @ inputs / 4


def measure(recipe_name: str) -> dict[str, float]:
    """Seconds by what took them."""
    recipe = get_recipe(recipe_name)
    shapes = tensor_shapes(recipe.model, recipe.tokenizer.vocab_size)
    names = rounded_names(shapes, recipe.squeeze)
    weights, hessians = problem({name: shapes[name] for name in names})
    print("weights and Hessians are made", file=sys.stderr, flush=True)
    record: dict[str, float] = {"matrices": len(names), "weights": sum(w.size for w in weights.values())}
    begin = time.perf_counter()
    rounder = MatrixRounder(weights, hessians, recipe.squeeze)
    record["factors"] = time.perf_counter() - begin
    for phase, coarseness in (("search and round", 1.0), ("round again", 1.5)):
        begin = time.perf_counter()
        rounder.quantise(dict.fromkeys(names, Scheme(recipe.squeeze.matrix_bits, coarseness)))
        record[phase] = time.perf_counter() - begin
    return record | {"seconds": record["factors"] + record["search and round"], "cores": os.cpu_count() or 1}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="pr549", choices=RECIPE_NAMES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    record = measure(options.recipe)
    if options.json:
        print(json.dumps({"recipe": options.recipe, **record}))
        return
    print(
        f"{options.recipe}: {record['matrices']} matrices, {record['weights']:,} weights, {record['cores']} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for phase in ("factors", "search and round", "round again", "seconds"):
        print(f"  {phase:<18}{record[phase]:>8.2f} s")


if __name__ == "__main__":
    main()
