"""One sitting of the black-box tests: the text, how much of it is tried, and the noise that is allowed.

A test is a function of an `Exam` and gives one finding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from paramgolf.predict.protocol import Float64, Int64
from paramgolf.referee.blackbox.calls import ScorerFailed
from paramgolf.referee.blackbox.scorer import BlackBox
from paramgolf.referee.finding import Finding, Numbers

NOISY = 1e-3  # nats; beyond it the scorer must be made deterministic first (spec section 8.2)


@dataclass(frozen=True)
class Effort:
    """How much is tried. `flips` and `cuts`: replaced tokens and cut points at most; `swaps`: places at which
    `candidates` tokens at most are tried; `uniform`: random tokens of the e-value; `decoded`: tokens coded and back;
    `calls`: scorings that may be spent on rows for the decoder where the scorer gives none."""

    flips: int = 64
    cuts: int = 48
    swaps: int = 8
    candidates: int = 2048
    uniform: int = 400
    decoded: int = 64
    calls: int = 4096


class Exam:
    """A scorer, a text and the seed from which everything random is drawn.

    `declared` is the text's public length in targets; `at` the first target of the block that is looked at closely
    (None: a block in the middle). Raises `ValueError` for a text or an `at` that cannot be judged.
    """

    def __init__(
        self, box: BlackBox, tokens: Int64, seed: int, effort: Effort | None = None, at: int | None = None
    ) -> None:
        if len(tokens) < 2 or tokens.min() < 0 or tokens.max() >= box.vocab_size:
            raise ValueError(f"a text of {len(tokens)} ids, at least 2 of 0..{box.vocab_size - 1} are needed")
        self.box, self.tokens, self.seed, self.effort = box, tokens, seed, effort or Effort()
        self.declared = len(tokens) - 1
        if at is not None and not 1 <= at <= self.declared:
            raise ValueError(f"at={at} is no target of the text, whose targets are 1..{self.declared}")
        layout = box.layout
        middle = min(layout.first + 1 + max(0, self.declared - layout.first) // 2, self.declared)
        begin = layout.block_at(middle).start if at is None else at
        self.block = range(begin, min(begin + layout.block, self.declared + 1))

    def rng(self, test: int) -> np.random.Generator:
        """Each test draws from numbers of its own."""
        return np.random.default_rng((self.seed, test))

    def score(self, tokens: Int64, declared: int | None = None) -> Float64:
        """Costs [len(tokens) - 1] of one fresh scoring; `declared` is the text's length if not given."""
        return self.box.score(tokens, self.declared if declared is None else declared, self.seed)

    def whole(self, tokens: Int64) -> Float64:
        """Costs [declared] of a text as long as the one that is judged; `ScorerFailed` if there are fewer or more."""
        cost = self.score(tokens)
        if cost.shape != (self.declared,):
            raise ScorerFailed(f"it gives {cost.shape} costs for {self.declared} targets")
        return cost

    @functools.cached_property
    def runs(self) -> tuple[Float64, ...]:
        """Three scorings of the same text."""
        return tuple(self.score(self.tokens) for _ in range(3))

    @property
    def base(self) -> Float64:
        return self.runs[0]

    @functools.cached_property
    def noise(self) -> float:
        """Largest difference between the three runs, in nats."""
        first = self.runs[0]
        return max(difference(first, other) for other in self.runs[1:])

    @property
    def tolerance(self) -> float:
        """A change beyond it is a change: max(1e-6, 4 noise) nats."""
        return max(1e-6, 4.0 * self.noise)

    def trouble(self) -> str:
        """Why differences cannot be judged, or nothing."""
        if self.base.shape != (self.declared,):
            return f"it gives {self.base.shape} costs for {self.declared} targets."
        if not self.noise <= NOISY:
            return f"the same text costs up to {self.noise:.3g} nats more or less when it is scored again."
        return ""

    def chosen(self, places: list[int], most: int, rng: np.random.Generator) -> list[int]:
        """At most so many of the places, in order."""
        if len(places) <= most:
            return places
        return sorted(int(place) for place in rng.choice(places, size=most, replace=False))

    @functools.cached_property
    def uniform_tokens(self) -> Int64:
        """Independent, evenly distributed tokens, which nobody can predict better than ln V nats."""
        return self.rng(5).integers(0, self.box.vocab_size, self.effort.uniform + 1)

    @functools.cached_property
    def uniform_costs(self) -> Float64:
        return self.score(self.uniform_tokens, self.effort.uniform)


def difference(one: Float64, other: Float64) -> float:
    """max |one - other|; inf where shapes differ; a NaN differs from every number, and not from a NaN."""
    if one.shape != other.shape:
        return float("inf")
    return float(changes(one, other).max(initial=0.0))


def changes(one: Float64, other: Float64) -> Float64:
    """|one - other|; 0 where both are equal, NaN or infinite alike, inf where only one of them is a number."""
    with np.errstate(invalid="ignore"):
        moved = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.asarray(np.where(same, 0.0, np.where(np.isnan(moved), np.inf, moved)), dtype=np.float64)


def unproven(test: str, why: str, numbers: Numbers | None = None) -> Finding:
    return Finding(test, "UNPROVEN", why, numbers or {})


def judged(test: str, bad: bool, says_bad: str, says_good: str, numbers: Numbers) -> Finding:
    """FAIL or PASS with its own sentence."""
    return Finding(test, "FAIL" if bad else "PASS", says_bad if bad else says_good, numbers)
