"""How the tokens of a step become the pieces that pass the model one at a time.

Plain sequences are cut into sequences of the present context and taken some at a time. With `train.packed` a piece is
one row, cut from the stream, in which documents lie end to end and see themselves alone (spec pr2140.md 3.1).

Legend: S sequences, T tokens of a sequence (of a whole row, if packed), N tokens of a row, E ends of documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from paramgolf.errors import RecipeError
from paramgolf.kernels.varlen import Documents
from paramgolf.recipe import TrainRecipe
from paramgolf.text.packing import BUCKET, Int32, document_ends
from paramgolf.train.prefetch import Int64, Windows

LEAST_DOCUMENT = 384  # mean tokens of a row's documents that warm-up foresees; the contest's text has about 950
BATCHES_LOOKED_AT = 64  # of the run's first ones, whose shapes warm-up foresees besides


class Piece(NamedTuple):
    """What passes the model at once: tokens [S, T] and where their documents lie, if it is a packed row (S = 1).

    `share` is the piece's part of all tokens of this rank's batch.
    """

    inputs_ST: Tensor
    targets_ST: Tensor
    documents: Documents | None = None
    share: float = 1.0


@runtime_checkable
class Stream(Protocol):
    """A stream of tokens that can be cut into rows of any length."""

    def rows(self, tokens: int, rows: int) -> Windows: ...


def sequences_of_rank(train: TrainRecipe, world: int) -> int:
    """Sequences (rows, if packed) of each rank's share of a batch; `RecipeError` where something does not divide."""
    if train.packed:
        return _rows_of_rank(train, world)
    for context in train.stages():
        if train.sequence % context:
            raise RecipeError(
                f"train.contexts names {context}, which does not divide train.sequence={train.sequence}: only packed "
                "rows can be cut so; use --train.packed true --train.order stream"
            )
    sequences = train.batch_tokens // train.sequence
    if sequences % world:
        raise RecipeError(
            f"train.batch_tokens={train.batch_tokens} is {sequences} sequences of "
            f"train.sequence={train.sequence}, which do not divide over {world} ranks"
        )
    return sequences // world


