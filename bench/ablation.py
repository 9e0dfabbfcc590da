"""What each part of #2140's training is worth: `pr2140_tiny` with one part switched off at a time.

    python bench/ablation.py --data DIR TEXT --steps 600 [--only PART...] [--bytes N] [--threads 1] [--plain-data DIR]

DIR is a folder that `paramgolf data prepare --caseops` wrote, TEXT held-out text that is not in it; `--plain-data` is
one of the same documents without CaseOps, for the line that leaves it off. Every variant trains for the same number of
steps of the same tokens: the clock counts steps, so the load of the machine does not matter, and a part that makes
steps slower does not pay for it (the last column says how much slower). The averaged, unrounded weights are scored with
windows and stride of the recipe. The difference from the whole system is paired over documents: mean weighted by bytes,
its standard error, and the p of random flips. One seed: the noise between seeds comes on top (some 0.005 at this size).

Expectation: U-Net skips, residual mixes, partial rotary and the loops gain; caps, gates and the smear are within noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch

from paramgolf.artifact.artifact import Artifact
from paramgolf.clock import Clock
from paramgolf.model.arithmetic import parameter_count
from paramgolf.predict.score import Score
from paramgolf.predict.score_text import score_text
from paramgolf.recipe import Recipe
from paramgolf.recipes import get_recipe
from paramgolf.referee.paired import paired_scores
from paramgolf.run_folder import RunFolder
from paramgolf.text.documents import read_documents
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.shards import read_shard
from paramgolf.text.stream import StreamWindows
from paramgolf.text.text import HeldOutText
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.loop import train
from paramgolf.train.progress import SilentDisplay
from training_parts import changed

BASE = "pr2140_tiny"
NO_CASEOPS = "CaseOps"
PARTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("loops", {"model.looped_layers": ()}),
    ("loops from the start", {"train.loop_from": 0.0}),
    ("parallel lanes", {"model.parallel_layers": 0}),
    ("U-Net skips", {"model.unet": False, "model.skip_gates": False}),
    ("gates of the skips", {"model.skip_gates": False}),
    ("sparse gates of heads", {"model.sparse_gates": False}),
    ("gated smear", {"model.smear": "none"}),
    ("XSA", {"model.xsa_layers": ()}),
    ("query gain 5.25 (1.5)", {"model.query_gain": 1.5}),
    ("partial rotary (all channels)", {"model.rope_channels": 0}),
    ("slope 0.3 (0.5)", {"model.mlp_slope": 0.5}),
    ("learnt caps", {"model.asymmetric_softcap": False}),
    ("residual mixes", {"model.residual_mix": False}),
    ("depth scale", {"model.depth_scale": False}),
    # Rows of a stream are cut into eight spans, which a batch of four sequences has not.
    (
        "packed documents (shuffled rows)",
        {"train.packed": False, "train.contexts": (), "train.contexts_until": (), "train.order": "shuffled"},
    ),
    ("context growth", {"train.contexts": (), "train.contexts_until": ()}),
    ("Polar-Express (quintic)", {"optim.newton_schulz": "quintic"}),
    ("rows of length one", {"optim.muon_row_norm": False}),
    ("least rate 0.1 (0)", {"optim.least_lr": 0.0}),
    (NO_CASEOPS, {"tokenizer.kind": "sentencepiece"}),
)


class Bench:
    """The shards to train on, with their tokenizer, and the text to score."""

    def __init__(self, data: Path, text: HeldOutText, options: argparse.Namespace) -> None:
        folder = ShardFolder.open(data)
        self.tokenizer = folder.tokenizer
        self.shards = [read_shard(path) for path in folder.train_files]
        self.text, self.bytes, self.steps = text, options.bytes, options.steps

    def run(self, recipe: Recipe) -> tuple[Score, float]:
        """Train one variant and score it; the score and the seconds of training."""
        budget = dataclasses.replace(recipe.budget, train_seconds=float(self.steps))
        settings = dataclasses.replace(recipe.train, warmup_steps=0, checkpoint_seconds=1e18)
        recipe = dataclasses.replace(recipe, budget=budget, train=settings)
        shuffled, sequence = recipe.train.order == "shuffled", recipe.train.sequence
        windows = (
            TrainingWindows(self.shards, sequence, recipe.seed) if shuffled else StreamWindows(self.shards, sequence)
        )
        counter = itertools.count()
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run, clock = RunFolder.create(Path(folder) / "run"), Clock(lambda: float(next(counter)))
            size, boundary = self.tokenizer.vocab_size, self.tokenizer.boundary_id
            weights = train(recipe, windows, size, run, clock, SilentDisplay(), boundary_id=boundary)
        seconds = time.perf_counter() - begin
        artifact = Artifact(recipe, self.tokenizer, weights)
        found = score_text(artifact, self.text, "none", limit=self.bytes, audit_positions=8)
        if not found.audit.passed():
            raise SystemExit(f"the audit of {recipe.name} failed")
        return found, seconds


def row(name: str, recipe: Recipe, vocab_size: int, one: tuple[Score, float], base: tuple[Score, float]) -> str:
    """One line of the table: what leaving the part off costs."""
    pair = paired_scores([one[0]], [base[0]])
    test = f"± {pair.standard_error:.4f} | better on {pair.better} of {pair.documents} | {pair.p:.2g}"
    parameters = f"{parameter_count(recipe.model, vocab_size):,}"
    return f"| {name} | {parameters} | {one[0].bpb:.4f} | {pair.difference:+.4f} {test} | {one[1] / base[1]:.2f} |"


def main() -> int:
    """Train all variants and print the table, a line as soon as its run is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, metavar="TEXT", help="held-out text")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="shards with CaseOps to train on")
    parser.add_argument("--plain-data", type=Path, metavar="DIR", help="the same documents without CaseOps")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names hold one of these words")
    parser.add_argument("--bytes", type=int, default=140_000, help="of the text that is scored (default 140000)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = HeldOutText(options.text.name, read_documents([options.text]))
    bench, base = Bench(options.data, text, options), get_recipe(BASE)
    whole = bench.run(base)
    print(f"{BASE}, {options.steps} steps of {base.train.batch_tokens:,} tokens; ", end="")
    print(
        f"{whole[0].bytes:,} bytes of {whole[0].text_name}, {whole[1]:.0f} s of training, bits per byte\n", flush=True
    )
    print("| left off | parameters | bits per byte | change | documents | p | time |\n|---|---|---|---|---|---|---|")
    size = bench.tokenizer.vocab_size
    print(f"| nothing | {parameter_count(base.model, size):,} | {whole[0].bpb:.4f} | | | | 1.00 |", flush=True)
    for name, settings in PARTS:
        if options.only and not any(word in name for word in options.only):
            continue
        if name == NO_CASEOPS and options.plain_data is None:
            print(f"| {name} | not run: --plain-data names no folder | | | | | |", flush=True)
            continue
        where = Bench(options.plain_data, text, options) if name == NO_CASEOPS else bench
        recipe = changed(base, settings)
        print(row(name, recipe, where.tokenizer.vocab_size, where.run(recipe), whole), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
