"""What single parts of model and training are worth: held-out bits per byte with each switched on alone.

    python bench/training_parts.py --data DIR TEXT --steps 600 --seeds 4 [--only PART...] [--bytes N] [--threads 2]

DIR is a folder that `paramgolf data` prepared, TEXT held-out text that is not in it. Every run is `pr549_tiny` with the
changes of its row, trained for the same number of steps: the clock counts steps, so the load of the machine does not
matter, and a part that makes steps slower does not pay for it (the last column says how much slower). A seed decides
weights and batches, and rows of one seed see the same batches: differences are taken seed by seed, and ± is their
standard error. Scores are those of the averaged weights in windows that start afresh, unrounded, and with the blocks'
matrices rounded to 6 and to 4 bits by the squeeze's own search of steps.

Expectation: CROWN-Q as published changes nothing; XSA, value residual and value embeddings gain a few thousandths;
drawing weights to their steps and rounding in training cost a little unrounded and gain at 4 bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paramgolf.clock import Clock
from paramgolf.model.arithmetic import parameter_count
from paramgolf.model.gpt import GPT
from paramgolf.recipe import Recipe
from paramgolf.recipes import get_recipe
from paramgolf.referee.statistics import sample_of
from paramgolf.run_folder import RunFolder
from paramgolf.squeeze.clip_search import clip_search
from paramgolf.squeeze.matrices import rounded_names
from paramgolf.text.documents import read_documents
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.shards import read_shard
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.loop import train
from paramgolf.train.progress import SilentDisplay

PARTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("2 heads further ahead", {"train.future_heads": 2}),
    ("2 heads, weight 0.05", {"train.future_heads": 2, "train.future_weight": 0.05}),
    ("CROWN-Q as published", {"train.crown_weight": 0.02, "train.crown_form": "published"}),
    ("CROWN-Q, distance, 6 bits", {"train.crown_weight": 0.1}),
    ("CROWN-Q, distance, 4 bits", {"train.crown_weight": 0.1, "squeeze.matrix_bits": 4}),
    ("late rounding, 6 bits", {"optim.qat_below": 0.25}),
    ("late rounding, 4 bits", {"optim.qat_below": 0.25, "squeeze.matrix_bits": 4}),
    ("distilled from the average, 0.08", {"train.distill_weight": 0.08}),
    ("distilled from the average, 0.5", {"train.distill_weight": 0.5}),
    ("Grokfast 0.08", {"optim.grokfast": 0.08}),
    ("value residual", {"model.value_residual": True}),
    ("gated attention", {"model.gated_attention": True}),
    ("gated MLP", {"model.gated_mlp": True}),
    ("gated MLP of equal size", {"model.gated_mlp": True, "model.mlp_ratio": 2.0}),
    ("routed MLPs in layers 2..5", {"model.routed_layers": (2, 3, 4, 5)}),
    ("XSA in all layers", {"model.xsa_layers": (0, 1, 2, 3, 4, 5)}),
    ("value embeddings in layers 3..5", {"model.value_layers": (3, 4, 5)}),
)
BASE = "pr549_tiny"
ROUNDED_TO = (6, 4)
WINDOWS_AT_ONCE = 32

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """Bits per byte of one run, unrounded and at each of `ROUNDED_TO`; its training's seconds; its parameters."""

    bpb: tuple[float, ...]
    seconds: float
    parameters: int


