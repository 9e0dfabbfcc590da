"""The training step of a published system on one GPU, beside the tokens a second of the published run (per H100).

    python bench/train_step_gpu.py [--json] [--eager] [--no-largest]      # PR #549, one H100, about 10 minutes
    python bench/train_step_gpu.py --system pr2140 [--json] [--eager]    # PR #2140, every stage of its clock
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

With `--system pr2140` the step is that of `pr2140_1gpu`: one packed row of 98,304 tokens, documents of 950 tokens on
average. Contexts and looping change with the clock, so each stage is timed alone and their speeds are averaged by their
shares of the clock: 6.55 M tokens a second on eight GPUs as published, 0.82 M on one (spec pr2140.md 3.2). Arithmetic:
216 MFLOP a token without attention, 319 looping; at the ratio of time to arithmetic that PR #549 reached that is 0.9 to
1.1 M tokens a second before looping and 0.7 M after, 0.8 M on average. Also timed: the MLP alone, plain, compiled and
by the fused Triton kernels, which the model takes only if they win here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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
from mlp_gpu import mlp_table
from paramgolf.kernels.attention import attention_backend
from paramgolf.kernels.loss import loss_backend
from paramgolf.kernels.varlen import varlen_backend
from paramgolf.model.arithmetic import flops_per_token, parameter_count
from paramgolf.optim.schedule import StepSettings, settings_of, stages
from paramgolf.ranks import Ranks, pick_device
from paramgolf.recipe import Recipe, TrainRecipe
from paramgolf.recipes.pr549 import pr549_1gpu, pr549_tiny
from paramgolf.recipes.pr2140 import pr2140_1gpu, pr2140_tiny
from paramgolf.train.batches import sequences_of_rank
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, backward, one_step


class System(NamedTuple):
    """A published system: its recipe, a tiny one, its vocabulary, tokens a second on one H100, default sequences."""

    recipe: Callable[[], Recipe]
    tiny: Callable[[], Recipe]
    vocab: int
    published: float
    sequences: int


SYSTEMS = {
    "pr549": System(pr549_1gpu, pr549_tiny, 1024, 1.18e6, 48),  # spec pr549.md 5.5
    "pr2140": System(pr2140_1gpu, pr2140_tiny, 8192, 6.55e6 / 8, 32),  # spec pr2140.md 3.2
}
DOCUMENT = 950  # mean tokens of a document in packed rows
STEPS = 20
CHILD_SECONDS = 900
SMOKE_FITS = 3  # sequences that a smoke test pretends to have memory for


def build_recipe(system: str, smoke: bool, sequences: int) -> Any:
    """The recipe with one micro-batch of `sequences` a step."""
    recipe = SYSTEMS[system].tiny() if smoke else SYSTEMS[system].recipe()
    tokens, model = sequences * recipe.train.sequence, recipe.model
    if smoke and system == "pr549":
        model = dataclasses.replace(model, layers=4, xsa_layers=(3,), value_layers=(3,))
    train = dataclasses.replace(recipe.train, batch_tokens=tokens, micro_tokens=tokens)
    return dataclasses.replace(recipe, model=model, train=train)


class RandomWindows:
    """One batch of random tokens, again and again: the work depends on the lengths of packed documents alone."""

    def __init__(self, train: TrainRecipe, vocab: int) -> None:
        drawn, rows = np.random.default_rng(0), sequences_of_rank(train, 1)
        shape = (rows, train.batch_tokens // rows + 1)
        rows = drawn.integers(2, vocab, size=shape)
        rows[drawn.random(shape) < 1 / DOCUMENT] = 1
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

    def __init__(self, recipe: Any, vocab: int, eager: bool) -> None:
        self.device = pick_device(0)
        ranks = Ranks(device=self.device)
        self.state = TrainState.fresh(recipe, vocab, ranks)
        self.loss = TrainingLoss(self.state.objective)
        self.work = Work(recipe, RandomWindows(recipe.train, vocab), self.loss, ranks)
        self.forms = {(form.context, form.looping): form for form in stages(recipe)}
        self.settings = list(self.forms.values())[-1]
        self.notes = Spoken()
        self.compile_seconds = self.enter(self.settings, eager)

    def enter(self, settings: StepSettings, eager: bool) -> float:
        """Go on with other settings, compiled for this very batch; the seconds until the first step is done."""
        self.settings = settings
        begin = time.perf_counter()
        if not eager:
            self.loss.compile([(settings, piece) for piece in self.work.pieces(0, settings.context)], self.notes)
        self()
        synchronise(self.device)
        return time.perf_counter() - begin

    def __call__(self) -> None:
        one_step(self.state, self.work, self.settings)

    def backward(self) -> None:
        """Forward and backward only."""
        backward(self.state, self.work, self.settings)
        self.state.model.zero_grad()


def shares(recipe: Any) -> dict[tuple[int, bool], float]:
    """Share of the clock of each pair of context and looping."""
    limit, parts = recipe.budget.train_seconds, 10_000
    found: dict[tuple[int, bool], float] = {}
    for part in range(parts):
        settings = settings_of(recipe, 1, limit * (part + 0.5) / parts)
        form = (settings.context, settings.looping)
        found[form] = found.get(form, 0.0) + 1 / parts
    return found


def stage_table(recipe: Any, step: Step, vocab: int, smoke: bool, eager: bool) -> list[dict[str, Any]]:
    """Each stage of the clock by itself: its share, speed, and the arithmetic of its step."""
    tokens, table = recipe.train.batch_tokens, []
    for (context, looping), share in shares(recipe).items():
        seconds = step.enter(step.forms[context, looping], eager or smoke)
        whole = seconds_of(step, step.device, 3 if smoke else STEPS)
        model = recipe.model if looping else dataclasses.replace(recipe.model, looped_layers=())
        flops = flops_per_token(model, vocab, min(context, DOCUMENT))
        row = {"context": context, "looping": looping, "share": share, "compile_seconds": seconds}
        speed = tokens / whole
        table.append({**row, "step_ms": 1e3 * whole, "tokens_per_second": speed, "tflops": flops * speed / 1e12})
    return table


def measure(system: str, sequences: int, smoke: bool, eager: bool) -> dict[str, Any]:
    """Everything but the largest micro-batch; with several stages the speed is their mean over the clock."""
    recipe, vocab, published = build_recipe(system, smoke, sequences), SYSTEMS[system].vocab, SYSTEMS[system].published
    step = Step(recipe, vocab, eager or smoke)
    device, tokens = step.device, recipe.train.batch_tokens
    fixed = memory(device, reset=True)["allocated_now_bytes"]
    whole = seconds_of(step, device, 3 if smoke else STEPS)
    peak = memory(device)
    passes = seconds_of(step.backward, device, 3 if smoke else STEPS)
    packed = recipe.train.packed
    flops = flops_per_token(recipe.model, vocab, DOCUMENT if packed else recipe.train.sequence)
    backend = varlen_backend if packed else attention_backend
    name = device_name(device)
    dtype = step.state.model.activation_dtype or torch.float32
    record: dict[str, Any] = {
        "system": system,
        "device": name,
        "torch": torch.__version__,
        "parameters": parameter_count(recipe.model, vocab),
        "micro_batch_tokens": tokens,
        "sequence": recipe.train.sequence,
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": not (eager or smoke) and not step.notes.lines,
        "notes": step.notes.lines,
        "compile_seconds": step.compile_seconds,
        "attention": backend(device, dtype, recipe.model.head_size()),
        "loss": loss_backend(device, dtype),
        "step_ms": 1e3 * whole,
        "forward_backward_ms": 1e3 * passes,
        "tokens_per_second": tokens / whole,
        "ratio_to_published": tokens / whole / published,
        "flops_per_token": flops,
        "model_tflops": flops * tokens / whole / 1e12,
        "memory": {**peak, "between_steps_bytes": fixed},
    }
    record["ceilings"] = ceilings(device, smoke)
    record["mfu_of_measured_product"] = record["model_tflops"] / record["ceilings"]["product_tflops"]
    sheet = data_sheet_tflops(name)
    record["mfu_of_data_sheet"] = None if sheet is None else record["model_tflops"] / sheet
    record["attention_alone"] = attention_table(recipe, device, sequences)
    record["loss_alone"] = loss_table(recipe, device, tokens, vocab)
    record["mlp_alone"] = mlp_table(recipe, device, tokens)
    if len(step.forms) > 1:
        record["stages"] = stage_table(recipe, step, vocab, smoke, eager)
        mean = sum(row["share"] * row["tokens_per_second"] for row in record["stages"])
        record |= {"tokens_per_second_of_the_run": mean, "ratio_to_published": mean / published}
    return record


def try_size(system: str, sequences: int, smoke: bool, eager: bool) -> dict[str, Any]:
    """Whether two steps of a micro-batch fit, and what they take."""
    recipe = build_recipe(system, smoke, 1 if smoke else sequences)
    if smoke and sequences > SMOKE_FITS:
        return {"fits": False}
    try:
        step = Step(recipe, SYSTEMS[system].vocab, eager or smoke)
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
    command = [sys.executable, __file__, "--child", "--system", arguments.system, *extra, *flags]
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
        f"speed      {record['tokens_per_second']:,.0f} tokens/s"
        + (" in the last stage" if "stages" in record else f", {record['ratio_to_published']:.2f} of the published")
    )
    for row in record.get("stages", []):
        print(
            f"stage      context {row['context']}{', looping' if row['looping'] else ''}: {row['step_ms']:.1f} ms, "
            f"{row['tokens_per_second']:,.0f} tokens/s, {row['tflops']:.1f} TFLOP/s, {row['share']:.0%} of the clock"
        )
    if "stages" in record:
        mean, ratio = record["tokens_per_second_of_the_run"], record["ratio_to_published"]
        print(f"run        {mean:,.0f} tokens/s on average over the clock, {ratio:.2f} of the published")
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
    for name, row in record["mlp_alone"].items():
        print(f"mlp        {name:<28} {row['ms']:.2f} ms ({row['tflops']:.1f} TFLOP/s)")
    if "largest" in record:
        found = record["largest"]
        print(f"largest    {found['sequences']} sequences, {found['tokens']:,} tokens fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--system", choices=SYSTEMS, default="pr549", help="whose training step (default pr549)")
    parser.add_argument("--sequences", type=int, default=0, help="of a micro-batch (default 98,304 tokens in all)")
    parser.add_argument("--no-largest", action="store_true", help="do not look for the largest micro-batch")
    parser.add_argument("--cpu-smoke", action="store_true", help="a tiny model, on whatever device: tests this script")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--try-sequences", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sequences = arguments.sequences or (2 if arguments.cpu_smoke else SYSTEMS[arguments.system].sequences)
    if arguments.child:
        size, system, how = arguments.try_sequences, arguments.system, (arguments.cpu_smoke, arguments.eager)
        print(json.dumps(try_size(system, size, *how) if size else measure(system, sequences, *how)))
        return
    if not arguments.cpu_smoke and not torch.cuda.is_available():
        sys.exit("no GPU here; next: --cpu-smoke tests the script, the figures need one H100")
    record = child(arguments, "--sequences", str(sequences))
    if not arguments.no_largest and not SYSTEMS[arguments.system].recipe().train.packed:
        record["largest"] = search(arguments, sequences, record)
    if arguments.json:
        print(json.dumps(record, indent=1))
    else:
        show(record)


if __name__ == "__main__":
    main()
