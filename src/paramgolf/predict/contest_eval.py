"""A model measured by the published rules of #549, on one process: plain, sliding, and with test-time training.

For comparison with the field only: plain evaluation reads sequences without what stood before them, the other two
count the last targets of the text many times (spec pr549.md 5.1, 5.3, 5.4, 7-B7). The score of this project is
`predict.score`. Legend: N windows, T positions.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paramgolf.model.gpt import GPT
from paramgolf.predict.contest_windows import Windows, chunk_of, exact_windows, published_windows
from paramgolf.predict.protocol import Int64
from paramgolf.predict.ttt_step import learning_rate
from paramgolf.recipe import ScoreRecipe
from paramgolf.text.byte_table import ByteTable
from paramgolf.text.validation import contest_bpb

BATCH_TOKENS = 65_536  # 32 windows of 2,048, on a GPU
CPU_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class ContestFigure:
    """Mean nats over `positions` scored targets, and bits for each of the `bytes` that their table charges."""

    loss: float
    positions: int
    bytes: int

    @property
    def bpb(self) -> float:
        """Bits per byte as the contest computes it (spec pr549.md 1.6)."""
        return contest_bpb(self.loss, self.positions, self.bytes)


class _Sum:
    """Adds up windows of one stream of tokens."""

    def __init__(self, tokens: Int64, table: ByteTable) -> None:
        self.tokens, self._table = tokens, table
        self._nats, self._positions, self._bytes = 0.0, 0, 0

    def add(self, model: GPT, windows: Windows) -> None:
        """Score windows with the present weights."""
        if not len(windows):
            return
        longest = int((windows.end - windows.start).max())
        size = _batch_tokens(model) // longest or 1
        for at in range(0, len(windows), size):
            self._add_batch(model, windows.take(slice(at, at + size)), longest)

    def figure(self) -> ContestFigure:
        """What it came to."""
        return ContestFigure(self._nats / self._positions, self._positions, self._bytes)

    @torch.no_grad()
    def _add_batch(self, model: GPT, windows: Windows, longest: int) -> None:
        inputs_NT = np.zeros((len(windows), longest), dtype=np.int64)
        targets_NT, scored_NT = np.zeros_like(inputs_NT), np.zeros(inputs_NT.shape, dtype=np.bool_)
        for row, (start, end, first) in enumerate(zip(windows.start, windows.end, windows.first, strict=True)):
            inputs_NT[row, : end - start] = self.tokens[start:end]
            targets_NT[row, : end - start] = self.tokens[start + 1 : end + 1]
            scored_NT[row, first - start : end - start] = True
        device = model.embedding.weight.device
        h_NTD = model.hidden(torch.from_numpy(inputs_NT).to(device))
        logits = model.logits(h_NTD[torch.from_numpy(scored_NT).to(device)])
        nats = functional.cross_entropy(logits, torch.from_numpy(targets_NT[scored_NT]).to(device), reduction="none")
        self._nats += float(nats.double().sum())
        self._positions += int(scored_NT.sum())
        self._bytes += int(self._table.bytes_of(inputs_NT[scored_NT], targets_NT[scored_NT]).sum())


def plain_evaluation(model: GPT, tokens: Int64, table: ByteTable, length: int) -> ContestFigure:
    """Sequences of `length` side by side, each without the ones before it; a last one that is not full is left out."""
    start = np.arange(0, (len(tokens) - 1) // length * length, length, dtype=np.int64)
    total = _Sum(tokens, table)
    total.add(model, Windows(start, start + length, start))
    return total.figure()


def sliding_evaluation(
    model: GPT, tokens: Int64, table: ByteTable, length: int, stride: int, *, exact: bool = False
) -> ContestFigure:
    """The published sliding window; `exact` counts every target once."""
    total = _Sum(tokens, table)
    total.add(model, (exact_windows if exact else published_windows)(len(tokens) - 1, length, stride))
    return total.figure()


def ttt_evaluation(
    model: GPT, tokens: Int64, table: ByteTable, settings: ScoreRecipe, *, epochs: int, frozen: Collection[str] = ()
) -> ContestFigure:
    """Published score-first test-time training with SGD on a copy of `model`; parameters named `frozen` do not move.

    Of `settings` it takes window, stride, and the `ttt_` fields but for epochs, optimizer and frozen blocks.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    targets, chunk = len(tokens) - 1, settings.ttt_chunk
    windows = published_windows(targets, settings.window, settings.stride, training=True)
    chunks, belongs = -(-targets // chunk), chunk_of(windows, targets, chunk)
    trained = [parameter for name, parameter in model.named_parameters() if name not in frozen]
    optimizer = torch.optim.SGD(trained, lr=settings.ttt_lr, momentum=settings.ttt_momentum)
    total = _Sum(tokens, table)
    for number in range(chunks):
        total.add(model, windows.take(np.flatnonzero(belongs == number)))
        if number == chunks - 1:
            break
        optimizer.param_groups[0]["lr"] = learning_rate(settings, number, chunks)
        inputs, wanted = _sequences(tokens, number * chunk, min((number + 1) * chunk, targets), settings.window)
        for _ in range(epochs):
            for at in range(0, len(inputs), settings.ttt_sequences):
                part = slice(at, at + settings.ttt_sequences)
                _step(model, trained, optimizer, inputs[part], wanted[part], settings.ttt_clip_norm)
    return total.figure()


def _sequences(tokens: Int64, begin: int, end: int, length: int) -> tuple[Tensor, Tensor]:
    """The whole sequences of a chunk, side by side: inputs and targets [sequences, length]."""
    count = (end - begin) // length
    inputs = tokens[begin : begin + count * length].reshape(count, length)
    targets = tokens[begin + 1 : begin + count * length + 1].reshape(count, length)
    return torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))


def _step(
    model: GPT,
    trained: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    clip_norm: float,
) -> None:
    device, size = model.embedding.weight.device, max(1, _batch_tokens(model) // inputs.shape[1])
    model.zero_grad(set_to_none=True)
    for at in range(0, len(inputs), size):
        part = slice(at, at + size)
        loss = model.loss(inputs[part].to(device), targets[part].to(device)) * (len(inputs[part]) / len(inputs))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
    torch.nn.utils.clip_grad_norm_(trained, clip_norm)
    optimizer.step()


def _batch_tokens(model: GPT) -> int:
    return BATCH_TOKENS if model.embedding.weight.is_cuda else CPU_BATCH_TOKENS
