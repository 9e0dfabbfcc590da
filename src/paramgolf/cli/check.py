"""Referee a run folder, an artifact, or a stranger's record folder, from its files: nothing of theirs is executed. With
--text the weights of the artifact (of a record that submit wrote: of each seed) are also run by the installed code and
probed on that text. Exit status 1 unless legal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paramgolf.cli.output import Output

RULESET_NAMES = ("parameter-golf-2026-04", "strict")  # those of referee.rulesets, which takes long to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to judge, and by which rules."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a run folder, a model.pyz or a record folder")
    parser.add_argument(
        "--ruleset", choices=RULESET_NAMES, default=RULESET_NAMES[0], help=f"default {RULESET_NAMES[0]}"
    )
    parser.add_argument("--text", type=Path, metavar="TEXT", help="the held-out text that was scored, to run it again")


def run(options: argparse.Namespace, output: Output) -> int:
    """Judge and show the verdict."""
    from paramgolf.cli.held_out import held_out_text
    from paramgolf.referee.check import check

    text = None if options.text is None else held_out_text(options.text)
    verdict = check(options.path, options.ruleset, text)
    output.say(f"rule set {verdict.ruleset}")
    output.table([(finding.status, finding.rule, finding.says) for finding in verdict.findings])
    output.say("legal" if verdict.legal else "NOT legal: every rule has to pass, and what is unproven does not")
    if options.path.is_dir() and verdict.legal:
        output.next("paramgolf", "report", options.path)
    elif options.text is None and _can_be_run(options.path):
        output.next("paramgolf", "check", options.path, "--text", "TEXT")
    else:
        output.say("next: mend what is listed above; docs/legality.md tells the story behind each rule")
    output.result(verdict.record())
    return 0 if verdict.legal else 1


def _can_be_run(path: Path) -> bool:
    """Whether there is a model that --text would run."""
    return path.is_file() or any(next(path.glob(name), None) for name in ("model.pyz", "model_seed*.pyz"))
