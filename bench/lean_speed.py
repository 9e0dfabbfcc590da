"""Milliseconds of the forward pass that scores on a CPU, beside the model's own.

    python bench/lean_speed.py [--threads N] [--rounds N]

Two shapes, as scoring uses them: eight frames of 256 tokens through the quickstart's model, and one frame of 2,048
through the record model of #549, with all positions and with the last stride alone. Rounds of the three take turns, and
the shortest of each counts: other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from paramgolf.model.gpt import GPT
from paramgolf.predict.lean_forward import lean_hidden
from paramgolf.recipes import get_recipe

VOCAB = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, frames in (("quickstart", 8), ("pr549", 1)):
        recipe = get_recipe(name)
        window, stride = recipe.score.window, recipe.score.stride
        whole, lean, last = measured(GPT(recipe.model, VOCAB), frames, window, stride, options.rounds)
        print(
            f"{name}, {frames} x {window} tokens, {options.threads} threads: model {whole:.1f} ms, lean {lean:.1f} ms "
            f"({whole / lean:.2f} x), last {stride} positions {last:.1f} ms ({whole / last:.2f} x)"
        )


def measured(model: GPT, frames: int, window: int, stride: int, rounds: int) -> list[float]:
    tokens = torch.randint(0, VOCAB, (frames, window))
    with torch.no_grad():
        return shortest(
            rounds,
            lambda: model.hidden(tokens),
            lambda: lean_hidden(model, tokens),
            lambda: lean_hidden(model, tokens, stride),
        )


def shortest(rounds: int, *calls: Callable[[], torch.Tensor]) -> list[float]:
    """Milliseconds of each call's quickest run."""
    times = [float("inf")] * len(calls)
    for _ in range(rounds + 1):  # the first makes tables and buffers
        for n, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            times[n] = min(times[n], time.perf_counter() - begin)
    return [1000 * seconds for seconds in times]


if __name__ == "__main__":
    main()
