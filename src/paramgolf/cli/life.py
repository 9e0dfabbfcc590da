"""The life of a run in steps that `train`, `pack` and `quickstart` share: describe, train, squeeze, pack, prove."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from paramgolf.errors import CheckFailed, RecipeError
from paramgolf.recipe import Recipe
from paramgolf.text.shard_documents import documents_of

if TYPE_CHECKING:
    from paramgolf.artifact.pack import PackReport
    from paramgolf.cli.calibrate import Calibrated
    from paramgolf.clock import Clock
    from paramgolf.ranks import Ranks
    from paramgolf.run_folder import RunFolder
    from paramgolf.text.shard_folder import ShardFolder
    from paramgolf.text.stream import StreamWindows
    from paramgolf.text.text import HeldOutText
    from paramgolf.text.tokenizer import Tokenizer
    from paramgolf.text.windows import TrainingWindows

ARTIFACT = "model.pyz"
Weights = Mapping[str, npt.NDArray[np.float32]]
PROOF_BYTES = 20_480
LARGEST_HASHED = (
    50_000_000  # tokens; beyond them documents are not hashed, and an overlap with held-out text would not show
)


@dataclass(frozen=True)
class TrainingData:
    """What training reads: `shards` of ids, their tokenizer, and what is known of the text they came from.

    `text` is what env.json says of it; `hashes` uint64 [D] of its documents, None if nobody computed them.
    """

    tokenizer: Tokenizer
    shards: Sequence[Any] = field(repr=False)
    text: dict[str, Any]
    source: str
    hashes: Any = field(default=None, repr=False)


def data_of_folder(folder: ShardFolder, source: Path) -> TrainingData:
    """Training data from a folder of shards."""
    from paramgolf.predict.score_text import document_hashes

    shards = folder.train_shards()
    record = folder.manifest.get("train", {})
    text = {
        "name": record.get("name", folder.path.name),
        "digest": record.get("text_digest", ""),
        "documents": record.get("documents"),
        "bytes": record.get("bytes"),
    }
    tokens = sum(len(shard) for shard in shards)
    hashes = None
    if tokens <= LARGEST_HASHED:
        documents = documents_of(shards, folder.tokenizer.boundary_id)
        hashes = document_hashes([folder.tokenizer.decode(document) for document in documents])
    return TrainingData(folder.tokenizer, shards, text, str(source.resolve()), hashes)


def require_tokenizer(recipe: Recipe, tokenizer: Tokenizer, source: str) -> None:
    """Refuse data of another tokenizer than the recipe's, with the flags that make them agree."""
    wanted, found = recipe.tokenizer, tokenizer
    # The byte tokenizer has one size, whatever the recipe says.
    if wanted.kind == found.kind and (found.kind == "bytes" or wanted.vocab_size == found.vocab_size):
        return
    raise RecipeError(
        f"recipe {recipe.name} wants tokenizer {wanted.kind} of {wanted.vocab_size} ids, {source} has {found.kind} of "
        f"{found.vocab_size};\nadd --tokenizer.kind {found.kind} --tokenizer.vocab_size {found.vocab_size}, or prepare "
        "the data with the recipe's"
    )


def require_matrices(recipe: Recipe) -> None:
    """Refuse to correct more tensors than the model has matrices: before the training, not after it."""
    from paramgolf.model.arithmetic import tensor_shapes

    asked, shapes = recipe.squeeze.corrected_tensors, tensor_shapes(recipe.model, recipe.tokenizer.vocab_size)
    matrices = sum(len(shape) == 2 for shape in shapes.values())
    if asked > matrices:
        raise RecipeError(f"squeeze.corrected_tensors={asked:,} is more than the {matrices} matrices of the model")


def write_recipe(run: RunFolder, recipe: Recipe) -> None:
    """recipe.json, byte for byte what the fingerprint is of."""
    run.write_text("recipe.json", recipe.to_json() + "\n")


def write_env(run: RunFolder, data: TrainingData, ranks: Ranks, commands: Sequence[str]) -> None:
    """env.json (machine, versions, what was trained on, the commands to do it again) and the documents' hashes."""
    from paramgolf.cli.environment import describe_installation, describe_machine, describe_torch
    from paramgolf.predict.score_file import write_hashes

    record = {
        **describe_installation(),
        **describe_machine(),
        **describe_torch(),
        "device": str(ranks.device),
        "ranks": ranks.world,
        "train_text": data.text,
        "tokenizer_digest": data.tokenizer.digest,
        "data": data.source,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commands": list(commands),
    }
    run.write_json("env.json", record)
    if data.hashes is not None:
        write_hashes(data.hashes, run)


def log(run: RunFolder, line: str) -> None:
    """One line on stderr and in the run's log.txt, with the time of day in the log."""
    print(line, file=sys.stderr, flush=True)
    run.log(line)


