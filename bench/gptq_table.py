"""What GPTQ saves: bits per byte lost against the trained weights for every byte count, beside plain rounding.

    python bench/gptq_table.py RUN TEXT [--bytes N] [--data DIR] [--coarseness 1,1.5,2,3] [--plot FILE] [--json]

RUN is a folder that `paramgolf train` has finished. The same averaged weights are stored as

    rounding      to nearest, with the clip search, the published percentiles, and those with the published floor
    GPTQ train    calibrated on training windows (--data, default: where the run's env.json says), with all three clips,
                  and with the columns in their natural order
    GPTQ own      calibrated on text that the model generates (--own N sequences of it; 0 leaves it out)

each with all steps times every factor of --coarseness, the recipe's bits (or --matrix-bits), and our coder. Bytes are
those of the weights alone; the tables' steps grow too, but GPTQ rounds the matrices alone. Each line is scored on the
first whole documents of TEXT (at most N bytes), nothing adapting, audited. The table is Markdown; --plot writes bits
per byte lost over bytes, as the ending of FILE says (.svg, .png).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.packer import Packer
from paramgolf.cli.calibrate import Calibrated, calibrate
from paramgolf.cli.life import ARTIFACT, averaged_weights, data_of_folder
from paramgolf.clock import Clock
from paramgolf.errors import ParamgolfError
from paramgolf.predict.score_text import score_text
from paramgolf.ranks import Ranks, pick_device
from paramgolf.recipe import Recipe, SqueezeRecipe
from paramgolf.run_folder import RunFolder
from paramgolf.squeeze.fit import Setting
from paramgolf.text.documents import read_documents
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.text import HeldOutText

CLIPS = ("search", "percentile", "percentile-floor")
NO_LIMIT = 1e6  # seconds; the bench is no training run


@dataclass
class Line:
    """One row of the table; `seconds` are those to find the steps and to round, 0 where they were found already."""

    name: str
    coarseness: float
    bytes: int
    bpb: float
    seconds: float = 0.0
    floored: float | None = None


@dataclass(frozen=True)
class Bench:
    """The trained weights of a run, and the text that everything is scored on."""

    recipe: Recipe
    artifact: Artifact
    weights: Mapping[str, np.ndarray]
    text: HeldOutText
    limit: int

    def squeezed(self, **changes: object) -> Recipe:
        """The recipe with other settings of the squeeze, small tensors in float16 everywhere."""
        squeeze = dataclasses.replace(SqueezeRecipe(), matrix_bits=self.recipe.squeeze.matrix_bits)
        squeeze = dataclasses.replace(squeeze, embedding_bits=self.recipe.squeeze.embedding_bits, small_bits=16)
        return dataclasses.replace(self.recipe, squeeze=dataclasses.replace(squeeze, **changes))

    def bpb(self, weights: Mapping[str, np.ndarray]) -> float:
        """Bits per byte with these weights, nothing adapting; stops where the audit fails."""
        artifact = dataclasses.replace(self.artifact, weights=weights)
        found = score_text(artifact, self.text, "none", limit=self.limit, audit_positions=2)
        if not found.audit.passed():
            raise SystemExit("the audit failed")
        return found.bpb


def lines(bench: Bench, factors: list[float], calibrated: Mapping[str, Calibrated]) -> Iterator[Line]:
    """The trained weights, then every quantiser at every factor."""
    yield Line("float32", 1.0, 4 * sum(w.size for w in bench.weights.values()), bench.bpb(bench.weights))
    methods = [(f"rounding, {clip}", bench.squeezed(clip=clip), None) for clip in CLIPS]
    for source, found in calibrated.items():
        for clip in CLIPS if source == "train" else CLIPS[:1]:
            recipe = bench.squeezed(quantiser="gptq", clip=clip)
            methods.append((f"GPTQ {source}, {clip}", recipe, found.hessians))
        if source == "train":
            natural = bench.squeezed(quantiser="gptq", column_order="natural")
            methods.append((f"GPTQ {source}, search, natural order", natural, found.hessians))
    for name, recipe, hessians in methods:
        packer = Packer(recipe, bench.artifact.tokenizer, bench.weights, (), hessians)
        for factor in factors:
            begin, setting = time.perf_counter(), Setting(0, factor)
            size = len(packer.weights_file(setting).data)
            seconds = time.perf_counter() - begin
            bpb = bench.bpb(packer.artifact(setting).weights)
            yield Line(name, factor, size, bpb, seconds, packer.floored_share(setting))


def calibrations(bench: Bench, data: Path, own: int, sequences: int) -> dict[str, Calibrated]:
    """Hessians from the training windows, and from `own` generated sequences."""
    shards = data_of_folder(ShardFolder.open(data, bench.artifact.tokenizer), data)
    found: dict[str, Calibrated] = {}
    for source, count in (("train", sequences), ("generated", own)):
        if count:
            recipe = bench.squeezed(
                quantiser="gptq", calibration=source, calibration_sequences=count, calibration_seconds=NO_LIMIT
            )
            tokenizer, ranks = bench.artifact.tokenizer, Ranks(device=pick_device(0))
            made = calibrate(recipe, tokenizer, bench.weights, shards, Clock(), ranks)
            found["train" if source == "train" else "own"] = made
            _say(f"{source}: {made.record['tokens']:,} tokens, {made.record['seconds']:.1f} s")
    return found


def table(found: list[Line]) -> str:
    """Markdown."""
    whole = found[0]
    rows = ["| quantiser | steps × | bytes | bpb | lost | lost per MB saved | rows on the floor | seconds |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for line in found:
        lost, saved = line.bpb - whole.bpb, (whole.bytes - line.bytes) / 1e6
        per = f"{lost / saved:.5f}" if saved else ""
        floored = "" if line.floored is None else f"{100 * line.floored:.0f} %"
        cells = [line.name, f"{line.coarseness:g}", f"{line.bytes:,}", f"{line.bpb:.4f}", f"{lost:+.4f}", per, floored]
        rows.append(f"| {' | '.join(cells)} | {line.seconds:.1f} |")
    return "\n".join(rows)


def plot(found: list[Line], path: Path, title: str) -> None:
    """Bits per byte lost over bytes, one curve a quantiser."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in dict.fromkeys(line.name for line in found[1:]):
        mine = sorted((line.bytes, line.bpb - found[0].bpb) for line in found if line.name == name)
        style = "o--" if name.startswith("rounding") else "o-"
        axes.plot([size / 1000 for size, _ in mine], [lost for _, lost in mine], style, label=name, markersize=4)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xlabel("kB of the weights")
    axes.set_ylabel("bits per byte lost against float32")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def open_bench(run: Path, text: Path, limit: int, matrix_bits: int | None) -> tuple[Bench, RunFolder]:
    """Read the run and the text."""
    from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

    folder = RunFolder.resume(run)
    artifact = open_artifact(folder.path / ARTIFACT)
    weights = averaged_weights(load_checkpoint(folder.path / CHECKPOINT)[0])
    held_out = HeldOutText(text.name, read_documents([text]))
    recipe = Recipe.from_json(folder.read_text("recipe.json"))
    if matrix_bits is not None:
        recipe = dataclasses.replace(recipe, squeeze=dataclasses.replace(recipe.squeeze, matrix_bits=matrix_bits))
    return Bench(recipe, artifact, weights, held_out, limit), folder


