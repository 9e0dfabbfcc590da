"""What a scorer must offer to be judged from outside: one function, and whatever else it can.

Nothing here knows how a score is made. `tokens` are N + 1 ids, the first is given; `score` returns what each of the
other N cost, in nats, float64 [N]: element i - 1 belongs to token i (spec of #1430, section 8.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from paramgolf.clock import Entry
from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.guarded import GuardedTokens

Score = Callable[[Int64, int, int], Float64]
"""`score(tokens, declared, seed)`: costs in nats [len(tokens) - 1]. `declared` is the public length N of the whole text
(the tokens may be cut short), so that schedules that depend on it do not look like peeking."""


@dataclass(frozen=True)
class Layout:
    """How the scorer cuts the text, as its author says it: the tests look where the seams are.

    The first `first` targets are worked on at once, then `block` at a time (batch size times stride); inside a block,
    `stride` targets belong to one window. `edges` are further seams: first targets of chunks, ranks, documents.
    """

    stride: int = 1
    block: int = 32
    first: int = 0
    edges: tuple[int, ...] = ()

    def block_at(self, target: int) -> range:
        """The targets of the block that holds `target`."""
        if target <= self.first:
            return range(1, self.first + 1)
        begin = self.first + 1 + (target - 1 - self.first) // self.block * self.block
        return range(begin, begin + self.block)


@dataclass(frozen=True)
class Batched:
    """Several sequences at a time: `score(sequences, batch, seed)` gives the costs of each.

    `steps(lengths, batch)` says for every target of every sequence in which step it is credited: a credit may depend on
    targets of earlier steps, and on earlier ones of its own sequence. None: sequences count in the order of the list.
    `free`: the batch size is a matter of speed alone, so it must not move a cost.
    """

    score: Callable[[Sequence[Int64], int, int], list[Float64]]
    batch: int
    targets: int = 24
    steps: Callable[[Sequence[int], int], list[Int64]] | None = None
    free: bool = False


@dataclass(frozen=True)
class Books:
    """How the scorer counts: `credited(tokens)` the target indices [K] in the order in which they were credited,
    `byte_weights(tokens)` the bytes [N] by which it divides, `text(ids)` the text that token ids stand for."""

    credited: Callable[[Int64], Int64]
    byte_weights: Callable[[Int64], Int64]
    text: Callable[[Int64], bytes]


@dataclass(frozen=True)
class Builder:
    """Where the artifact comes from: `build(train, val)` gives its bytes, `ledger` the phases of the run that made it
    (either may be missing). `val` is at hand so that it can be shown not to matter."""

    build: Callable[[Int64, Int64], bytes] | None = None
    ledger: Sequence[Entry] | None = None


@dataclass(frozen=True)
class BlackBox:
    """A scorer to be judged. Only `fresh` is needed; what else is missing leaves its tests UNPROVEN.

    `fresh()` gives a new object with `score`'s signature. `logprobs(tokens, t)` gives the row [V] in nats from which
    token t is credited; it may look at `tokens[:t]` only, what follows may be wrong. `stream(tokens, declared, seed)`
    yields (targets, costs) as they become final, reading tokens by index as it goes.
    """

    name: str
    vocab_size: int
    fresh: Callable[[], Score]
    layout: Layout = field(default_factory=Layout)
    logprobs: Callable[[Int64, int], Float64] | None = None
    batched: Batched | None = None
    books: Books | None = None
    builder: Builder | None = None
    stream: Callable[[GuardedTokens, int, int], Iterator[tuple[Int64, Float64]]] | None = None

    @staticmethod
    def of(score: Score, vocab_size: int, *, name: str = "score", layout: Layout | None = None) -> BlackBox:
        """A function that has no state of its own (T6 looks whether that is true)."""
        return BlackBox(name, vocab_size, lambda: score, layout or Layout())

    def score(self, tokens: Int64, declared: int, seed: int) -> Float64:
        """Costs by a fresh object, which gets a copy of the tokens."""
        import numpy as np

        return np.asarray(self.fresh()(tokens.copy(), declared, seed), dtype=np.float64)
