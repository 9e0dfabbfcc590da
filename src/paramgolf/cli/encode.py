"""Compress any file with an artifact; `decode` with the same artifact gives it back bit for bit."""

from __future__ import annotations

import argparse

from paramgolf.cli.code_file import add_files, work_on_file
from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, and what adapts while it codes."""
    add_files(parser)
    parser.add_argument("--adapt", metavar="NAME", help="an honest name that `paramgolf score --help` lists")


def run(options: argparse.Namespace, output: Output) -> int:
    """Encode and show the ratio."""
    from paramgolf.cli.adapt_names import require_honest
    from paramgolf.codec.file import encode_bytes

    if options.adapt is not None:
        require_honest(options.adapt)
    given, coded, seconds = work_on_file(
        options, "encode", lambda artifact, data, progress: encode_bytes(artifact, data, options.adapt, progress)
    )
    bpb = 8 * len(coded) / len(given) if given else None
    share = "" if bpb is None else f", {bpb:.4f} bits per byte"
    output.say(f"{options.output}: {len(given):,} bytes as {len(coded):,}{share}, {seconds:.1f} s")
    output.next("paramgolf", "decode", options.artifact, options.output, f"{options.input.name}.restored")
    output.result(
        {"output": options.output, "bytes_in": len(given), "bytes_coded": len(coded), "bpb": bpb, "seconds": seconds}
    )
    return 0
