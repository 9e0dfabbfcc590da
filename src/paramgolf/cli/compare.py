"""Scored runs side by side. Runs that differ in nothing but the seed are one line: mean, deviation, 95 % interval.
Every line is compared with the first: by Welch's test where both have two seeds or more, and document by document where
both were scored on one text. Runs of different texts are shown, and never compared.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramgolf.cli.output import Output

if TYPE_CHECKING:
    from paramgolf.referee.comparison import Comparison, Group

HEADER = ("", "seeds", "bits/byte", "sd", "95 % interval", "model bytes", "train s", "score s", "legal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders that score --out completed; the first is the measure"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Read, group, compare, show."""
    from paramgolf.referee.comparison import compare, groups_of, read_runs

    groups = groups_of(read_runs(options.runs))
    comparisons = [compare(group, groups[0]) for group in groups[1:]]
    records = [group.record() for group in groups]
    output.table([HEADER, *(_row(group, record) for group, record in zip(groups, records))], right=range(1, 8))
    for text in sorted({group.text for group in groups}):
        output.say(f"text: {text}")
    for comparison in comparisons:
        _show(comparison, output)
    if not comparisons:
        output.say("one group only: give runs of another recipe or another --adapt to compare it with")
    output.result({"groups": records, "comparisons": [_record(comparison) for comparison in comparisons]})
    return 0


def _row(group: Group, record: dict[str, Any]) -> tuple[str, ...]:
    bounds = record["interval"]
    return (
        group.name,
        str(len(group.runs)),
        f"{record['mean']:.5f}",
        "-" if record["sd"] is None else f"{record['sd']:.5f}",
        "-" if bounds is None else f"{bounds[0]:.5f} to {bounds[1]:.5f}",
        "-" if record["bytes"] is None else f"{record['bytes']:,}",
        "-" if record["train_seconds"] is None else f"{record['train_seconds']:.1f}",
        f"{record['score_seconds']:.1f}",
        {True: "yes", False: "NO", None: "-"}[record["legal"]],
    )


def _show(comparison: Comparison, output: Output) -> None:
    output.say()
    output.say(f"{comparison.new.name} against {comparison.old.name}:")
    if comparison.welch is not None:
        test = comparison.welch
        output.say(
            f"  seeds: {test.difference:+.5f} bits per byte, t {test.t:.2f}, df {test.df:.2f}, "
            f"p {test.p_two_sided:.2g} (better: {test.p_lower:.2g})"
        )
    if comparison.margin is not None:
        test = comparison.margin
        output.say(f"  better by more than {test.margin} nats a token: t {test.t:.2f}, p {test.p_lower:.2g}")
    if comparison.paired is not None:
        found = comparison.paired
        output.say(
            f"  documents: {found.difference:+.5f} bits per byte, standard error {found.standard_error:.5f}, better on "
            f"{found.better:,} and worse on {found.worse:,} of {found.documents:,}, p {found.p:.2g}"
        )
    for note in comparison.notes:
        output.say(f"  {note}")


def _record(comparison: Comparison) -> dict[str, Any]:
    tests = {
        name: None if test is None else dataclasses.asdict(test)
        for name, test in (
            ("welch", comparison.welch),
            ("margin", comparison.margin),
            ("paired", comparison.paired),
        )
    }
    return {"new": comparison.new.name, "old": comparison.old.name, **tests, "notes": list(comparison.notes)}
