"""What each way to squeeze costs and spoils, on the trained weights of one run.

    python bench/squeeze_schemes.py RUN [--text TEXT... --bytes N] [--coarseness 1.5,2,3] [--json]

RUN is a folder that `paramgolf train` has finished; its averaged weights are squeezed by

    percentile-floor   the published quantiser of #549, whose steps never fall below 1/q, in xz and in our coder
    percentile         the same without the floor
    search             ours: the best clip of each row, then all steps larger by one factor where the line says so

all with the recipe's bits of matrices and tables and float16 for what is small. Bytes are those of the weights alone,
without code, tokenizer and container; "like" lines are ours with steps so large that the bytes are just those of the
line they name. Relative error is the root of the squared error of all weights over that of their squares. With --text,
each is scored on the first whole documents of at most N bytes, nothing adapting, audited; the first line is the model
before squeezing. Seconds are those to find steps, quantise and encode once (for "like" lines: the whole fit).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.packer import Packer
from paramgolf.artifact.weights_file import as_float32, write_weights
from paramgolf.cli.life import ARTIFACT, averaged_weights
from paramgolf.errors import BudgetError, ParamgolfError
from paramgolf.recipe import Recipe
from paramgolf.run_folder import RunFolder
from paramgolf.squeeze.fit import Setting, fit_to_budget
from paramgolf.squeeze.published import PRESETS, published_file
from paramgolf.text.documents import read_documents
from paramgolf.text.text import HeldOutText

Float32 = np.ndarray
Tensors = Mapping[str, object]


@dataclass
class Line:
    """One row of the table; `weights` are what a reader would compute with."""

    scheme: str
    coder: str
    bytes: int
    seconds: float
    weights: Mapping[str, Float32]
    bpb: float | None = None


class Bench:
    """The trained weights of a run, and the lines that are made of them."""

    def __init__(self, run: Path) -> None:
        from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint

        folder = RunFolder.resume(run)
        self.recipe = Recipe.from_json(folder.read_text("recipe.json"))
        self.tokenizer = open_artifact(folder.path / ARTIFACT).tokenizer
        self.trained = averaged_weights(load_checkpoint(folder.path / CHECKPOINT)[0])
        self.parameters = sum(values.size for values in self.trained.values())
        self.norm = math.sqrt(sum(float(np.square(v, dtype=np.float64).sum()) for v in self.trained.values()))

    def packer(self, clip: str) -> Packer:
        """Quantises with one way to find steps; what does not depend on the coarseness is kept."""
        squeeze = dataclasses.replace(self.recipe.squeeze, clip=clip, small_bits=16)
        return Packer(dataclasses.replace(self.recipe, squeeze=squeeze), self.tokenizer, self.trained, ())

    def published(self, clip: str) -> list[Line]:
        """A published quantiser in the published container and in ours."""
        begin = time.perf_counter()
        tensors = self.packer(clip).tensors(Setting(0))
        quantised = time.perf_counter() - begin
        weights = {name: as_float32(tensor) for name, tensor in tensors.items()}
        lines = []
        packings = {
            name: lambda preset=preset: len(published_file(tensors, preset)) for name, preset in PRESETS.items()
        }
        for coder, pack in {**packings, "ours": lambda: len(write_weights(tensors).data)}.items():
            begin = time.perf_counter()
            size = pack()
            lines.append(Line(clip, coder, size, quantised + time.perf_counter() - begin, weights))
        return lines

    def ours(self, coarseness: float) -> Line:
        """The search for clips, with all steps times `coarseness`."""
        begin = time.perf_counter()
        setting, packer = Setting(0, coarseness), self.packer("search")
        size = len(packer.weights_file(setting).data)
        seconds = time.perf_counter() - begin
        return Line(_name(setting), "ours", size, seconds, packer.artifact(setting).weights)

    def like(self, line: Line) -> Line | None:
        """The search for clips, fitted to another line's bytes; None where nothing fits."""
        begin = time.perf_counter()
        packer = self.packer("search")
        squeeze = self.recipe.squeeze
        try:
            setting = fit_to_budget(
                lambda setting: len(packer.weights_file(setting).data),
                line.bytes,
                documents=(),
                bits=max(squeeze.matrix_bits, squeeze.embedding_bits),
            )
        except BudgetError:
            return None
        size = len(packer.weights_file(setting).data)
        seconds = time.perf_counter() - begin
        name = f"{_name(setting)}, like {line.scheme} in {line.coder}"
        return Line(name, "ours", size, seconds, packer.artifact(setting).weights)

    def error(self, line: Line) -> float:
        """Root of the squared error of all weights over that of their squares."""
        squared = sum(float(np.square(line.weights[n].astype(np.float64) - v).sum()) for n, v in self.trained.items())
        return math.sqrt(squared) / self.norm

    def score(self, line: Line, text: HeldOutText, limit: int) -> float:
        """Bits per byte with the line's weights, nothing adapting; stops where the audit fails."""
        from paramgolf.predict.score_text import score_text

        found = score_text(
            Artifact(self.recipe, self.tokenizer, line.weights), text, "none", limit=limit, audit_positions=2
        )
        if not found.audit.passed():
            raise SystemExit(f"the audit of {line.scheme} failed")
        return found.bpb


