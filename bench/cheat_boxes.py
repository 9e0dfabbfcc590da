"""What the matrix of cheats is run over: toys and exhibits as black boxes.

Shapes: B lanes, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from paramgolf.exhibits import EXHIBITS, Exhibit
from paramgolf.exhibits.toys import CHEATS, TOYS, Toy, toy_row, toy_score, toy_scores, toy_stream
from paramgolf.exhibits.toys.alphabet import text_of
from paramgolf.exhibits.toys.world import long_tokens, small_tokens, small_world
from paramgolf.predict.protocol import Chunk, Float64, Int64, Predictor, TableRows
from paramgolf.referee.blackbox import Batched, BlackBox, Books, Builder, GuardedTokens, Layout, from_predictor

WORLD = small_world()
SLIDING = Layout(stride=4, block=16, first=28)  # batches of four windows: 28 targets, then 16 at a time
CHUNKED = Layout(stride=1, block=16)
EXHIBIT_VOCABULARY, EXHIBIT_CHUNK, EXHIBIT_AT = 24, 16, 160


@dataclass(frozen=True)
class Case:
    """One row of the matrix: who, whether it should pass, the scorer, its text, and the block looked at closely."""

    name: str
    summary: str
    honest: bool
    box: BlackBox
    tokens: Int64
    at: int | None


def all_cases() -> list[Case]:
    """Honest ones first, then the toys that cheat, then every exhibit."""
    toys = [toy_case(toy) for toy in (*TOYS.values(), *CHEATS.values())]
    toys.sort(key=lambda case: not case.honest)
    return [*toys, honest_predictor(), *(exhibit_case(exhibit) for exhibit in EXHIBITS.values())]


def toy_case(toy: Toy) -> Case:
    """A toy with all the interfaces that it can have."""

    def fresh():
        run = toy.make()
        return lambda tokens, declared, seed: toy_score(WORLD, run, tokens, declared)

    def many(texts: Sequence[Int64], batch: int, seed: int) -> list[Float64]:
        return toy_scores(replace(WORLD, batch=batch), toy.make(), texts, [len(text) - 1 for text in texts])

    def stream(tokens: GuardedTokens, declared: int, seed: int):
        return toy_stream(WORLD, toy.make(), tokens, declared)

    box = BlackBox(
        toy.name,
        WORLD.vocab_size,
        fresh,
        SLIDING if toy.sliding else CHUNKED,
        logprobs=lambda tokens, target: toy_row(WORLD, toy.make(), tokens, target),
        batched=Batched(many, WORLD.batch, targets=24, free=toy.free_batch),
        books=Books(lambda tokens: toy.credited(np.arange(1, len(tokens))), toy.byte_weights, text_of),
        # A toy without a build of its own is its random weights: they come from no text at all.
        builder=Builder(toy.build or (lambda train, val: WORLD.embedding_VD.tobytes())),
        stream=stream,
    )
    tokens, at = (long_tokens()[:201], 165) if toy.needs_filling else (small_tokens(), 29)
    return Case(toy.name, toy.summary, toy.honest, box, tokens, at)


class Pairs:
    """The honest base of the exhibits: counts of pairs, learnt in `observe`, mixed with the counts of single tokens."""

    vocab_size = EXHIBIT_VOCABULARY

    def __init__(self) -> None:
        self.pairs_VV = np.zeros((self.vocab_size, self.vocab_size))
        self.last_B: Int64 | None = None

    def before(self, chunk: Chunk) -> Int64:
        last_B = np.full(len(chunk.tokens), self.vocab_size - 1) if self.last_B is None else self.last_B
        first_B = np.where(chunk.starts, self.vocab_size - 1, last_B)
        return np.concatenate([first_B[:, None], chunk.tokens[:, :-1]], axis=1)

    def predict(self, chunk: Chunk) -> WholeRows:
        single_V = (self.pairs_VV.sum(axis=0) + 1) / (self.pairs_VV.sum() + self.vocab_size)
        mixed_VV = (self.pairs_VV + 5 * single_V) / (self.pairs_VV.sum(axis=1, keepdims=True) + 5)
        return WholeRows(np.log(mixed_VV)[self.before(chunk)], chunk)

    def observe(self, chunk: Chunk) -> None:
        real = chunk.real()
        np.add.at(self.pairs_VV, (self.before(chunk)[real], chunk.tokens[real]), 1)
        ends_B = chunk.tokens[np.arange(len(chunk.tokens)), np.maximum(chunk.lengths - 1, 0)]
        last_B = np.full(len(ends_B), self.vocab_size - 1) if self.last_B is None else self.last_B
        self.last_B = np.where(chunk.lengths > 0, ends_B, last_B)


class WholeRows(TableRows):
    """Rows that can also be had lane by lane, as those of a neural model can."""

    def __init__(self, logprob_BTV: Float64, chunk: Chunk) -> None:
        super().__init__(logprob_BTV, chunk)
        self._whole_BTV, self._lengths_B = logprob_BTV, chunk.lengths

    def all_rows(self, lane: int) -> Float64:
        return self._whole_BTV[lane, : self._lengths_B[lane]]


def exhibit_text() -> Int64:
    """257 tokens of a random chain: some tokens are common, and each has two likely followers, so there is much to
    learn and much to be gained by cheating."""
    rng = np.random.default_rng(21)
    share_V = 1.0 / np.arange(1, EXHIBIT_VOCABULARY) ** 1.3
    share_V /= share_V.sum()
    follower_VF = rng.choice(EXHIBIT_VOCABULARY - 1, size=(EXHIBIT_VOCABULARY, 2), p=share_V)
    tokens = [0]
    for _ in range(256):
        rare = int(rng.choice(EXHIBIT_VOCABULARY - 1, p=share_V))
        tokens.append(int(rng.choice(follower_VF[tokens[-1]])) if rng.random() < 0.7 else rare)
    return np.array(tokens)


def _boxed(name: str, make) -> BlackBox:
    books = Books(
        lambda tokens: np.arange(1, len(tokens)),
        lambda tokens: np.ones(len(tokens) - 1, dtype=np.int64),
        lambda ids: bytes(ids.astype(np.uint8) + ord("a")),
    )
    return from_predictor(
        name,
        make,
        EXHIBIT_VOCABULARY,
        chunk=EXHIBIT_CHUNK,
        boundary_id=EXHIBIT_VOCABULARY - 1,
        books=books,
    )


def honest_predictor() -> Case:
    """The base alone."""
    box = _boxed("pairs", lambda documents, lanes, tokens: Pairs())
    return Case(
        "pairs", "counts of pairs, learnt once they are scored: what the exhibits wrap", True, box, exhibit_text(), 96
    )


def exhibit_case(exhibit: Exhibit) -> Case:
    """An exhibit around the honest base."""

    def make(documents: Sequence[Int64], lanes: int, tokens: int) -> Predictor:
        return exhibit.build(Pairs, documents)

    box = _boxed(f"exhibit:{exhibit.name}", make)
    return Case(f"exhibit:{exhibit.name}", exhibit.summary, False, box, exhibit_text(), EXHIBIT_AT)
