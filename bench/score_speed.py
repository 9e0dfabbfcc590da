"""Tokens a second of the neural window predictor, without adaptation, against the 25,000 that it should reach.

    python bench/score_speed.py [--threads N] [--tokens N]

The model has about 1 M parameters (6 layers, width 128, vocabulary 1024, window 256, stride 192) and random weights:
the time does not depend on their values. Every token is credited, as `score` does it; encoding the text is not timed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from paramgolf.model.gpt import GPT
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe

VOCAB = 1024
GOAL = 25_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=153_600)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = ScoreRecipe()
    model = GPT(ModelRecipe(), VOCAB)
    predictor = WindowPredictor(model, recipe, VOCAB, boundary_id=1)
    tokens = np.random.default_rng(0).integers(0, VOCAB, options.tokens)
    run(predictor, tokens[: 2 * recipe.chunk], recipe.chunk)
    begin = time.perf_counter()
    nats = run(predictor, tokens, recipe.chunk)
    rate = len(tokens) / (time.perf_counter() - begin)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters, {options.threads} threads, {len(tokens):,} tokens, "
        f"{nats / len(tokens):.3f} nats a token"
    )
    print(f"{rate:,.0f} tokens/s; {rate / GOAL:.2f} x the goal of {GOAL:,}")


def run(predictor: WindowPredictor, tokens: np.ndarray, size: int) -> float:
    nats = 0.0
    for first in range(0, len(tokens), size):
        part = tokens[first : first + size]
        chunk = Chunk(part[None], np.array([len(part)]), np.array([first == 0]))
        nats -= float(predictor.predict(chunk).realised().sum())
        predictor.observe(chunk)
    return nats


if __name__ == "__main__":
    main()