def measure(bench: Bench, coarseness: list[float], say: Callable[[str], None]) -> list[Line]:
    """All lines, the trained weights first."""
    lines = [Line("trained", "float32", 4 * bench.parameters, 0.0, bench.trained)]
    for clip in ("percentile-floor", "percentile"):
        say(clip)
        lines += bench.published(clip)
    published = {(line.scheme, line.coder): line for line in lines}
    for factor in (1.0, *coarseness):
        say(f"search, steps times {factor:g}")
        lines.append(bench.ours(factor))
    for clip, coder in (("percentile-floor", "xz 6"), ("percentile", "xz 6")):
        say(f"search fitted to {clip} in {coder}")
        fitted = bench.like(published[clip, coder])
        lines += [fitted] if fitted else []
    return lines


def _name(setting: Setting) -> str:
    fewer = f", {setting.fewer_bits} bits fewer" if setting.fewer_bits else ""
    return f"search, steps x {setting.coarseness:.3g}{fewer}"


def show(bench: Bench, lines: list[Line]) -> None:
    """The table."""
    width = max(len(line.scheme) for line in lines) + 2
    print(f"{'scheme':<{width}}{'coder':<9}{'bytes':>12}{'bits/weight':>13}{'rel. error':>12}{'seconds':>9}{'bpb':>9}")
    for line in lines:
        bits = 8 * line.bytes / bench.parameters
        bpb = f"{line.bpb:>9.4f}" if line.bpb is not None else f"{'':>9}"
        print(
            f"{line.scheme:<{width}}{line.coder:<9}{line.bytes:>12,}{bits:>13.3f}{bench.error(line):>12.4%}"
            f"{line.seconds:>9.2f}{bpb}"
        )


def main() -> int:
    """Measure, print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--text", type=Path, nargs="+", help="held-out text to score each on")
    parser.add_argument("--bytes", type=int, default=200_000, help="of the text (default 200000)")
    parser.add_argument("--coarseness", default="1.25,1.5,2,3", help="factors on our steps, between commas")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    options = parser.parse_args()
    try:
        bench = Bench(options.run)
        text = HeldOutText(options.text[0].name, read_documents(options.text)) if options.text else None
        lines = measure(bench, [float(word) for word in options.coarseness.split(",") if word], _say)
        scored: dict[int, float] = {}  # by the weights: one quantiser's are the same in every coder
        for line in lines if text else []:
            if id(line.weights) not in scored:
                _say(f"scoring {line.scheme}")
                scored[id(line.weights)] = bench.score(line, text, options.bytes)
            line.bpb = scored[id(line.weights)]
    except (ParamgolfError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(record(bench, lines, options)))
    else:
        print(f"{options.run}: {bench.recipe.name}, {bench.parameters:,} weights")
        show(bench, lines)
    return 0


def record(bench: Bench, lines: list[Line], options: argparse.Namespace) -> dict[str, object]:
    """What --json prints."""
    return {
        "run": str(options.run),
        "recipe": bench.recipe.name,
        "parameters": bench.parameters,
        "text": [str(path) for path in options.text] if options.text else None,
        "text_bytes": options.bytes if options.text else None,
        "lines": [
            {
                "scheme": line.scheme,
                "coder": line.coder,
                "bytes": line.bytes,
                "bits_per_weight": 8 * line.bytes / bench.parameters,
                "relative_error": bench.error(line),
                "seconds": line.seconds,
                "bpb": line.bpb,
            }
            for line in lines
        ],
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
