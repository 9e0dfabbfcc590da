"""Packing: squeeze until the file meets the budget, write it, and prove that a new process reads the same back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.artifact.packer import Packer, Weights
from paramgolf.errors import ArtifactError, OutputError
from paramgolf.recipe import Recipe
from paramgolf.run_folder import says_unwritten
from paramgolf.squeeze.fit import Setting, fit_allocated, fit_to_budget
from paramgolf.squeeze.hessian import Hessians
from paramgolf.squeeze.sensitivity import Sensitivity
from paramgolf.text.tokenizer import TokenIds, Tokenizer

_PROOF_SECONDS = 600
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class PackReport:
    """What was written. Sizes in bytes.

    `bytes_by_member` as `Artifact.sizes`; `bytes_by_tensor` the code of each tensor; `squared_error` the sum over all
    weights of (dequantised - trained)², `relative_error` its root over that of the trained weights; `setting` what gave
    way to the budget. `floored_share` is the share of the matrices' rows on the published floor, None without one;
    `unmended` the matrices that GPTQ had to leave to plain rounding; `corrected` the tensors with a low-rank
    correction, `widened` those with wide columns; `step_factors` how much larger than the recipe's allocated steps are.
    """

    path: Path
    digest: str
    bytes: int
    bytes_without_tokenizer: int
    bytes_by_member: Mapping[str, int]
    bytes_by_tensor: Mapping[str, int] = field(repr=False)
    squared_error: float
    relative_error: float
    setting: Setting
    budget: int
    documents_dropped: int
    floored_share: float | None = None
    unmended: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()
    step_factors: Mapping[str, float] = field(default_factory=dict, repr=False)


def pack(
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: Weights,
    primer: Sequence[TokenIds],
    out: Path,
    budget: int | None = None,
    hessians: Hessians | None = None,
    sensitivities: Mapping[str, Sensitivity] | None = None,
) -> PackReport:
    """Write `out`, at most `budget` bytes (default: the recipe's), and compare it bit for bit from a new process.

    What takes more than a few seconds is told on stderr.

    `primer` are training documents to carry; `hessians` of the matrices are needed where squeeze.quantiser is "gptq",
    `sensitivities` where squeeze.allocation is "free". Raises `BudgetError` with the smallest possible size and the
    tensors that cost most, `OutputError` if `out` exists or cannot be written, `RecipeError` if the weights are not
    those of the recipe's model or not finite, `ArtifactError` if the new process reads anything else than what was
    packed (`out` is not made then).
    """
    _refuse_existing(out)
    limit = recipe.budget.packed_bytes() if budget is None else budget
    progress = _Progress()
    packer = Packer(recipe, tokenizer, weights, primer, hessians, sensitivities)

    def size(setting: Setting) -> int:
        found = packer.size(setting)
        progress.tell(f"{_names(setting)}: {found:,} bytes, {limit:,} may be")
        return found

    setting = _fit(packer, size, limit)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        _write(partial, packer.file(setting))
        progress.tell("the file is written and is read back in a new process")
        artifact = _prove(partial, packer.artifact(setting))
        _refuse_existing(out)
        partial.rename(out)
    except OSError as error:
        raise OutputError(says_unwritten(out, packer.size(setting), error)) from None
    finally:
        partial.unlink(missing_ok=True)
    squared, relative = packer.error(setting)
    return PackReport(
        path=out,
        digest=artifact.digest,
        bytes=artifact.sizes["file"],
        bytes_without_tokenizer=artifact.sizes["without_tokenizer"],
        bytes_by_member=artifact.sizes,
        bytes_by_tensor=packer.weights_file(setting).bytes_by_tensor,
        squared_error=squared,
        relative_error=relative,
        setting=setting,
        budget=limit,
        documents_dropped=len(primer) - setting.documents,
        floored_share=packer.floored_share(setting),
        unmended=packer.unmended(),
        corrected=packer.corrected(setting),
        widened=packer.widened(),
        step_factors=packer.step_factors(setting),
    )


def _fit(packer: Packer, size: Callable[[Setting], int], limit: int) -> Setting:
    """What gives way to the budget: as the recipe has it."""
    squeeze, documents = packer.recipe.squeeze, [len(document) for document in packer.primer]

    def by_tensor(setting: Setting) -> Mapping[str, int]:
        return packer.weights_file(setting).bytes_by_tensor

    allocated = packer.free_range()
    if allocated is not None:
        return fit_allocated(size, limit, documents=documents, allocated=allocated, by_tensor=by_tensor)
    ones = packer.ones if squeeze.prune_ones else None
    bits = max(squeeze.matrix_bits, squeeze.embedding_bits)
    return fit_to_budget(size, limit, documents=documents, bits=bits, ones=ones, by_tensor=by_tensor)


class _Progress:
    """Lines on stderr, from the moment that packing turns out to take a while, with the seconds since its start."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def tell(self, says: str) -> None:
        seconds = time.perf_counter() - self._begin
        if seconds >= PROGRESS_SECONDS:
            print(f"packing, {seconds:.0f} s: {says}", file=sys.stderr, flush=True)


def _names(setting: Setting) -> str:
    parts = [f"steps times {setting.coarseness:.3f}"]
    parts += [f"{setting.fewer_bits} bits fewer"] if setting.fewer_bits else []
    parts += [f"{setting.pruned:,} of ±1 made 0"] if setting.pruned else []
    parts += [f"{setting.documents:,} documents"] if setting.documents else []
    return ", ".join(parts)


def _prove(path: Path, expected: Artifact) -> Artifact:
    """Open the file here and in a new process that has nothing but the file; `ArtifactError` unless all is equal."""
    from paramgolf.artifact.proof import fingerprint

    opened = open_artifact(path)
    command = [sys.executable, "-I", str(path), "rows"]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=_PROOF_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ArtifactError(f"the packed file gave no rows within {_PROOF_SECONDS} s in a new process") from None
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ArtifactError(f"the packed file does not run in a new process (status {child.returncode}): {last}")
    found = json.loads(child.stdout.splitlines()[-1])
    wanted = fingerprint(expected) | {"digest": opened.digest}
    differ = [name for name in wanted if found.get(name) != wanted[name]]
    if differ:
        raise ArtifactError(f"a new process reads other {', '.join(differ)} from the packed file than were packed")
    return opened


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already; choose another name, or move it away")
    if not path.parent.is_dir():
        raise OutputError(f"no folder {path.parent} for {path.name}; make it first, or choose another name")