def main() -> int:
    """Measure, print the table (or one JSON object), draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("--bytes", type=int, default=200_000, help="of the text (default 200000)")
    parser.add_argument("--data", type=Path, help="training shards (default: those of env.json)")
    parser.add_argument("--sequences", type=int, default=64, help="training windows to calibrate on (default 64)")
    parser.add_argument("--own", type=int, default=0, help="generated sequences to calibrate on (default 0: none)")
    parser.add_argument("--coarseness", default="1,1.5,2,3,4", help="factors on the steps, between commas")
    parser.add_argument("--matrix-bits", type=int, help="of the matrices (default: the recipe's)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw bits per byte lost over bytes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    options = parser.parse_args()
    try:
        bench, folder = open_bench(options.run, options.text, options.bytes, options.matrix_bits)
        data = options.data or Path(str(dict(folder.read_json("env.json"))["data"]))
        calibrated = calibrations(bench, data, options.own, options.sequences)
        found = []
        for line in lines(bench, [float(word) for word in options.coarseness.split(",")], calibrated):
            found.append(line)
            _say(f"{line.name} × {line.coarseness:g}: {line.bytes:,} bytes, {line.bpb:.4f} bits per byte")
    except (ParamgolfError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    title = f"{bench.recipe.name}, {bench.recipe.squeeze.matrix_bits} bits, first {options.bytes:,} bytes of TEXT"
    if options.plot:
        plot(found, options.plot, title)
    if options.json:
        print(json.dumps({"title": title, "lines": [dataclasses.asdict(line) for line in found]}))
    else:
        print(f"{title}\n\n{table(found)}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