@contextlib.contextmanager
def discarded_if_nothing_is_saved(run: RunFolder, *, leads: bool = True) -> Iterator[None]:
    """If the body fails before a checkpoint exists, remove the new run: nothing is lost, and its name is free again.

    Of several ranks only the one that `leads` removes it.
    """
    try:
        yield
    except BaseException:
        # A pattern and not train.checkpoint's constant, whose import brings torch: seconds, for a misspelt path.
        if leads and not run.finished and not any(run.path.glob("checkpoint.*")):
            run.discard()
        raise


def train_new_run(recipe: Recipe, data: TrainingData, out: Path, ranks: Ranks, command: str, says: str) -> Path | None:
    """`train_and_pack` into a new folder `out`, which first gets its recipe, env.json and the line `says` in its log.

    `command` is how to do it again. Every rank calls it; nothing is left of a run that fails before it saves anything.
    """
    from paramgolf.run_folder import RunFolder

    # One rank makes the folder; the others wait until it is there.
    folder = RunFolder.create(out) if ranks.leads else RunFolder(out, finished=False)
    with discarded_if_nothing_is_saved(folder, leads=ranks.leads):
        if ranks.leads:
            write_recipe(folder, recipe)
            write_env(folder, data, ranks, [command])
            log(folder, says)
        ranks.agree(0.0)
        return train_and_pack(recipe, data, folder, ranks)


def train_and_pack(recipe: Recipe, data: TrainingData, run: RunFolder, ranks: Ranks) -> Path | None:
    """Train (or go on), calibrate, squeeze, pack, write the ledger, and give the run its final name, which is returned.

    Every rank calls it; all but the first return None after training. Raises `TrainingStopped` after a signal, with
    everything saved; whatever fails later leaves a run that `train --resume` packs without training again.
    """
    from paramgolf.cli.calibrate import calibrate, keep, kept_before_resume, training_part
    from paramgolf.clock import Clock

    clock = Clock(agree=ranks.agree)
    weights = train_weights(training_part(recipe), data, run, clock, ranks)
    calibrated = kept_before_resume(recipe, weights, run, clock) if ranks.leads else None
    if not ranks.agree(float(calibrated is not None)):
        calibrated = calibrate(recipe, data.tokenizer, weights, data, clock, ranks)
    if ranks.leads and calibrated is not None:
        # Kept before anything of packing can fail: --resume then neither calibrates again nor forgets the time it took.
        write_ledger(run, clock)
        keep(calibrated, weights, run)
    with clock.phase("squeeze and pack", on_clock=False):  # every rank: its reading of the clock is agreed upon
        if ranks.leads:
            pack_run(recipe, data.tokenizer, weights, primer_documents(recipe, data), run, calibrated)
    if not ranks.leads:
        return None
    write_ledger(run, clock)
    return run.finish()


def train_weights(recipe: Recipe, data: TrainingData, run: RunFolder, clock: Clock, ranks: Ranks) -> Weights:
    """Train with progress on stderr; the averaged weights."""
    from paramgolf.model.arithmetic import squeezed_bytes
    from paramgolf.train.data_digest import data_digest
    from paramgolf.train.loop import train
    from paramgolf.train.progress import open_display

    vocab_size, squeeze = data.tokenizer.vocab_size, recipe.squeeze
    windows = _windows(recipe, data.shards, ranks)
    size = squeezed_bytes(recipe.model, vocab_size, squeeze.matrix_bits, squeeze.embedding_bits)
    display = open_display(recipe.budget.train_seconds, size, quiet=not ranks.leads)
    digest = data_digest(data.shards, data.tokenizer.digest, str(data.text.get("digest", "")))
    boundary_id = data.tokenizer.boundary_id
    weights = train(
        recipe, windows, vocab_size, run, clock, display, ranks, boundary_id=boundary_id, data_digest=digest
    )
    if ranks.leads:
        entry = next(entry for entry in reversed(clock.ledger) if entry.name == "train")
        log(run, f"trained for {entry.seconds:.1f} of {recipe.budget.train_seconds:g} s")
    return weights


def _windows(recipe: Recipe, shards: Sequence[Any], ranks: Ranks) -> StreamWindows | TrainingWindows:
    """This rank's batches in the order that the recipe names."""
    from paramgolf.text.stream import StreamWindows
    from paramgolf.text.windows import TrainingWindows

    if recipe.train.order == "stream":
        return StreamWindows(shards, recipe.train.sequence, ranks.rank, ranks.world)
    return TrainingWindows(shards, recipe.train.sequence, recipe.seed, ranks.rank, ranks.world)


