"""The twelve black-box tests: any scorer, however it is made, judged from outside (spec of #1430, section 8).

A stranger's scorer is a function; `judge(BlackBox.of(score, vocab_size), tokens, seed=...)` gives twelve findings.
docs/cheats.md says what each test finds, and shows which known cheats each one caught when they were run.
"""

from __future__ import annotations

import os

import numpy as np

from paramgolf.predict.protocol import Int64
from paramgolf.referee.blackbox.calls import ScorerFailed, watched
from paramgolf.referee.blackbox.exam import Effort, Exam
from paramgolf.referee.blackbox.from_predictor import from_predictor
from paramgolf.referee.blackbox.guarded import GuardedTokens
from paramgolf.referee.blackbox.scorer import Batched, BlackBox, Books, Builder, Layout, Score
from paramgolf.referee.blackbox.twelve import TESTS, BlackBoxTest
from paramgolf.referee.finding import Finding

__all__ = [
    "TESTS",
    "Batched",
    "BlackBox",
    "BlackBoxTest",
    "Books",
    "Builder",
    "Effort",
    "Exam",
    "GuardedTokens",
    "Layout",
    "Score",
    "from_predictor",
    "judge",
]


def judge(
    box: BlackBox,
    tokens: Int64 | None = None,
    *,
    seed: int | None = None,
    effort: Effort | None = None,
    at: int | None = None,
) -> tuple[Finding, ...]:
    """One finding a test, T1 to T12: PASS, FAIL, or UNPROVEN where the scorer lacks what the test needs.

    `tokens` [N + 1] is the text (None: random tokens, two blocks of them at least); long enough that whatever adapts
    has something to adapt to. `at` is the first target of the block that is looked at closely (None: in the middle).
    `seed` must be unknown to the scorer (None: from the system). An exception of the scorer is a FAIL of the test that
    met it; one of the test's own code leaves it UNPROVEN. Raises `ValueError` for a text that is too short or has ids
    outside the vocabulary, and for an `at` that is no target of it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(6), "little")
    if tokens is None:
        length = box.layout.first + 2 * max(box.layout.block, 32)
        tokens = np.random.default_rng((seed, 0)).integers(0, box.vocab_size, length + 1)
    exam = Exam(watched(box), np.asarray(tokens, dtype=np.int64), seed, effort, at)
    return tuple(_guarded(test, exam) for test in TESTS)


def _guarded(test: BlackBoxTest, exam: Exam) -> Finding:
    try:
        return test.run(exam)
    except ScorerFailed as failure:
        return Finding(test.name, "FAIL", f"the scorer fails: {failure}")
    except Exception as error:  # not the scorer's fault, or not for certain; the other tests must still be heard
        says = f"{type(error).__name__}: {str(error)[:200]}"
        return Finding(test.name, "UNPROVEN", f"the test itself fails, outside the scorer: {says}")
