"""What each part of #2140's squeeze saves: bytes of every coder, and bits per byte lost at equal bytes.

    python bench/squeeze_2140.py RUN TEXT [--bytes N] [--shares 1,0.75,0.55] [--data DIR] [--sequences 64] [--no-coders]
                                 [--json]

RUN is a folder that `paramgolf train` has finished. Its averaged weights are stored by

    nearest, search      to nearest, each row's best clip; nearest, sigma: published clips (spec pr2140.md 4.2)
    GPTQ, sigma          the same clips, matrices and head rounded by GPTQ
    published            with a wide group and three low-rank corrections (4.3, 4.4)
    + inputs             plain GPTQ, the steps of all tensors allocated by the second moments of their inputs alone
    + sensitivities      and by those of the gradients at their outputs, rows shaped
    all                  allocated, with the wide group and the corrections

each with steps such that `weights.bin` takes --shares of the bytes of "GPTQ, sigma" at the published steps, to within
0.2 %. Lost is against the float32 weights, on the first whole documents of TEXT (at most N bytes), nothing adapting,
audited. The first table packs one set of integers by each coder (bench/weight_coders.py); --no-coders leaves it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptq_table import NO_LIMIT, Bench, open_bench
from paramgolf.artifact.weights_file import as_float32, write_weights
from paramgolf.cli.calibrate import calibrate
from paramgolf.cli.life import data_of_folder
from paramgolf.clock import Clock
from paramgolf.errors import ParamgolfError
from paramgolf.ranks import Ranks, pick_device
from paramgolf.squeeze.allocation import COARSEST, FINEST, Allocation, allocate
from paramgolf.squeeze.correction import Corrections, correct
from paramgolf.squeeze.gptq import Factor, factorise
from paramgolf.squeeze.gptq_steps import WIDEST, gptq_at, gptq_at_steps, nearest_at_steps
from paramgolf.squeeze.landing import Range, land
from paramgolf.squeeze.matrices import rounded_names, visits_of
from paramgolf.squeeze.quantize import find_steps, quantize_at, to_raw
from paramgolf.squeeze.quantized import Quantized
from paramgolf.squeeze.schemes import assign_schemes, default_schemes
from paramgolf.squeeze.sensitivity import Sensitivity, rounding_power
from paramgolf.squeeze.wide_groups import Groups, choose_groups, group_scores, input_rms
from paramgolf.text.shard_folder import ShardFolder
from paramgolf.text.windows import TrainingWindows
from weight_coders import coder_table

Tensors = Mapping[str, object]
CLOSE = 0.002  # of the bytes asked for


@dataclass
class Line:
    """One row of the second table."""

    way: str
    bytes: int
    coarseness: float
    bpb: float
    seconds: float


class Ways:
    """The trained weights with what calibration says of them, and each way to round them at a coarseness."""

    def __init__(self, bench: Bench, hessians: Mapping[str, np.ndarray], found: Mapping[str, Sensitivity]) -> None:
        self.weights, recipe = bench.weights, bench.squeezed(clip="sigma", quantiser="gptq")
        self.search = assign_schemes(self.weights, default_schemes(bench.squeezed().squeeze))
        self.sigma = assign_schemes(self.weights, default_schemes(recipe.squeeze))
        self.integers = [name for name, scheme in self.sigma.items() if not scheme.raw()]
        self.factors: dict[str, Factor] = {}
        for name in rounded_names(self.weights, recipe.squeeze):
            factor = factorise(hessians[name], recipe.squeeze.damping)
            if factor is not None:
                self.factors[name] = factor
        self.steps = {name: find_steps(self.weights[name], self.sigma[name]) for name in self.integers}
        self.searched = {name: find_steps(self.weights[name], self.search[name]) for name in self.integers}
        self.groups = self._groups(bench, hessians)
        sequence = recipe.train.sequence
        self.by_inputs = self._allocate({name: self._input_power(name) for name in self.integers})
        power = {name: found[name].power(self.factors.get(name), sequence) for name in self.integers}
        self.by_both = self._allocate(power)

    def ways(self) -> dict[str, tuple[Callable[[float], Tensors], Callable[[float], float]]]:
        """By name: tensors at a coarseness, and the bytes that it is expected to take."""
        plain, both = self.by_inputs.predicted_bytes, self.by_both.predicted_bytes
        return {
            "nearest, search": (lambda c: self._nearest(self.searched, self.search, c), plain),
            "nearest, sigma": (lambda c: self._nearest(self.steps, self.sigma, c), plain),
            "GPTQ, sigma": (lambda c: self._gptq(c, None), plain),
            "published": (lambda c: self._gptq(c, None, corrected=3, wide=True), plain),
            "+ inputs": (lambda c: self._gptq(c, self.by_inputs), plain),
            "+ sensitivities": (lambda c: self._gptq(c, self.by_both), both),
            "all": (lambda c: self._gptq(c, self.by_both, corrected=3, wide=True), both),
        }

    def _nearest(self, steps: Mapping[str, np.ndarray], schemes: Mapping[str, object], coarseness: float) -> Tensors:
        found = {}
        for name, scheme in schemes.items():
            coarser = dataclasses.replace(scheme, coarseness=coarseness)
            weight = self.weights[name]
            found[name] = to_raw(weight, 16) if scheme.raw() else quantize_at(weight, steps[name], coarser)
        return found

    def _gptq(
        self, coarseness: float, allocation: Allocation | None, corrected: int = 0, wide: bool = False
    ) -> Tensors:
        steps = self.steps if allocation is None else allocation.steps(coarseness)
        times = coarseness if allocation is None else None
        tensors: dict[str, object] = {
            name: self._round(name, steps[name], times, wide) if name in steps else to_raw(weight, 16)
            for name, weight in self.weights.items()
        }
        integers = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Quantized)}
        return tensors | correct(self.weights, integers, Corrections(corrected, 4)) if corrected else tensors

    def _round(self, name: str, steps_R: np.ndarray, times: float | None, wide: bool) -> Quantized:
        """As `Packer` rounds: with the published steps `times` a factor, or with allocated ones, if that is None."""
        weight, factor, groups = self.weights[name], self.factors.get(name), self.groups.get(name) if wide else None
        if times is None:
            if factor is None:
                return nearest_at_steps(weight, steps_R)
            return gptq_at_steps(weight, steps_R, factor, self.sigma[name], groups)
        scheme = dataclasses.replace(self.sigma[name], coarseness=times)
        if factor is None:
            return quantize_at(weight, steps_R, scheme)
        return gptq_at(weight, steps_R, factor, scheme, groups)

    def _allocate(self, powers: Mapping[str, object]) -> Allocation:
        return allocate(self.weights, self.steps, powers, dict.fromkeys(self.integers, (1 << (WIDEST - 1)) - 1))

    def _input_power(self, name: str) -> float:
        """Of inputs alone; a table that is only looked up is taken to be as sensitive as the head."""
        return rounding_power(self.factors.get(name) or self.factors["embedding.weight"])

    def _groups(self, bench: Bench, hessians: Mapping[str, np.ndarray]) -> dict[str, Groups]:
        visits = visits_of(self.factors, bench.recipe.model)
        rms = {name: input_rms(hessians[name], visits[name]) for name in self.factors}
        size = min(64, bench.recipe.model.width // 4)
        return choose_groups({n: group_scores(self.weights[n], rms[n], size) for n in self.factors}, 1, size)


def lines(bench: Bench, ways: Ways, shares: list[float]) -> Iterator[Line]:
    """The float weights, then every way at every share of the published bytes."""
    yield Line("float32", 4 * sum(w.size for w in bench.weights.values()), 1.0, bench.bpb(bench.weights), 0.0)
    made = ways.ways()
    published = len(write_weights(made["GPTQ, sigma"][0](1.0)).data)
    for share in shares:
        budget = int(share * published)
        for name, (tensors, predicted) in made.items():
            begin = time.perf_counter()
            size = _sizes(tensors)
            coarseness = land(size, budget, int(CLOSE * budget), Range(predicted, FINEST, COARSEST))
            if coarseness is None:
                continue
            seconds = time.perf_counter() - begin
            weights = {n: as_float32(tensor) for n, tensor in tensors(coarseness).items()}
            yield Line(name, size(coarseness), coarseness, bench.bpb(weights), seconds)


def _sizes(tensors: Callable[[float], Tensors]) -> Callable[[float], int]:
    known: dict[float, int] = {}

    def size(coarseness: float) -> int:
        if coarseness not in known:
            known[coarseness] = len(write_weights(tensors(coarseness)).data)
        return known[coarseness]

    return size


def calibrated(bench: Bench, data: Path, sequences: int) -> tuple[dict[str, np.ndarray], dict[str, Sensitivity]]:
    """Second moments of inputs and sensitivities, both from training windows."""
    from paramgolf.train.calibration import calibration_model
    from paramgolf.train.output_gradients import collect_sensitivities

    tokenizer = bench.artifact.tokenizer
    shards = data_of_folder(ShardFolder.open(data, tokenizer), data)
    recipe = bench.squeezed(
        clip="sigma", quantiser="gptq", calibration_sequences=sequences, calibration_seconds=NO_LIMIT
    )
    ranks = Ranks(device=pick_device(0))
    hessians = calibrate(recipe, tokenizer, bench.weights, shards, Clock(), ranks)
    model = calibration_model(recipe, tokenizer.vocab_size, bench.weights, tokenizer.boundary_id, ranks.device)
    schemes = assign_schemes(bench.weights, default_schemes(recipe.squeeze))
    names = [name for name, scheme in schemes.items() if not scheme.raw()]
    windows = TrainingWindows(shards.shards, recipe.train.sequence, recipe.seed)
    begin = time.perf_counter()
    apart = tokenizer.boundary_id if recipe.train.packed else None
    found = collect_sensitivities(model, names, windows, sequences, recipe.seed, ranks, apart)
    _say(f"calibrated in {hessians.record['seconds']:.1f} s, sensitivities in {time.perf_counter() - begin:.1f} s")
    return dict(hessians.hessians), found


def table(found: list[Line]) -> str:
    """Markdown; the last column is the loss over that of the best rounding to nearest in as many bytes."""
    whole = found[0].bpb
    rows = ["| way | bytes | steps × | bpb | lost | of nearest's | packings, s |", "|---|---|---|---|---|---|---|"]
    nearest = math.nan
    for before, line in zip([found[0], *found], found):
        lost = line.bpb - whole
        if line.way.startswith("nearest"):
            nearest = min(lost, nearest) if before.way.startswith("nearest") else lost
        share = "" if line.way == "float32" else f"{lost / nearest:.2f}"
        cells = [line.way, f"{line.bytes:,}", f"{line.coarseness:.3f}", f"{line.bpb:.4f}", f"{lost:+.4f}", share]
        rows.append(f"| {' | '.join(cells)} | {line.seconds:.1f} |")
    return "\n".join(rows)


def main() -> int:
    """Measure and print both tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("--bytes", type=int, default=200_000, help="of the text (default 200000)")
    parser.add_argument("--data", type=Path, help="training shards (default: those of env.json)")
    parser.add_argument("--sequences", type=int, default=64, help="training windows to calibrate on (default 64)")
    parser.add_argument("--shares", default="1,0.75,0.55", help="of the published bytes, between commas")
    parser.add_argument("--no-coders", action="store_true", help="leave out the first table, of coders")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the tables")
    options = parser.parse_args()
    try:
        bench, folder = open_bench(options.run, options.text, options.bytes, None)
        data = options.data or Path(str(dict(folder.read_json("env.json"))["data"]))
        ways = Ways(bench, *calibrated(bench, data, options.sequences))
        integers = [t for t in ways.ways()["GPTQ, sigma"][0](1.0).values() if isinstance(t, Quantized)]
        coders = None if options.no_coders else coder_table(integers)
        if coders:
            _say(coders.text())
        found = []
        for line in lines(bench, ways, [float(word) for word in options.shares.split(",")]):
            found.append(line)
            _say(f"{line.way}: {line.bytes:,} bytes, {line.bpb:.4f} bits per byte")
    except (ParamgolfError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        record = {"coders": coders.record() if coders else None, "lines": [dataclasses.asdict(line) for line in found]}
        print(json.dumps(record))
    else:
        above = f"{coders.text()}\n\n" if coders else ""
        print(f"{above}{bench.recipe.name}, first {options.bytes:,} bytes of TEXT\n\n{table(found)}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
