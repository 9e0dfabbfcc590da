"""What the inputs of every matrix look like: their second moments over training text, or over the model's own text.

Legend: S sequences, T tokens of a sequence, N rows of inputs, C channels. Held-out text never comes here: what is asked
for is windows of training text or a generator, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from paramgolf.clock import Phase
from paramgolf.errors import LeakError, RunError
from paramgolf.kernels.varlen import Documents
from paramgolf.model.gpt import GPT
from paramgolf.ranks import Ranks
from paramgolf.recipe import Recipe
from paramgolf.squeeze.hessian import Hessians
from paramgolf.squeeze.matrices import HEAD
from paramgolf.squeeze.quantized import Float32
from paramgolf.text.packing import document_ends
from paramgolf.text.windows import TrainingWindows
from paramgolf.train.own_text import OwnText

BATCH_TOKENS = 16_384  # of one forward pass at most, unless a sequence is longer
Source = TrainingWindows | OwnText


@dataclass(frozen=True)
class Calibration:
    """The Hessian of each matrix by exported name (matrices with the same inputs share an array), and of how much."""

    hessians: Hessians
    sequences: int
    tokens: int


class InputMoments(TorchFunctionMode):
    """While it is entered, adds up `x xᵀ` of what enters each of the named matrices of a model in float32.

    It watches `functional.linear`, so it knows nothing of how blocks are built: whatever the model multiplies with a
    matrix is that matrix's input.
    """

    def __init__(self, model: GPT, names: Collection[str]) -> None:
        super().__init__()
        exported = model.exported_weights()
        self._names = {exported[name].data_ptr(): name for name in names}
        self._last: tuple[Tensor, str] | None = None
        self.sums: dict[str, Tensor] = {}  # float64 [C, C], by the first matrix that takes these inputs
        self.first: dict[str, str] = {}  # of each matrix, its name in `sums`

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and args[1].data_ptr() in self._names:
            self.add(self._names[args[1].data_ptr()], args[0])
        return func(*args, **(kwargs or {}))

    def add(self, name: str, x: Tensor) -> None:
        """Count `x` [..., C] as inputs of the named matrix."""
        # Query, key and value are given one and the same tensor: it is counted once.
        if self._last is not None and self._last[0] is x:
            self.first[name] = self._last[1]
            return
        self._last, self.first[name] = (x, name), name
        rows_NC = x.reshape(-1, x.shape[-1]).float()
        moments_CC = (rows_NC.T @ rows_NC).double()
        self.sums[name] = self.sums[name] + moments_CC if name in self.sums else moments_CC


def calibration_model(
    recipe: Recipe, vocab_size: int, weights: Mapping[str, Float32], boundary_id: int, device: torch.device
) -> GPT:
    """The recipe's model with these exported weights, in float32."""
    model = GPT(recipe.model, vocab_size, None, boundary_id)
    model.load_exported(weights)
    return model.to(device).eval()


