"""One self-contained HTML page of a run, with plots; anything that was not measured says so."""

from __future__ import annotations

import argparse
from pathlib import Path

from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and whether to show it."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or one that score --out wrote")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def run(options: argparse.Namespace, output: Output) -> int:
    """Write RUN/report.html anew."""
    from paramgolf.report.page import write_page

    page = write_page(options.run)
    output.say(f"wrote {page} ({page.stat().st_size:,} bytes)")
    if options.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    else:
        output.next("paramgolf", "report", options.run, "--open")
    output.result({"page": page, "bytes": page.stat().st_size})
    return 0
