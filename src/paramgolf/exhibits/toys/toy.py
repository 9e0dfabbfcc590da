"""What a toy scorer is, and how its costs and rows are taken from its credits.

Shapes: K credited targets, V vocabulary. Nats, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paramgolf.exhibits.toys.alphabet import byte_weights
from paramgolf.exhibits.toys.world import Credits, Tokens, World
from paramgolf.predict.protocol import Float64, Int64

Run = Callable[[World, Sequence[Tokens], Sequence[int]], Iterator[Credits]]


@dataclass(frozen=True)
class Toy:
    """A toy scorer: its name, what it does in one line, whether it is honest, and `make()`, its generator of credits.

    `needs_filling`: its tables are empty on a short text, so it is tried on the 401 tokens. `free_batch`: how many
    windows go side by side is a matter of speed, as its authors would say. `sliding`: it works in batches of windows,
    not in chunks of 16. `credited` says which of the targets [N] are counted, in order, and `byte_weights` how many
    bytes each. `build(train, val)`: the artifact that it scores with.
    """

    name: str
    summary: str
    honest: bool
    make: Callable[[], Run]
    needs_filling: bool = False
    free_batch: bool = True
    sliding: bool = True
    credited: Callable[[Int64], Int64] = np.copy
    byte_weights: Callable[[Int64], Int64] = byte_weights
    build: Callable[[Int64, Int64], bytes] | None = None

    @property
    def run(self) -> Run:
        """A fresh generator function."""
        return self.make()


def toy_scores(world: World, run: Run, sequences: Sequence[Tokens], declared: Sequence[int]) -> list[Float64]:
    """Nats that each token of each sequence costs [len - 1]; NaN where a target was never credited."""
    cost = [np.full(len(tokens) - 1, np.nan) for tokens in sequences]
    for credits in run(world, sequences, declared):
        for which in np.unique(credits.sequence_K).tolist():
            mine = credits.sequence_K == which
            target_K = credits.target_K[mine]
            token_K = np.asarray(sequences[which][target_K], dtype=np.int64)
            cost[which][target_K - 1] = -credits.claimed_KV[mine][np.arange(len(token_K)), token_K]
    return cost


def toy_score(world: World, run: Run, tokens: Tokens, declared: int) -> Float64:
    """The same for one sequence whose full length is `declared` targets; `tokens` may be cut short."""
    return toy_scores(world, run, [tokens], [declared])[0]


def toy_stream(world: World, run: Run, tokens: Tokens, declared: int) -> Iterator[tuple[Int64, Float64]]:
    """Targets and costs as they become final; tokens are read as the toy goes."""
    for credits in run(world, [tokens], [declared]):
        token_K = np.asarray(tokens[credits.target_K], dtype=np.int64)
        yield credits.target_K, -credits.claimed_KV[np.arange(len(token_K)), token_K]


def toy_row(world: World, run: Run, tokens: Int64, target: int) -> Float64:
    """What each token would be credited with at `target` [V] nats, by a run over `tokens`."""
    for credits in run(world, [tokens], [len(tokens) - 1]):
        place = np.flatnonzero(credits.target_K == target)
        if len(place):
            return np.asarray(credits.claimed_KV[place[0]], dtype=np.float64)
    raise ValueError(f"target {target} of {len(tokens) - 1} is never credited")