def collect_hessians(
    model: GPT,
    names: Collection[str],
    source: Source,
    sequences: int,
    ranks: Ranks | None = None,
    phase: Phase | None = None,
    separate_at: int | None = None,
    share: float = 1.0,
) -> Calibration:
    """The Hessians of the named matrices: inputs' second moments, summed over a sequence, a mean over the sequences.

    A matrix of a looped block is summed over all its visits; the tied embedding's inputs are, as the head, the states
    after the last norm. With `separate_at`, the boundary token, documents see themselves alone as in packed training
    (published they do not: spec pr2140.md 4.1).

    Each rank reads its share of `sequences` (`source` is this rank's), rounded up; all get the same sums. With a
    `phase` that has a limit, of which a `share` is there for this, the first batch is one sequence, and each later one
    takes at most half of the time that is left, by what the batch before it took; where that is not enough for a
    sequence, reading ends. Which sequences are read does not depend on the sizes of batches, but for own text. `model`
    computes in float32. Raises `LeakError` for any other kind of source, `RunError` where an input is not finite or a
    matrix was never used.
    """
    if not isinstance(source, Source):
        raise LeakError(
            f"calibration may not use {type(source).__name__}: it takes windows of training text, or the model's own"
        )
    ranks = ranks or Ranks()
    mine = -(-sequences // ranks.world)
    most = max(1, BATCH_TOKENS // source.sequence)
    moments, done, pace = InputMoments(model, names), 0, _Pace(phase, ranks.device, share)
    with torch.no_grad():
        while done < mine and (room := pace.room()):
            batch = _aligned(done, min(most, mine - done, room))
            tokens_ST = torch.from_numpy(_tokens(source, done, batch)).to(ranks.device)
            for row_BT, documents in forward_rows(tokens_ST, separate_at):
                with moments:
                    h_BTD = model.hidden(row_BT, documents=documents)
                if HEAD in names:
                    moments.add(HEAD, h_BTD)
            done += batch
            pace.read(batch)
    missing = sorted(set(names) - set(moments.first))
    if missing:
        raise RunError(f"the model never multiplied with {', '.join(missing[:4])}; nothing is known of their inputs")
    read = done * ranks.world
    return Calibration(_means(moments, read, ranks), read, read * source.sequence)


def forward_rows(tokens_ST: Tensor, separate_at: int | None) -> Iterator[tuple[Tensor, Documents | None]]:
    """What goes through the model at once: all sequences; or one row with its documents, which on a CPU is a sequence.

    A CPU gains little from longer rows, and the memory of what blocks compute grows with them.
    """
    if separate_at is None:
        yield tokens_ST, None
        return
    device, sequence = tokens_ST.device, tokens_ST.shape[1]
    for row_ST in [tokens_ST] if device.type == "cuda" else torch.split(tokens_ST, 1):
        lengths = [np.diff(document_ends(tokens_T, separate_at, bucket=1)) for tokens_T in row_ST.cpu().numpy()]
        lengths_S = torch.from_numpy(np.concatenate(lengths)).to(device)
        yield row_ST.reshape(1, -1), Documents(lengths_S, sequence)


def _aligned(done: int, most: int) -> int:
    """The largest power of two of at most `most` sequences that divides those `done`."""
    size = 1 << (most.bit_length() - 1)
    return size if done == 0 else min(size, done & -done)


def _tokens(source: Source, done: int, sequences: int) -> npt.NDArray[np.int64]:
    """The sequences from number `done` on, of which `sequences` is a divisor: windows come in steps of one size."""
    if isinstance(source, OwnText):
        return source.draw(done, sequences)
    return source.batch(done // sequences, sequences)[0]


class _Pace:
    """How many sequences a phase has room for. Readings of its clock are agreed upon, so all ranks know the same."""

    def __init__(self, phase: Phase | None, device: torch.device, share: float) -> None:
        self._phase, self._device, self._share = phase, device, share
        self._used = 0.0 if phase is None else phase.seconds()
        self._each: float | None = None  # seconds of a sequence in the last batch

    def room(self) -> int:
        """Sequences in half of the time left; one at first, and without a limit as many as anybody wants."""
        if self._phase is None or self._phase.limit is None:
            return BATCH_TOKENS
        if self._each is None:
            return 1
        left = self._share * self._phase.limit - self._used
        if left <= 0:
            return 0
        return BATCH_TOKENS if left >= 2 * BATCH_TOKENS * self._each else int(left / (2 * self._each))

    def read(self, sequences: int) -> None:
        """Note that a batch was read, once the device is done with it."""
        if self._phase is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        used = self._phase.seconds()
        self._each, self._used = (used - self._used) / sequences, used


def _means(moments: InputMoments, sequences: int, ranks: Ranks) -> dict[str, Float32]:
    arrays: dict[str, Float32] = {}
    for name, total_CC in moments.sums.items():
        mean_CC = (ranks.add(total_CC) / sequences).float().cpu().numpy()
        if not np.isfinite(mean_CC).all():
            raise RunError(f"the inputs of {name} are not finite: these are the weights of a run that diverged")
        arrays[name] = mean_CC
    return {name: arrays[first] for name, first in moments.first.items()}
