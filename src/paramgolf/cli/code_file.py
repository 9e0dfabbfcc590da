"""What encode and decode share: read IN, work with a progress line, put OUT in place whole or not at all."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paramgolf.cli.meter import Meter
from paramgolf.errors import OutputError, TextError

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact

Work = Callable[["Artifact", bytes, Callable[[float], None]], bytes]


def add_files(parser: argparse.ArgumentParser) -> None:
    """ARTIFACT IN OUT."""
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a model.pyz")
    parser.add_argument("input", type=Path, metavar="IN", help="the file to read")
    parser.add_argument("output", type=Path, metavar="OUT", help="the file to write; must not exist")


def work_on_file(options: argparse.Namespace, label: str, work: Work) -> tuple[bytes, bytes, float]:
    """Content of IN, content of OUT and seconds, after OUT was written. Raises `OutputError` if OUT exists."""
    from paramgolf.artifact.open import open_artifact
    from paramgolf.run_folder import write_atomically

    _refuse_existing(options.output)
    try:
        given = options.input.read_bytes()
    except OSError as error:
        raise TextError(f"cannot read {options.input}: {error.strerror}") from None
    artifact = open_artifact(options.artifact)
    begin = time.perf_counter()
    with Meter(label, "‰") as meter:
        made = work(artifact, given, lambda share: meter.update(round(1000 * share), 1000))
    seconds = time.perf_counter() - begin
    _refuse_existing(options.output)
    write_atomically(options.output, made)
    return given, made, seconds


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already; choose another name, or move it away")
    if not path.parent.is_dir():
        raise OutputError(f"no folder {path.parent} for {path.name}; make it first, or choose another name")
