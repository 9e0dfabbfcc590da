"""Tokens a second of the codec with the stepwise model, against the 400 that decoding should reach.

    python bench/decode_speed.py [--tokens N] [--vocab V] [--recipe NAME]

Without a recipe the model is the plain one of about 1 M parameters (6 layers, width 128, window 256, stride 224); the
goal is meant for that. Its weights are random and small, as those of a trained model are; the time depends a little on
how many MLP channels they leave at zero. The text is drawn from the model's own rows, so that the coder has real work.
Size and claim are printed beside the speed, and what a new machine waits for: the first row, with its compilation when
NUMBA_CACHE_DIR names an empty folder, and the rows of a whole frame at once, as at a frame's border.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from paramgolf.codec.arithmetic import TokenDecoder, TokenEncoder, decode_chunks, encode_chunks, stream_chunks
from paramgolf.model.arithmetic import tensor_shapes
from paramgolf.predict.protocol import Chunk, single_token
from paramgolf.predict.sample import draw
from paramgolf.predict.step import StepPredictor
from paramgolf.recipe import ModelRecipe, ScoreRecipe
from paramgolf.recipes import RECIPE_NAMES, get_recipe

GOAL = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--recipe", choices=RECIPE_NAMES)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    model, settings = ModelRecipe(), ScoreRecipe()
    if options.recipe:
        model, settings = get_recipe(options.recipe).model, get_recipe(options.recipe).score
    weights = random_weights(model, options.vocab, rng)

    def fresh() -> StepPredictor:
        return StepPredictor(weights, model, settings, options.vocab, 1)

    begin = time.perf_counter()
    fresh()
    first_row = time.perf_counter() - begin
    reading = frame_rate(fresh(), settings.window, rng)
    text, rate_of_rows = drawn_text(fresh(), options.tokens, rng)
    encoder = TokenEncoder()
    begin = time.perf_counter()
    encode_chunks(fresh(), stream_chunks(text, 1), encoder)
    encoded = time.perf_counter()
    code = encoder.code()
    chunks = decode_chunks(fresh(), TokenDecoder(code), stream_chunks(np.zeros_like(text), 1))
    decoded = np.concatenate([chunk.tokens[0] for chunk in chunks])
    end = time.perf_counter()
    if not (decoded == text).all():
        raise SystemExit("the decoded text is not the coded one")
    parameters = sum(value.size for value in weights.values())
    print(f"{parameters:,} parameters, vocabulary {options.vocab}, {len(text):,} tokens")
    ratio = 8 * len(code) / encoder.claimed_bits
    print(f"code {8 * len(code):,} bits, rows claim {encoder.claimed_bits:,.0f}: {ratio:.5f} x")
    print(f"encode {len(text) / (encoded - begin):,.0f} tokens/s; rows without coder {rate_of_rows:,.0f} tokens/s")
    rate = len(text) / (end - encoded)
    print(f"decode {rate:,.0f} tokens/s; {rate / GOAL:.2f} x the goal of {GOAL}")
    print(f"first row {first_row:.2f} s; a whole frame at {reading:,.0f} tokens/s")


def random_weights(model: ModelRecipe, vocab: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small matrices; gains, scales and mixes are one."""
    weights = {}
    for name, shape in tensor_shapes(model, vocab).items():
        gain = name.endswith(("scale", "gain", "mix", "skip_weights"))
        weights[name] = np.ones(shape, np.float32) if gain else (rng.standard_normal(shape) * 0.1).astype(np.float32)
    return weights


def frame_rate(predictor: StepPredictor, window: int, rng: np.random.Generator) -> float:
    """Tokens a second of one call for the frame that begins a text."""
    tokens = rng.integers(0, predictor.vocab_size, (1, window // predictor.grid.stride * predictor.grid.stride))
    chunk = Chunk(tokens, np.array([tokens.size]), np.array([True]))
    begin = time.perf_counter()
    predictor.predict(chunk)
    return tokens.size / (time.perf_counter() - begin)


def drawn_text(predictor: StepPredictor, count: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Tokens drawn from the predictor's rows, and how many rows a second it gave meanwhile."""
    tokens, seconds = [], 0.0
    for at in range(count):
        begin = time.perf_counter()
        row = predictor.predict(single_token(0, start=at == 0)).row(0, 0)
        seconds += time.perf_counter() - begin
        tokens.append(draw(row, 1.0, rng))
        begin = time.perf_counter()
        predictor.observe(single_token(tokens[-1], start=at == 0))
        seconds += time.perf_counter() - begin
    return np.array(tokens, dtype=np.int64), count / seconds


if __name__ == "__main__":
    main()