class Bench:
    """The tokens to train on and those to score."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = ShardFolder.open(options.data)
        self.vocab_size, self.boundary = folder.tokenizer.vocab_size, folder.tokenizer.boundary_id
        self.shards = [read_shard(path) for path in folder.train_files]
        ids, self.size = [np.array([self.boundary])], 0
        for document in read_documents([options.text]):
            if self.size + len(document) > options.bytes and self.size:
                break
            ids += [folder.tokenizer.encode(document), np.array([self.boundary])]
            self.size += len(document)
        self.held_out = np.concatenate(ids).astype(np.int64)
        self.steps = options.steps

    def run(self, recipe: Recipe) -> Result:
        """Train one variant and score it."""
        budget = dataclasses.replace(recipe.budget, train_seconds=float(self.steps))
        settings = dataclasses.replace(recipe.train, order="shuffled", warmup_steps=0, checkpoint_seconds=1e18)
        recipe = dataclasses.replace(recipe, budget=budget, train=settings)
        windows = TrainingWindows(self.shards, recipe.train.sequence, recipe.seed)
        counter = itertools.count()
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run, clock = RunFolder.create(Path(folder) / "run"), Clock(lambda: float(next(counter)))
            weights = train(recipe, windows, self.vocab_size, run, clock, SilentDisplay(), boundary_id=self.boundary)
        seconds = time.perf_counter() - begin
        forms = [weights, *(rounded(recipe, weights, bits) for bits in ROUNDED_TO)]
        bpb = tuple(self.score(recipe, form) for form in forms)
        return Result(bpb, seconds, parameter_count(recipe.model, self.vocab_size))

    def score(self, recipe: Recipe, weights: Weights) -> float:
        """Bits per byte of the held-out text, in windows that start afresh."""
        model = GPT(recipe.model, self.vocab_size, None, self.boundary)
        model.load_exported(weights)
        model.eval()
        window, nats = recipe.train.sequence, 0.0
        whole = (len(self.held_out) - 1) // window * window
        inputs, targets = (torch.from_numpy(self.held_out[shift : shift + whole]).view(-1, window) for shift in (0, 1))
        with torch.inference_mode():
            for some in range(0, len(inputs), WINDOWS_AT_ONCE):
                part = slice(some, some + WINDOWS_AT_ONCE)
                nats += float(model.loss(inputs[part], targets[part])) * inputs[part].numel()
            if whole + 1 < len(self.held_out):
                rest = torch.from_numpy(self.held_out[whole:])[None]
                nats += float(model.loss(rest[:, :-1], rest[:, 1:])) * (rest.numel() - 1)
        return nats / math.log(2) / self.size


def rounded(recipe: Recipe, weights: Weights, bits: int) -> Weights:
    """The blocks' matrices as integers of `bits` times the best step of each row; all else as it is."""
    largest = 2 ** (bits - 1) - 1
    changed = dict(weights)
    for name in rounded_names(weights, recipe.squeeze):
        steps = clip_search(weights[name], largest).astype(np.float32)[:, None]
        divisor = np.where(steps > 0, steps, 1)
        changed[name] = np.clip(np.rint(weights[name] / divisor), -largest, largest) * steps
    return changed


def changed(recipe: Recipe, settings: dict[str, object]) -> Recipe:
    """The recipe with all `section.field` settings, a section at a time."""
    sections: dict[str, dict[str, object]] = {}
    for path, value in settings.items():
        section, name = path.split(".")
        sections.setdefault(section, {})[name] = value
    replaced = {name: dataclasses.replace(getattr(recipe, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(recipe, **replaced)


def row(name: str, results: list[Result], base: list[Result]) -> str:
    """One line of the table: differences from the base, seed by seed."""
    cells = []
    for form in range(1 + len(ROUNDED_TO)):
        found = sample_of([one.bpb[form] - other.bpb[form] for one, other in zip(results, base, strict=True)])
        error = "" if found.error is None else f" ± {found.error:.4f}"
        cells.append(f"{found.mean:+.4f}{error}")
    slower = sum(r.seconds for r in results) / sum(r.seconds for r in base)
    return f"| {name} | {results[0].parameters:,} | {' | '.join(cells)} | {slower:.2f} |"


def main() -> int:
    """Train all variants and print the table, a line as soon as its runs are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, metavar="TEXT", help="held-out text")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared shards to train on")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names hold one of these words")
    parser.add_argument("--bytes", type=int, default=400_000, help="of the text that is scored (default 400000)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench, base = Bench(options), get_recipe(BASE)
    seeds = range(options.seeds)
    print(f"{BASE}, {options.steps} steps of {base.train.batch_tokens:,} tokens, {options.seeds} seeds; ", end="")
    print(f"{bench.size:,} bytes of {options.text.name}; differences in bits per byte, lower is better\n", flush=True)
    plain = [bench.run(dataclasses.replace(base, seed=base.seed + seed)) for seed in seeds]
    print(f"| part | parameters | unrounded | {' | '.join(f'{bits} bits' for bits in ROUNDED_TO)} | time |")
    print(f"|---|---|---|{'---|' * len(ROUNDED_TO)}---|")
    means = [sample_of([result.bpb[form] for result in plain]).mean for form in range(1 + len(ROUNDED_TO))]
    cells = " | ".join(f"{mean:.4f}" for mean in means)
    print(f"| nothing | {plain[0].parameters:,} | {cells} | 1.00 |", flush=True)
    for name, settings in PARTS:
        if options.only and not any(word in name for word in options.only):
            continue
        recipe = changed(base, settings)
        results = [bench.run(dataclasses.replace(recipe, seed=base.seed + seed)) for seed in seeds]
        print(row(name, results, plain), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