def primer_documents(recipe: Recipe, data: TrainingData) -> list[Any]:
    """The training documents that the artifact may carry, as ids; none unless the recipe says so."""
    if not recipe.squeeze.carry_text:
        return []
    # Carried tokens take about a byte each: more than this never fits, and would only be packed to be dropped.
    most = 2 * recipe.budget.artifact_bytes
    documents = list(documents_of(data.shards, data.tokenizer.boundary_id))
    ends = np.cumsum([len(document) for document in documents])
    return documents[: int(np.searchsorted(ends, most, side="right"))]


def averaged_weights(tensors: Mapping[str, Any]) -> Weights:
    """The averaged weights of a checkpoint's tensors, float32 by exported name."""
    from paramgolf.train.state import delivered

    return delivered(tensors)


def pack_run(
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: Weights,
    primer: Sequence[Any],
    run: RunFolder,
    calibrated: Calibrated | None = None,
) -> PackReport:
    """Write model.pyz and sizes.json into the run; what it was calibrated with, if anything, is kept there already."""
    from paramgolf.artifact.pack import pack
    from paramgolf.cli.calibrate import says_calibrated

    if calibrated is not None:
        log(run, says_calibrated(calibrated))
    out = run.path / ARTIFACT
    out.unlink(missing_ok=True)  # of this very run, interrupted between packing and its last rename
    measured = (None, None) if calibrated is None else (calibrated.hessians, calibrated.sensitivities)
    report = pack(recipe, tokenizer, weights, primer, out, None, *measured)
    run.write_json("sizes.json", {"tensors": dict(report.bytes_by_tensor), "members": dict(report.bytes_by_member)})
    log(run, says_packed(report))
    return report


def says_packed(report: PackReport) -> str:
    """One line: size, budget, what gave way or was made finer, the error of the weights, which tensors got more."""
    setting = report.setting
    gave = [f"steps times {setting.coarseness:.3g}"] if setting.coarseness != 1 else []
    gave += [f"{setting.fewer_bits} bits fewer"] if setting.fewer_bits else []
    gave += [f"{setting.pruned:,} of ±1 made 0"] if setting.pruned else []
    gave += [f"{report.documents_dropped:,} carried documents dropped"] if report.documents_dropped else []
    gave += [f"{100 * report.floored_share:.1f} % of rows on the floor"] if report.floored_share is not None else []
    unmended = report.unmended
    gave += [f"{len(unmended)} matrices rounded to nearest: {_some(unmended)}"] if unmended else []
    gave += [f"corrected {_some(report.corrected)}"] if report.corrected else []
    gave += [f"wide columns in {_some(report.widened)}"] if report.widened else []
    return (
        f"packed {report.bytes:,} of {report.budget:,} bytes ({report.bytes_without_tokenizer:,} without tokenizer), "
        f"weights off by {100 * report.relative_error:.2f} %{', ' if gave else ''}{', '.join(gave)}"
    )


def _some(names: Sequence[str]) -> str:
    """The first four of them, and how many more."""
    more = [f"{len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join([*names[:4], *more])


def write_ledger(run: RunFolder, clock: Clock) -> None:
    """ledger.json: every phase so far."""
    run.write_json("ledger.json", clock.record())


def prove(artifact: Path, text: HeldOutText, folder: Path, least_bytes: int = PROOF_BYTES) -> dict[str, Any]:
    """Code the first `least_bytes` of `text` and restore them, each in a new process that runs the artifact alone.

    Writes proof.json (`bytes_in`, `bytes_coded`, `identical`, seconds) into `folder` and returns what it holds. Raises
    `CheckFailed` if either process fails.
    """
    from paramgolf.run_folder import write_atomically

    data = b"".join(text.documents)[:least_bytes]
    with tempfile.TemporaryDirectory() as scratch:
        given, coded, back = (Path(scratch, name) for name in ("given", "coded", "back"))
        given.write_bytes(data)
        encode_seconds = _run_artifact(artifact, "encode", given, coded)
        decode_seconds = _run_artifact(artifact, "decode", coded, back)
        record = {
            "bytes_in": len(data),
            "bytes_coded": coded.stat().st_size,
            "identical": back.read_bytes() == data,
            "encode_seconds": encode_seconds,
            "decode_seconds": decode_seconds,
            "seconds": encode_seconds + decode_seconds,
        }
    write_atomically(folder / "proof.json", (json.dumps(record, indent=1) + "\n").encode())
    return record


def _run_artifact(artifact: Path, verb: str, given: Path, made: Path) -> float:
    """Run `python ARTIFACT VERB GIVEN MADE` with nothing of this process; the seconds it took."""
    begin = time.perf_counter()
    command = [sys.executable, "-I", str(artifact), verb, str(given), str(made)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise CheckFailed(f"{verb} in a new process failed with status {done.returncode}: {last}")
    return round(time.perf_counter() - begin, 2)
