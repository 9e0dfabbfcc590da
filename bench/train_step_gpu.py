"""The training step of PR #549's model on one GPU, beside the 1.18 M tokens a second of the published run (per H100).

    python bench/train_step_gpu.py [--json] [--eager] [--no-largest]      # one H100, about 10 minutes
    python bench/train_step_gpu.py --cpu-smoke                           # a tiny model, to test this script

What is timed is `paramgolf.train.step.one_step` of recipe `pr549_1gpu`: micro-batch of 98,304 tokens in sequences of
2048, bfloat16, compiled; batch to the device, forward, backward, clipping, Muon over all banks, AdamW and the average.
Also printed: the parts of the step, model FLOP utilisation, the machine's own ceilings (one large matrix product, one
large copy), attention and loss alone by every kernel that is here, peak memory, and the largest micro-batch that fits.

Prediction, before any measurement. The arithmetic of a step is 228.7 MFLOP a token (no look-ups, causal half counted
once), 22.5 TFLOP in all: 22.7 ms at the 989 TFLOP/s of the data sheet, 28 ms at the 800 that a large product reaches:
no version is faster than 3.5 M tokens/s. What keeps it from there:

    matrix products   15.6 TFLOP at about 600 TFLOP/s                                                    26 ms
    attention         2.3 TFLOP forward at 330, 5.7 backward at 280 (heads of 64 channels, FA3)          27 ms
    everything else   about 90 GB through memory at 3 TB/s (11 layers x 40 tensors [N, 512] of 0.1 GB
                      and 10 tensors [N, 1536] of 0.3 GB, N = 98,304)                                    29 ms
    Muon              0.3 TFLOP of Newton-Schulz in small products, not overlapped                     2-3 ms

Sum 85 ms, 1.16 M tokens/s, which is what was published (83.5 ms). Torch's own flash attention should cost 10 ms more
(1.04 M tokens/s); to beat the figure clearly, the 29 ms must shrink. The loss moves five times its 0.2 GB of bfloat16
scores: 0.3 ms, within 1 % of the step either way; its kernel is there for memory (17 MB instead of 0.6 GB).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gpu_measure import (
    attention_table,
    ceilings,
    data_sheet_tflops,
    device_name,
    loss_table,
    memory,
    seconds_of,
    synchronise,
)
from paramgolf.kernels.attention import attention_backend
from paramgolf.kernels.loss import loss_backend
from paramgolf.model.arithmetic import flops_per_token, parameter_count
from paramgolf.optim.schedule import StepSettings
from paramgolf.ranks import Ranks, pick_device
from paramgolf.recipe import TrainRecipe
from paramgolf.recipes import get_recipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, backward, one_step

PUBLISHED = 1.18e6  # tokens a second of one H100 (spec pr549.md 5.5)
VOCAB = 1024
STEPS = 20
CHILD_SECONDS = 900
SMOKE_FITS = 3  # sequences that a smoke test pretends to have memory for


def build_recipe(smoke: bool, sequences: int) -> Any:
    """The recipe with one micro-batch of `sequences` a step."""
    recipe = get_recipe("pr549_tiny" if smoke else "pr549_1gpu")
    tokens = sequences * recipe.train.sequence
    model = dataclasses.replace(recipe.model, layers=4, xsa_layers=(3,), value_layers=(3,)) if smoke else recipe.model
    train = dataclasses.replace(recipe.train, batch_tokens=tokens, micro_tokens=tokens)
    return dataclasses.replace(recipe, model=model, train=train)


class RandomWindows:
    """One batch of random tokens, again and again: the work does not depend on them."""

    def __init__(self, train: TrainRecipe) -> None:
        shape = (train.batch_tokens // train.sequence, train.sequence + 1)
        rows = np.random.default_rng(0).integers(0, VOCAB, size=shape)
        self.inputs, self.targets = rows[:, :-1].copy(), rows[:, 1:].copy()

    def batch(self, step: int, sequences: int) -> tuple[Any, Any]:
        return self.inputs[:sequences], self.targets[:sequences]


class Spoken:
    """Collects what the trainer says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Step:
    """A trainable state of the recipe, warmed up."""

    def __init__(self, recipe: Any, eager: bool) -> None:
        self.device = pick_device(0)
        ranks = Ranks(device=self.device)
        self.state = TrainState.fresh(recipe, VOCAB, ranks)
        self.loss = TrainingLoss(self.state.objective)
        self.work = Work(recipe, RandomWindows(recipe.train), self.loss, ranks)
        self.settings = StepSettings(1.0, recipe.optim.muon_momentum)
        self.notes = Spoken()
        begin = time.perf_counter()
        if not eager:
            tokens = torch.zeros(self.work.piece(), recipe.train.sequence, dtype=torch.int64, device=self.device)
            self.loss.compile(tokens, (self.settings,), self.notes)
        self()
        synchronise(self.device)
        self.compile_seconds = time.perf_counter() - begin

    def __call__(self) -> None:
        one_step(self.state, self.work, self.settings)

    def backward(self) -> None:
        """Forward and backward only."""
        backward(self.state, self.work, self.settings)
        self.state.model.zero_grad()


