"""The table of the specification (#1430, section 8.3) beside what a run gives, and the toys at the real ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramgolf.exhibits.toys import TOYS, toy_score
from paramgolf.exhibits.toys.world import large_world
from paramgolf.referee.blackbox import TESTS, BlackBox, Effort, Exam, Layout
from paramgolf.referee.finding import Finding

TARGETS = 2240


@dataclass(frozen=True)
class Row:
    """A cheat, the tests that the specification expects to catch it (`weak`: a little), the rows of ours that it is,
    and why ours differ."""

    cheat: str
    expected: set[str]
    cases: tuple[str, ...]
    why: str
    weak: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ratio:
    """A toy at V = 1024 on random tokens."""

    name: str
    mean: float
    advantage: float
    t5: str
    gap: float
    t11: str


def _tests(words: str) -> set[str]:
    return {f"T{word}" for word in words.split()}


SPEC = (
    Row(
        "fit on scored targets (#1430)",
        _tests("1 2 3 4 5 10"),
        ("slot-1430",),
        "T5 needs the real ratios. T7: the loss is divided by all windows of the batch, so the batch's size shows. "
        "T11 is not in the specification's table: it sees the column that the loss drops.",
    ),
    Row(
        "batch-shared delta (#1350, #1306)",
        _tests("1 2 3 4 5 7 10"),
        ("slot-1350", "slot-shared"),
        "T5 needs the real ratios.",
    ),
    Row("hashed ratio n-gram", _tests("4 5 10"), ("ngram-ratio",), "As expected, once its table is filled."),
    Row(
        "target-dependent gate, min over passes",
        _tests("4 5 10"),
        ("better-of-two", "target-gate"),
        "T5 sees the better of two rows; the gate gains too little on a short text.",
    ),
    Row(
        "train on all val, then score",
        _tests("1 2 3 4 10"),
        ("ttt-rescore",),
        "T5 is weak: so few parameters learn little of random tokens. T7: later texts were learnt from too. T12: all "
        "was read before the first cost.",
        frozenset({"T5"}),
    ),
    Row(
        "training before packing, val-calibrated build",
        _tests("1 2 4 8 10"),
        ("built-on-val",),
        "The build is inside the score here, so everything that looks ahead sees it (T3, T7, T12 as well as T1 and "
        "T2). With a finished artifact only T8 is left, and it needs the build.",
    ),
    Row("state kept from an earlier pass", _tests("6"), ("state-kept",), "As expected."),
    Row(
        "duplicates, dropped targets, byte tricks",
        _tests("9"),
        ("dropped-targets", "doubled-targets", "byte-trick"),
        "As expected.",
    ),
    Row(
        "cross-document peeking",
        _tests("1 2 7 10"),
        ("neighbours",),
        "T3: the next document can be cut off as well as changed. T12: it is read before the cost is final.",
    ),
)


def compared(row: Row, found: dict[str, tuple[Finding, ...]], large: list[Ratio]) -> tuple[set[str], str]:
    """The tests that caught at least one of the row's cases, on the small world or the large one; and what differs."""
    caught = {finding.rule for case in row.cases for finding in found[case] if finding.status == "FAIL"}
    caught |= {"T5" for one in large if one.name in row.cases and one.t5 == "FAIL"}
    caught |= {"T11" for one in large if one.name in row.cases and one.t11 == "FAIL"}
    names = [test.name for test in TESTS]
    missed = [f"not {name}" for name in names if name in row.expected - caught]
    more = [f"also {name}" for name in names if name in caught - row.expected - row.weak]
    return caught, ", ".join([*missed, *more])


def ratios() -> list[Ratio]:
    """T5 and T11, which draw 2,240 random tokens themselves: V = 1024, windows of 256, stride 64."""
    tests = {test.name: test for test in TESTS}
    lines = []
    for name, batch in (("plain", 32), ("slot-1430", 8), ("slot-1350", 32), ("slot-strict", 32)):
        world, run = large_world(batch), TOYS[name].run
        box = BlackBox.of(
            lambda tokens, declared, seed, world=world, run=run: toy_score(world, run, tokens, declared),
            1024,
            name=name,
            layout=Layout(stride=64, block=64, first=256),
        )
        exam = Exam(box, np.arange(TARGETS + 1) % 1024, 1, Effort(uniform=TARGETS))
        value, row = tests["T5"].run(exam), tests["T11"].run(exam)
        mean, advantage, gap = value.numbers["mean"], value.numbers["advantage"], row.numbers["gap"]
        lines.append(Ratio(name, float(mean), float(advantage), value.status, float(gap), row.status))
    return lines
