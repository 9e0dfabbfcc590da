"""How fast adapters learn on a CPU: lanes side by side against one lane at a time, on the model of pr2140_tiny.

    python bench/lora_lanes.py [LANES] [TOKENS of a document, ...]

Every document is scored twice: alone in the only lane of a predictor, and beside others. Prints tokens a second of
both, their ratio (and that of processor seconds, which a busy machine disturbs less), and the largest difference of a
credit in nats. Weights are random, of the usual size; the text is a
repeating pattern with errors. OMP_NUM_THREADS says how many threads torch has.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time

import numpy as np
import torch

from paramgolf.model.gpt import GPT
from paramgolf.predict.lora import LoraPredictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Float64, Int64
from paramgolf.predict.window import WindowPredictor
from paramgolf.recipe import ScoreRecipe
from paramgolf.recipes import get_recipe

VOCAB, BOUNDARY = 1024, 1


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    lanes = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    lengths = [int(word) for word in sys.argv[2:]] or [96, 192, 384, 768]
    recipe = get_recipe("pr2140_tiny")
    settings = dataclasses.replace(recipe.score, global_documents=0, lora_keeps_inner=False)
    model = GPT(recipe.model, VOCAB)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "lanes" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.eval()
    print(f"{lanes} lanes, {torch.get_num_threads()} threads, window {settings.window}, pieces {settings.lora_chunks}")
    for length in lengths:
        documents = [_text(length, seed) for seed in range(lanes)]
        _credits(model, settings, documents[:1], 1)
        alone, one, one_cpu = zip(*(_credits(model, settings, [document], 1) for document in documents))
        beside, many, many_cpu = _credits(model, settings, documents, lanes)
        apart = np.abs(np.concatenate(alone) - beside).max()
        rates = [lanes * length / seconds for seconds in (sum(one), many)]
        print(
            f"{length:5} tokens: one at a time {rates[0]:.1f} tokens/s, side by side {rates[1]:.1f} tokens/s, "
            f"{rates[1] / rates[0]:.2f} x (processor {sum(one_cpu) / many_cpu:.2f} x), credits apart {apart:.1e} nats"
        )


def _text(count: int, seed: int) -> Int64:
    rng = np.random.default_rng(seed)
    tokens = np.tile(rng.integers(2, VOCAB, 50), count // 50 + 1)[:count]
    return np.where(rng.random(count) < 0.1, rng.integers(2, VOCAB, count), tokens)


def _credits(model: GPT, settings: ScoreRecipe, documents: list[Int64], lanes: int) -> tuple[Float64, float, float]:
    """The credits of all documents, one after the other, and the seconds and processor seconds that they took."""
    predictor = LoraPredictor(WindowPredictor(model, settings, VOCAB, BOUNDARY, lanes))
    order = plan([len(document) for document in documents], lanes=max(lanes, 2), chunk=settings.chunk)
    found: list[list[float]] = [[] for _ in documents]
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for chunk in order.chunks(documents, BOUNDARY):
        chunk = dataclasses.replace(
            chunk, tokens=chunk.tokens[:lanes], lengths=chunk.lengths[:lanes], starts=chunk.starts[:lanes]
        )
        credits_BT = predictor.predict(chunk).realised()
        predictor.observe(chunk)
        for lane, length in enumerate(chunk.lengths):
            found[lane] += credits_BT[lane, :length].tolist()
    seconds, processor = time.perf_counter() - begin, time.process_time() - begin_cpu
    return np.concatenate([np.array(of_lane) for of_lane in found]), seconds, processor


if __name__ == "__main__":
    main()