def measure(sequences: int, smoke: bool, eager: bool) -> dict[str, Any]:
    """Everything but the largest micro-batch."""
    recipe = build_recipe(smoke, sequences)
    step = Step(recipe, eager or smoke)
    device, tokens = step.device, recipe.train.batch_tokens
    fixed = memory(device, reset=True)["allocated_now_bytes"]
    whole = seconds_of(step, device, 3 if smoke else STEPS)
    peak = memory(device)
    passes = seconds_of(step.backward, device, 3 if smoke else STEPS)
    flops = flops_per_token(recipe.model, VOCAB, recipe.train.sequence)
    name = device_name(device)
    dtype = step.state.model.activation_dtype or torch.float32
    record: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "parameters": parameter_count(recipe.model, VOCAB),
        "micro_batch_tokens": tokens,
        "sequence": recipe.train.sequence,
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": not (eager or smoke) and not step.notes.lines,
        "notes": step.notes.lines,
        "compile_seconds": step.compile_seconds,
        "attention": attention_backend(device, dtype, recipe.model.head_size()),
        "loss": loss_backend(device, dtype),
        "step_ms": 1e3 * whole,
        "forward_backward_ms": 1e3 * passes,
        "tokens_per_second": tokens / whole,
        "ratio_to_published": tokens / whole / PUBLISHED,
        "flops_per_token": flops,
        "model_tflops": flops * tokens / whole / 1e12,
        "memory": {**peak, "between_steps_bytes": fixed},
    }
    record["ceilings"] = ceilings(device, smoke)
    record["mfu_of_measured_product"] = record["model_tflops"] / record["ceilings"]["product_tflops"]
    sheet = data_sheet_tflops(name)
    record["mfu_of_data_sheet"] = None if sheet is None else record["model_tflops"] / sheet
    record["attention_alone"] = attention_table(recipe, device, sequences)
    record["loss_alone"] = loss_table(recipe, device, tokens, VOCAB)
    return record


def try_size(sequences: int, smoke: bool, eager: bool) -> dict[str, Any]:
    """Whether two steps of a micro-batch fit, and what they take."""
    recipe = build_recipe(smoke, 1 if smoke else sequences)
    if smoke and sequences > SMOKE_FITS:
        return {"fits": False}
    try:
        step = Step(recipe, eager or smoke)
        step()
    except torch.OutOfMemoryError:
        return {"fits": False}
    except RuntimeError as error:  # a library's own workspace
        if "ALLOC_FAILED" not in str(error):
            raise
        return {"fits": False}
    return {"fits": True, **memory(step.device)}


