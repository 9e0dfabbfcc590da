"""The command line: `paramgolf VERB ...`.

One module a verb, with `add_arguments(parser)` and `run(options, output) -> exit status`; its docstring is its help.
A verb's module is imported only when it is asked for, and imports torch only inside `run`, so `--help` answers at once.
Exit status: 0 fine, 1 a negative verdict or a failed check, 2 a usage or input error, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

VERBS = {
    "quickstart": "the whole life of a run on this machine in minutes, no downloads",
    "data fetch": "the contest's published shards, from the hub",
    "data prepare": "text to shards that train and score read",
    "data inspect": "what is in a shard folder",
    "train": "train a recipe on shards; ends with a packed artifact",
    "pack": "squeeze a trained run again, to another budget",
    "score": "bits per byte of held-out text, audited while it runs",
    "check": "referee a run, an artifact or a record folder",
    "encode": "compress a file with an artifact",
    "decode": "restore a file that encode made",
    "compare": "scored runs side by side: means, intervals, Welch and paired tests",
    "submit": "the record folder of a contest, from scored runs",
    "recipes": "what recipes exist, and what is in one",
    "report": "the HTML page of a run",
    "sample": "text from the model",
    "doctor": "what this machine can do",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status; never raises for what a user did wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left; keep the interpreter from complaining while it shuts down.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    return status


def _dispatch(words: list[str]) -> int:
    from paramgolf.cli.arguments import Parser, UsageError
    from paramgolf.cli.output import Output
    from paramgolf.cli.trouble import explain

    output = Output(as_json="--json" in words)
    name = "paramgolf"
    try:
        verb, rest = _verb(words)
        if verb is None:
            return 0
        name = f"paramgolf {verb}"
        module = importlib.import_module(f"paramgolf.cli.{verb.replace(' ', '_')}")
        parser = Parser(prog=name, description=module.__doc__)
        module.add_arguments(parser)
        options = parser.parse(rest)
        with output.capturing():
            status = int(module.run(options, output))
    except SystemExit as leave:  # argparse leaves this way after --help
        return int(leave.code or 0)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return output.fail(name, "interrupted", 130)
    except UsageError as error:
        return output.fail(name, f"{error} (see `{name} --help`)", 2)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        return output.fail(name, *explained)
    output.flush()
    return status


def _verb(words: list[str]) -> tuple[str | None, list[str]]:
    """The verb and what follows it; (None, []) when only help or the version was asked for."""
    from paramgolf.cli.arguments import UsageError, suggestion

    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(VERBS))
        if not words:
            raise SystemExit(2)
        return None, []
    if words[0] in ("--version", "-V"):
        from paramgolf import __version__

        print(f"paramgolf {__version__}")
        return None, []
    for length in (2, 1):
        verb = " ".join(words[:length])
        if len(words) >= length and verb in VERBS:
            return verb, words[length:]
    group = {verb: says for verb, says in VERBS.items() if verb.split()[0] == words[0]}
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(_overview(group))
        if len(words) == 1:
            raise SystemExit(2)
        return None, []
    asked = " ".join(words[:2]) if group else words[0]
    raise UsageError(f"unknown verb {asked!r}{suggestion(asked, VERBS)}")


def _overview(verbs: dict[str, str]) -> str:
    width = max(map(len, verbs))
    lines = [f"  {verb:<{width}}  {says}" for verb, says in verbs.items()]
    return "\n".join(
        [
            "usage: paramgolf VERB ... [--json]",
            "",
            *lines,
            "",
            "`paramgolf VERB --help` says more; --json ends with one JSON object on stdout.",
            "Start with: paramgolf quickstart",
        ]
    )
