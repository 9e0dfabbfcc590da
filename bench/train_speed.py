"""Training speed of the quickstart's model, about a million parameters, beside the 10,000 tokens a second asked of it.

    python bench/train_speed.py [--threads 2] [--batch 2048] [--steps 4]

Prints the median over several windows of whole steps (batch, forward, backward, clipping, Muon, Adam, average) with the
parts that they consist of, and the share of the machine's matrix speed that the model's arithmetic reaches. The load of
the machine is printed too: other work on the cores lowers the speed, but hardly the tokens a second of processor time
(which mean something with one thread: several spin while they wait for each other).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time

import numpy as np
import torch

from paramgolf.model.arithmetic import flops_per_token, parameter_count
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.recipes import get_recipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, one_step

ASKED = 10_000
VOCAB = 1024
WINDOWS = 7


class RandomWindows:
    """Random tokens: the work does not depend on them."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence

    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.random.default_rng(step).integers(0, VOCAB, size=(sequences, self.sequence + 1))
        return rows[:, :-1].copy(), rows[:, 1:].copy()


def matrix_speed() -> float:
    """Floating-point operations a second of one large float32 product: the limit for this machine and threads."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / min(times)


def measure_parts(state: TrainState, recipe: Recipe, windows: RandomWindows, sequences: int) -> dict[str, float]:
    """Seconds of each part of a step, the least of three."""
    inputs, targets = (torch.from_numpy(x) for x in windows.batch(0, sequences))
    best: dict[str, float] = {}
    for _ in range(3):
        marks = [time.perf_counter()]
        loss = state.model.loss(inputs, targets)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        state.optimizers.reduce([loss])
        marks.append(time.perf_counter())
        state.optimizers.step(1.0, recipe.optim.muon_momentum)
        marks.append(time.perf_counter())
        state.average.update(state.weights())
        marks.append(time.perf_counter())
        names = ("forward", "backward", "clip", "optimizers", "average")
        for name, begin, end in zip(names, marks, marks[1:], strict=False):
            best[name] = min(best.get(name, end - begin), end - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--steps", type=int, default=4, help="steps of a window")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = get_recipe("quickstart")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, batch_tokens=arguments.batch))
    model = recipe.model
    state = TrainState.fresh(recipe, VOCAB)
    windows, sequences = RandomWindows(256), arguments.batch // 256
    work = Work(recipe, windows, TrainingLoss(state.objective), Ranks())
    settings = StepSettings(1.0, recipe.optim.muon_momentum)

    def step() -> None:
        one_step(state, work, settings)

    step()
    speeds = []
    worked = time.process_time()
    for _ in range(WINDOWS):
        begin = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        speeds.append(arguments.steps * arguments.batch / (time.perf_counter() - begin))
    worked = time.process_time() - worked
    median = statistics.median(speeds)
    flops = flops_per_token(model, VOCAB, 256)
    limit = matrix_speed() / flops
    print(f"parameters {parameter_count(model, VOCAB):,}  sequence 256  vocabulary {VOCAB}  batch {arguments.batch}")
    print(
        f"threads {arguments.threads} of {os.cpu_count()} cores  load {os.getloadavg()[0]:.2f} (this process included)"
    )
    print(f"training  {median:,.0f} tokens/s (median of {WINDOWS} windows, {min(speeds):,.0f}..{max(speeds):,.0f})")
    print(f"          {WINDOWS * arguments.steps * arguments.batch / worked:,.0f} tokens per second of processor time")
    print(f"asked     {ASKED:,} tokens/s, ratio {median / ASKED:.2f}")
    print(
        f"limit     {limit:,.0f} tokens/s if everything ran like one large matrix product, ratio {median / limit:.2f}"
    )
    parts = measure_parts(state, recipe, windows, sequences)
    whole = sum(parts.values())
    print("parts     " + "  ".join(f"{name} {1e3 * t:.0f} ms ({t / whole:.0%})" for name, t in parts.items()))


if __name__ == "__main__":
    main()