def largest(fits: Callable[[int], bool], known: int, guess: int) -> int:
    """The largest size that fits, to a sixteenth: `known` fits, `guess` is tried first."""
    low, high = known, 0
    size = max(guess, known + 1)
    while not high or high - low > max(1, low // 16):
        if fits(size):
            low = size
        else:
            high = size
        size = (low + high) // 2 if high else 2 * low
    return low


def child(arguments: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """Run a part of this script in a process of its own, so that its memory is all given back."""
    flags = [flag for flag, given in (("--eager", arguments.eager), ("--cpu-smoke", arguments.cpu_smoke)) if given]
    command = [sys.executable, __file__, "--child", *extra, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=CHILD_SECONDS)
    if done.returncode:
        sys.exit(f"the child process of {' '.join(extra)} failed with status {done.returncode}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def search(arguments: argparse.Namespace, sequences: int, record: dict[str, Any]) -> dict[str, Any]:
    """The largest micro-batch, every size in its own process; the first guess is a straight line through memory."""
    tried: dict[int, dict[str, Any]] = {}

    def fits(size: int) -> bool:
        tried[size] = child(arguments, "--try-sequences", str(size))
        print(f"  {size} sequences: {'fit' if tried[size]['fits'] else 'do not fit'}", file=sys.stderr, flush=True)
        return bool(tried[size]["fits"])

    seen = record["memory"]
    for_each = max(1, (seen["reserved_bytes"] - seen["between_steps_bytes"]) // sequences)
    guess = int((0.97 * seen["device_bytes"] - seen["between_steps_bytes"]) // for_each) if seen["device_bytes"] else 0
    best = largest(fits, sequences, guess or 2 * sequences)
    found = {"sequences": best, "tokens": best * record["sequence"], "tried": sorted(tried)}
    return {**found, **({"reserved_bytes": tried[best].get("reserved_bytes", 0)} if best in tried else {})}


def show(record: dict[str, Any]) -> None:
    gigabytes = {name: value / 1e9 for name, value in record["memory"].items()}
    sheet = record["mfu_of_data_sheet"]
    print(f"device     {record['device']}, torch {record['torch']}, {record['dtype']}")
    print(f"model      {record['parameters']:,} parameters, {record['flops_per_token'] / 1e6:.1f} MFLOP a token")
    print(f"batch      {record['micro_batch_tokens']:,} tokens in sequences of {record['sequence']}")
    print(f"compiled   {record['compiled']} ({record['compile_seconds']:.0f} s to the first step)")
    for line in record["notes"]:
        print(f"           {line}")
    print(f"kernels    attention {record['attention']}, loss {record['loss']}")
    rest = record["step_ms"] - record["forward_backward_ms"]
    parts = f"forward and backward {record['forward_backward_ms']:.1f}, the rest {rest:.1f}"
    print(f"step       {record['step_ms']:.1f} ms ({parts})")
    print(
        f"speed      {record['tokens_per_second']:,.0f} tokens/s, {record['ratio_to_published']:.2f} of the published"
    )
    shares = f"{record['mfu_of_measured_product']:.1%} of a large product here"
    print(
        f"arithmetic {record['model_tflops']:.1f} TFLOP/s: {shares}"
        + (f", {sheet:.1%} of the data sheet" if sheet else "")
    )
    limits = record["ceilings"]
    print(f"ceilings   {limits['product_tflops']:.1f} TFLOP/s, copy {limits['copy_tb_per_second']:.2f} TB/s")
    print(
        f"memory     peak {gigabytes['allocated_bytes']:.2f} GB allocated, {gigabytes['reserved_bytes']:.2f} reserved, "
        f"{gigabytes['between_steps_bytes']:.2f} between steps, device {gigabytes['device_bytes']:.1f}"
    )
    for name, row in record["attention_alone"].items():
        print(
            f"attention  {name:<28} forward {row['forward_ms']:.2f} ms ({row['forward_tflops']:.1f} TFLOP/s), "
            f"backward {row['backward_ms']:.2f} ms ({row['backward_tflops']:.1f})"
        )
    for name, row in record["loss_alone"].items():
        print(f"loss       {name:<28} {row['ms']:.2f} ms, {row['peak_bytes'] / 1e6:.0f} MB more at its peak")
    if "largest" in record:
        found = record["largest"]
        print(f"largest    {found['sequences']} sequences, {found['tokens']:,} tokens fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--sequences", type=int, default=0, help="of a micro-batch (default 48; 2 with --cpu-smoke)")
    parser.add_argument("--no-largest", action="store_true", help="do not look for the largest micro-batch")
    parser.add_argument("--cpu-smoke", action="store_true", help="a tiny model, on whatever device: tests this script")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--try-sequences", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sequences = arguments.sequences or (2 if arguments.cpu_smoke else 48)
    if arguments.child:
        size, smoke, eager = arguments.try_sequences, arguments.cpu_smoke, arguments.eager
        print(json.dumps(try_size(size, smoke, eager) if size else measure(sequences, smoke, eager)))
        return
    if not arguments.cpu_smoke and not torch.cuda.is_available():
        sys.exit("no GPU here; next: --cpu-smoke tests the script, the figures need one H100")
    record = child(arguments, "--sequences", str(sequences))
    if not arguments.no_largest:
        record["largest"] = search(arguments, sequences, record)
    if arguments.json:
        print(json.dumps(record, indent=1))
    else:
        show(record)


if __name__ == "__main__":
    main()