def in_rows(windows: Windows, train: TrainRecipe, world: int) -> Windows:
    """The batches of a run: `windows` themselves, or with `train.packed` rows of their stream.

    Raises `RecipeError` for rows of windows that are no stream, or that do not divide.
    """
    if not train.packed:
        return windows
    if not isinstance(windows, Stream):
        raise RecipeError(f"train.packed=True needs a stream of tokens, found {type(windows).__name__}")
    rows = _rows_of_rank(train, world)
    return windows.rows(train.batch_tokens // (world * rows), world * rows)


def pieces(
    train: TrainRecipe, batch: tuple[Int64, Int64], context: int, boundary_id: int, device: torch.device
) -> Iterator[Piece]:
    """The pieces of a rank's batch (inputs and targets [S, T]) on the device, in its order."""
    context = context or train.sequence
    if train.packed:
        inputs_ST, targets_ST = batch
        for inputs_N, targets_N in zip(inputs_ST, targets_ST, strict=True):
            ends_E = _row_ends(inputs_N, boundary_id, context)
            yield Piece(
                # Torch's own new dimension: NumPy's has stride 0, for which a compiler would make another graph.
                on_device(device, inputs_N)[None],
                on_device(device, targets_N)[None],
                documents_of(ends_E, context, device),
                1 / len(inputs_ST),
            )
        return
    # A sequence is cut into whole contexts, as `sequences_of_rank` has checked.
    inputs, targets = (on_device(device, tokens.reshape(-1, context)) for tokens in batch)
    size = _sequences_of_piece(train, len(inputs), context)
    for some, next_ones in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
        yield Piece(some, next_ones, share=len(some) / len(inputs))


def examples(
    train: TrainRecipe, world: int, context: int, device: torch.device, seen: Iterable[int] = ()
) -> list[Piece]:
    """A piece of every shape that pieces of this context come in: what a compiler must have seen.

    Packed rows come with any number of documents: these are the shapes of rows whose documents have `LEAST_DOCUMENT`
    tokens in the mean, and those of `seen`, numbers of ends (`row_shapes`).
    """
    context, sequences = context or train.sequence, sequences_of_rank(train, world)
    if not train.packed:
        total = sequences * (train.sequence // context)
        size = _sequences_of_piece(train, total, context)
        sizes = dict.fromkeys([size, total % size] if total % size else [size])
        return [_blank((each, context), device) for each in sizes]
    tokens = train.batch_tokens // (world * sequences)
    counts = sorted({*range(_up(_fewest(tokens, context)), _foreseen(tokens, context) + 1, BUCKET), *seen})
    return [_blank((1, tokens), device)._replace(documents=_example(tokens, context, n, device)) for n in counts]


def row_shapes(rows: Int64, context: int, boundary_id: int) -> set[int]:
    """Numbers of ends that packed rows [S, T] of this context have."""
    return {len(_row_ends(row_N, boundary_id, context)) for row_N in rows}


def longest_rows(train: TrainRecipe, world: int) -> list[tuple[int, int]]:
    """For each context of a run, the length of its rows (or sequences) and the context, the longest first."""
    rows = train.batch_tokens // (world * _rows_of_rank(train, world)) if train.packed else 0
    return sorted(((rows or context, context) for context in train.stages()), reverse=True)


def documents_of(ends_E: Int32, context: int, device: torch.device) -> Documents:
    """The model's view of `document_ends`; `context` bounds all lengths."""
    return Documents(on_device(device, np.diff(ends_E)), context)


def on_device(device: torch.device, array: np.ndarray) -> Tensor:
    """An array's tensor, on a GPU by a copy that the next kernels overtake."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _rows_of_rank(train: TrainRecipe, world: int) -> int:
    """As few equal rows of at most `micro_tokens` as there can be."""
    if train.batch_tokens % world:
        raise RecipeError(f"train.batch_tokens={train.batch_tokens} does not divide over {world} ranks")
    share = train.batch_tokens // world
    rows = -(-share // train.micro_tokens)
    if share % rows:
        raise RecipeError(
            f"a rank's share of {share} tokens (train.batch_tokens={train.batch_tokens} over {world} ranks) cannot be "
            f"cut into {rows} equal rows of at most train.micro_tokens={train.micro_tokens}"
        )
    return rows


def _row_ends(tokens_N: Int64, boundary_id: int, context: int) -> Int32:
    """`document_ends` of a row; more than are foreseen are padded to a power of two, for few shapes."""
    ends_E = document_ends(tokens_N, boundary_id, context)
    if len(ends_E) <= _foreseen(len(tokens_N), context):
        return ends_E
    missing = (1 << (len(ends_E) - 1).bit_length()) - len(ends_E)
    return np.pad(ends_E, (0, missing), mode="edge")


def _fewest(tokens: int, context: int) -> int:
    return -(-tokens // context) + 1


def _foreseen(tokens: int, context: int) -> int:
    """The most ends of a row that each get a shape of their own."""
    return _up(max(_fewest(tokens, context), tokens // LEAST_DOCUMENT))


def _sequences_of_piece(train: TrainRecipe, sequences: int, context: int) -> int:
    return min(sequences, max(1, train.micro_tokens // context))


def _blank(shape: tuple[int, int], device: torch.device) -> Piece:
    # Two tensors: a graph compiled for one tensor in both places would not serve a batch.
    inputs_ST, targets_ST = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2))
    return Piece(inputs_ST, targets_ST)


def _example(tokens: int, context: int, entries: int, device: torch.device) -> Documents:
    ends_E = np.minimum(np.arange(entries, dtype=np.int32) * np.int32(context), np.int32(tokens))
    return documents_of(ends_E, context, device)


def _up(count: int) -> int:
    return -(-count // BUCKET) * BUCKET
