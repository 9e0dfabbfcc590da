"""All weights train on documents that were already scored (phased test-time training, PR #1855, #2014, #2140).

Once enough documents have ended, all of them are used once: cut at the window, each with the boundary before its first
token, in steps of `global_chunk` tokens on a cosine of the learning rate. Every token is the target of at most one step
of a phase, no document is left out, and all tokens of a step weigh the same however many ranks share it (the published
phase dropped the longest documents and the end of each chunk, doubled boundaries
and weighed ranks unequally: spec pr2140.md 5.4 and 8, item 23). Settings: `ScoreRecipe.global_*`.

Legend: F sequences of a pass, W inputs of the longest, N real ones of all, D width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from paramgolf.model.gpt import GPT
from paramgolf.predict.learning import Learning
from paramgolf.predict.lora_layout import Part
from paramgolf.predict.protocol import Chunk, Int64
from paramgolf.predict.ttt_step import GPU_PASS_TOKENS, IGNORED, PASS_TOKENS, add_up_gradients
from paramgolf.ranks import Ranks
from paramgolf.recipe import ScoreRecipe


class GlobalPhases:
    """Collects the documents of a score and trains `model`, in place, when a phase is due.

    With k = `global_phases` and N = `global_documents`, phase j (from 0) is due after floor(N (j + 1) / k) documents
    have ended, and takes all that have ended by then. With several lanes the ends are looked at after every chunk, and
    a document has ended when its lane begins the next; with one lane wherever the stream's length is a multiple of
    `score.chunk`, and the boundary ends it. So both sides of a code agree on when.

    A phase that meets a gradient or weights that are not finite is taken back, and no other is run.
    """

    def __init__(self, model: GPT, recipe: ScoreRecipe, boundary_id: int, lanes: int, ranks: Ranks) -> None:
        self._model, self._recipe, self._ranks = model, recipe, ranks
        self._boundary_id = boundary_id
        self._open: list[list[Int64]] = [[] for _ in range(lanes)]
        self._ended: list[Int64] = []
        self._due = phase_documents(recipe)

    def add(self, chunk: Chunk, parts: Sequence[Sequence[Part]]) -> None:
        """Take in the tokens of a chunk that was scored; `parts` of every lane."""
        if not self._due:
            return
        for b, of_lane in enumerate(parts):
            if chunk.starts[b]:
                self._end(b)
            for part in of_lane:
                self._open[b].append(chunk.tokens[b, part.column : part.column + part.stop - part.first].copy())
                if part.ended:
                    self._end(b)

    def run_if_due(self, observed: int, learning: Learning) -> bool:
        """Train if enough documents have ended, and `observed` tokens are a place where that may be.

        True if the weights are others now.
        """
        if len(self._open) == 1 and observed % self._recipe.chunk:
            return False
        if not self._due or len(self._ended) < self._due[0]:
            return False
        begin = time.perf_counter()
        self._due = [count for count in self._due if count > len(self._ended)]
        steps = training_steps(self._ended, self._boundary_id, self._recipe)
        broken = train_on_all(self._model, steps, self._recipe, self._ranks)
        if broken is None:
            learning.updates += len(steps)
        else:
            self._due = []
            learning.stopped = (
                f"step {broken + 1} of {len(steps)} on all weights, after {observed:,} tokens, met numbers that are "
                "not finite: the weights stay those before the first"
            )
        if not self._due:
            self._ended, self._open = [], [[] for _ in self._open]
        learning.seconds += time.perf_counter() - begin
        return broken is None and bool(steps)

    def _end(self, lane: int) -> None:
        if self._open[lane]:
            self._ended.append(np.concatenate(self._open[lane]))
            self._open[lane] = []


def phase_documents(recipe: ScoreRecipe) -> list[int]:
    """After how many documents the phases are due, ascending; those that would have none fall away."""
    counts = {recipe.global_documents * (j + 1) // recipe.global_phases for j in range(recipe.global_phases)}
    return sorted(counts - {0})


def training_steps(documents: Sequence[Int64], boundary_id: int, recipe: ScoreRecipe) -> list[list[Int64]]:
    """The sequences of each step, at most `global_chunk` targets each unless a single sequence has more.

    A sequence is a run of one document, at most `window` targets, with the token before it (the boundary at first).
    """
    sequences = []
    for document in documents:
        line = np.concatenate([[boundary_id], document])
        sequences += [line[first : first + recipe.window + 1] for first in range(0, len(document), recipe.window)]
    return runs(sequences, recipe.global_chunk)


def runs(sequences: Sequence[Int64], most: int) -> list[list[Int64]]:
    """Neighbouring sequences together, at most `most` targets a run, or one sequence alone."""
    found: list[list[Int64]] = []
    room = 0
    for sequence in sequences:
        if not found or len(sequence) - 1 > room:
            found.append([])
            room = most
        found[-1].append(sequence)
        room -= len(sequence) - 1
    return found


def global_rate(recipe: ScoreRecipe, step: int, chunks: int) -> float:
    """The published learning rate: a cosine from `global_lr` at step 0 to 0 at chunk `chunks` - 1, which is skipped."""
    return recipe.global_lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(chunks - 1, 1))))


def train_on_all(model: GPT, steps: Sequence[Sequence[Int64]], recipe: ScoreRecipe, ranks: Ranks) -> int | None:
    """One step of SGD with momentum for each of `steps`; the gradient is that of the mean loss over all of its tokens.

    The step that met numbers that are not finite, or None: then the weights are those before the first.
    """
    weights = list(model.parameters())
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.SGD(weights, lr=recipe.global_lr, momentum=recipe.global_momentum)
    model.requires_grad_(True)
    broken = None
    for index, sequences in enumerate(steps):
        optimizer.param_groups[0]["lr"] = global_rate(recipe, index, len(steps) + 1)
        if not _finite_step(model, sequences, optimizer, recipe.global_clip_norm, ranks):
            broken = index
            break
    optimizer.zero_grad()
    model.requires_grad_(False)
    if broken is not None:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
    return broken


def _finite_step(
    model: GPT, sequences: Sequence[Int64], optimizer: torch.optim.Optimizer, clip_norm: float, ranks: Ranks
) -> bool:
    """Add up the gradients of all ranks, clip, and step; whether gradient and weights were finite."""
    weights = list(model.parameters())
    optimizer.zero_grad()
    _backward(model, sequences, ranks)
    add_up_gradients(weights, ranks)
    norm = torch.nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()
    with torch.no_grad():
        model.hold_softcaps()
    finite = torch.stack([norm.isfinite(), *(weight.detach().isfinite().all() for weight in weights)])
    return bool(finite.all())


def _backward(model: GPT, sequences: Sequence[Int64], ranks: Ranks) -> None:
    """Add this rank's part of the gradient of the mean loss over all tokens of the sequences.

    A sequence is a row of its own, so that no part of a model sees its neighbour; rows of a pass are about as long.
    """
    device = model.embedding.weight.device
    real = sum(len(sequence) - 1 for sequence in sequences)
    mine = sorted(sequences, key=len, reverse=True)[ranks.rank :: ranks.world]
    most = PASS_TOKENS if device.type == "cpu" else GPU_PASS_TOKENS
    while mine:
        width = len(mine[0]) - 1
        rows = max(1, most // width)
        part, mine = mine[:rows], mine[rows:]
        inputs_FW = np.full((len(part), width), part[0][0], dtype=np.int64)
        targets_FW = np.full((len(part), width), IGNORED, dtype=np.int64)
        for row, sequence in enumerate(part):
            inputs_FW[row, : len(sequence) - 1] = sequence[:-1]
            targets_FW[row, : len(sequence) - 1] = sequence[1:]
        chosen = targets_FW != IGNORED
        with torch.enable_grad():
            h_ND = model.hidden(torch.from_numpy(inputs_FW).to(device))[torch.from_numpy(chosen).to(device)]
            loss = model.next_token_loss(h_ND[None], torch.from_numpy(targets_FW[chosen]).to(device)[None])
            (loss * (int(chosen.sum()) / real)).backward()  # type: ignore[no-untyped-call]  # torch's
