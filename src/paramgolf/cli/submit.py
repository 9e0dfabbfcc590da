"""Write the record folder of a contest from scored runs that differ in nothing but the seed: README.md with the numbers
of each seed, submission.json, logs, the packed models with their scores and verdicts, and train_gpt.py, one script
that trains and scores with nothing of paramgolf installed. Only legal runs with a whole score are taken; where a rule
lacks evidence (training texts beyond 50 million tokens are not compared with the held-out one), --unproven RULE lets it
stand, and the record says so. A rule that is broken never passes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.cli.arguments import byte_count
from paramgolf.cli.output import Output

if TYPE_CHECKING:
    from paramgolf.submission.folder import RecordReport

ENTRY = "paramgolf.cli.standalone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, the folder, and what only the author knows."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a scored run, one a seed")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new record folder")
    parser.add_argument("--author", metavar="NAME", help="for submission.json")
    parser.add_argument("--github-id", metavar="ID", help="for submission.json")
    parser.add_argument("--name", metavar="TITLE", help="title of the record (default: recipe and score)")
    parser.add_argument("--blurb", metavar="TEXT", help="one sentence on what it is (default: the recipe's facts)")
    parser.add_argument("--text", type=Path, metavar="TEXT", help="the scored text, to add the contest's own figure")
    parser.add_argument(
        "--unproven", action="append", default=[], metavar="RULE", help="a rule that may stay unproven; may be repeated"
    )
    parser.add_argument(
        "--cap", type=byte_count, metavar="BYTES", help="most bytes of script and model (default: the recipe's budget)"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Read the runs, refuse what is no record, write the folder."""
    from paramgolf.cli.environment import commit
    from paramgolf.cli.held_out import held_out_text
    from paramgolf.submission.folder import refuse_taken, write_record
    from paramgolf.submission.runs import contest_scores, read_runs
    from paramgolf.submission.summary import Credits

    refuse_taken(options.out)
    runs = read_runs(options.runs, options.unproven)
    credits = Credits(options.author, options.github_id, options.name, options.blurb)
    contest = {} if options.text is None else contest_scores(runs, held_out_text(options.text))
    report = write_record(runs, options.out, ENTRY, credits, commit=commit(), contest=contest, cap=options.cap)
    _show(report, options, output)
    output.next("paramgolf", "check", options.out)
    output.result({"out": options.out, "cap": report.cap, **report.submission})
    return 0


def _show(report: RecordReport, options: argparse.Namespace, output: Output) -> None:
    record = report.submission
    output.say(record["name"])
    spread = "" if record["val_bpb_std"] is None else f" (sd {record['val_bpb_std']:.5f})"
    output.say(f"{record['val_bpb']:.5f} bits per byte{spread}, seeds {', '.join(map(str, record['seeds']))}")
    if record["val_bpb_contest"] is not None:
        output.say(f"{record['val_bpb_contest']:.5f} by the contest's byte tables")
    output.say(
        f"largest total {record['bytes_total']:,} of {report.cap:,} bytes: train_gpt.py {record['bytes_code']:,}, "
        f"model {record['artifact_bytes_max']:,}"
    )
    if record["unproven"]:
        output.say(f"NOT proven legal, and the record says so: {', '.join(record['unproven'])}")
    lacking = [flag for flag, value in (("--author", options.author), ("--github-id", options.github_id)) if not value]
    if lacking:
        output.say(f"submission.json names nobody: {' and '.join(lacking)} not given")
