"""Calls into a box, so that its own exceptions are told from those of the tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.guarded import GuardedTokens
from paramgolf.referee.blackbox.scorer import Batched, BlackBox, Books, Builder, Score

P = ParamSpec("P")
R = TypeVar("R")


class ScorerFailed(Exception):
    """The scorer raised, or gave something of another shape than it must; the message says what."""


def watched(box: BlackBox) -> BlackBox:
    """The same box, whose functions raise `ScorerFailed` in place of whatever a stranger's code may raise."""
    return replace(
        box,
        fresh=_watched_fresh(box.fresh),
        logprobs=box.logprobs and _watched(box.logprobs),
        batched=box.batched and _watched_batched(box.batched),
        books=box.books and _watched_books(box.books),
        builder=box.builder and _watched_builder(box.builder),
        stream=box.stream and _watched_stream(box.stream),
    )


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ScorerFailed(f"{type(error).__name__}: {str(error)[:200]}") from error


def _watched(call: Callable[P, R]) -> Callable[P, R]:
    def watched_call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _inside():
            return call(*args, **kwargs)

    return watched_call


def _watched_fresh(fresh: Callable[[], Score]) -> Callable[[], Score]:
    def watched_fresh() -> Score:
        with _inside():
            score = fresh()
        return _watched(lambda tokens, declared, seed: np.asarray(score(tokens, declared, seed), dtype=np.float64))

    return watched_fresh


def _watched_batched(batched: Batched) -> Batched:
    def score(texts: Sequence[Int64], batch: int, seed: int) -> list[Float64]:
        costs = [np.asarray(cost, dtype=np.float64) for cost in batched.score(texts, batch, seed)]
        if len(costs) != len(texts):
            raise ValueError(f"costs of {len(costs)} texts for {len(texts)}")
        return costs

    return replace(batched, score=_watched(score), steps=batched.steps and _watched(batched.steps))


def _watched_books(books: Books) -> Books:
    return Books(_watched(books.credited), _watched(books.byte_weights), _watched(books.text))


def _watched_builder(builder: Builder) -> Builder:
    return replace(builder, build=builder.build and _watched(builder.build))


Stream = Callable[[GuardedTokens, int, int], Iterator[tuple[Int64, Float64]]]


def _watched_stream(stream: Stream) -> Stream:
    def watched_stream(tokens: GuardedTokens, declared: int, seed: int) -> Iterator[tuple[Int64, Float64]]:
        with _inside():
            commits = iter(stream(tokens, declared, seed))
        while True:
            with _inside():
                commit = next(commits, None)
            if commit is None:
                return
            yield commit

    return watched_stream
