"""Restore a file that `encode` made with this very artifact. A file that is damaged in any byte is refused."""

from __future__ import annotations

import argparse

from paramgolf.cli.code_file import add_files, work_on_file
from paramgolf.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files."""
    add_files(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    """Decode; the content is checked against the digest in the coded file before it is written."""
    from paramgolf.codec.file import decode_bytes

    coded, data, seconds = work_on_file(
        options, "decode", lambda artifact, given, progress: decode_bytes(artifact, given, progress)
    )
    output.say(f"{options.output}: {len(data):,} bytes from {len(coded):,}, {seconds:.1f} s, digest as recorded")
    output.say("next: compare it with the original: cmp ORIGINAL " + str(options.output))
    output.result({"output": options.output, "bytes": len(data), "bytes_coded": len(coded), "seconds": seconds})
    return 0
