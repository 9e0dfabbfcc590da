"""A trained model in one file: score text with it, compress and restore files, let it write.

It needs Python 3.11 with torch, numpy, numba, sentencepiece and constriction, and nothing else of paramgolf.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from paramgolf.artifact.compile_cache import cache_compiled_sources
from paramgolf.errors import OutputError, ParamgolfError, TextError

PROGRESS_SECONDS = 5.0


class UsageError(Exception):
    """The words do not make a command; exit status 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(path: Path, argv: Sequence[str] | None = None) -> int:
    """Run one verb on the artifact at `path`; returns the exit status: 0 fine, 1 a failed check, 2 a user's mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = path.name
    try:
        options = build_parser(name).parse_args(words)
        cache_compiled_sources()
        status = int(options.run(path, options))
        sys.stdout.flush()
        return status
    except SystemExit as leave:  # argparse leaves this way after --help
        return int(leave.code or 0)
    except UsageError as error:
        return _fail(words, f"{name}: {error} (see `python {name} --help`)", 2)
    except ParamgolfError as error:
        return _fail(words, f"{name}: {error}", error.exit_status)
    except MemoryError:
        return _fail(words, f"{name}: out of memory; use a smaller text, or close other programs", 2)
    except KeyboardInterrupt:
        return _fail(words, f"{name}: interrupted", 130)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(words, f"{name}: {error.strerror or error}: {error.filename}", 2)
    except ModuleNotFoundError as error:
        needs = "torch numpy numba sentencepiece constriction"
        return _fail(words, f"{name}: Python module {error.name} is missing; pip install {needs}", 2)


def build_parser(name: str) -> argparse.ArgumentParser:
    """All verbs; nothing is imported for them yet."""
    parser = _Parser(prog=name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    score = _verb(verbs, "score", _score, "bits per byte of a text, audited while it is computed")
    score.add_argument("file", type=Path, metavar="FILE", help="a file, a .jsonl of documents, or a folder")
    score.add_argument("--adapt", metavar="NAME", help="what adapts while it scores (default: as the recipe says)")
    score.add_argument("--order", metavar="ORDER", help="of documents: stream or longest-first (default: the same)")
    score.add_argument("--limit", type=_positive, metavar="BYTES", help="the first whole documents only")
    score.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    encode = _verb(verbs, "encode", _encode, "compress a file")
    decode = _verb(verbs, "decode", _decode, "restore a file that encode made with this very model")
    for verb in (encode, decode):
        verb.add_argument("input", type=Path, metavar="IN")
        verb.add_argument("output", type=Path, metavar="OUT", help="must not exist")
        verb.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    encode.add_argument("--adapt", metavar="NAME", help="what adapts while it codes (default: as the recipe says)")
    sample = _verb(verbs, "sample", _sample, "text from the model")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="what it goes on from")
    sample.add_argument("--tokens", type=_positive, default=200, metavar="N")
    sample.add_argument("--temperature", type=float, default=0.8, metavar="T")
    sample.add_argument("--seed", type=int, default=0, metavar="N")
    rows = verbs.add_parser("rows")  # unlisted: what pack compares from a new process
    rows.set_defaults(run=_rows)
    return parser


def _verb(
    verbs: argparse._SubParsersAction[_Parser], name: str, run: Callable[[Path, argparse.Namespace], int], says: str
) -> _Parser:
    verb = verbs.add_parser(name, help=says, description=says, allow_abbrev=False)
    verb.set_defaults(run=run)
    return verb


def _score(path: Path, options: argparse.Namespace) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.predict.score_file import score_record
    from paramgolf.predict.score_text import score_text
    from paramgolf.text.documents import read_documents
    from paramgolf.text.text import HeldOutText

    text = HeldOutText(options.file.name, read_documents([options.file]))
    artifact = open_artifact(path)
    report = _progress()
    found = score_text(
        artifact,
        text,
        options.adapt,
        limit=options.limit,
        order=options.order,
        progress=lambda done, total, bits: report(done / total),
    )
    passed = found.audit.passed()
    _print_result(
        options.json,
        f"{found.bpb:.4f} bits per byte: {found.total_bits:,.0f} bits for {found.bytes:,} bytes, {found.tokens:,} "
        f"tokens, {found.seconds:.1f} s\naudit {'passed' if passed else 'FAILED'}: {found.audit.positions} positions, "
        f"sums off by {found.audit.max_sum_error:.1e}, rows moved by {found.audit.max_causal_error:.1e} nats",
        {**score_record(found), "audit_passed": passed},
    )
    return 0 if passed else 1


def _encode(path: Path, options: argparse.Namespace) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.codec.file import encode_bytes

    _refuse_existing(options.output)
    data = _read(options.input)
    begin = time.perf_counter()
    coded = encode_bytes(open_artifact(path), data, options.adapt, progress=_progress())
    return _keep(options, coded, len(data), len(coded), time.perf_counter() - begin)


def _decode(path: Path, options: argparse.Namespace) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.codec.file import decode_bytes

    _refuse_existing(options.output)
    coded = _read(options.input)
    begin = time.perf_counter()
    data = decode_bytes(open_artifact(path), coded, progress=_progress())
    return _keep(options, data, len(data), len(coded), time.perf_counter() - begin)


def _sample(path: Path, options: argparse.Namespace) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.predict.sample import sample

    prompt = options.prompt.encode("utf-8", "surrogateescape")
    written = sample(open_artifact(path), prompt, options.tokens, options.temperature, options.seed)
    sys.stdout.buffer.write(prompt + written + b"\n")
    return 0


def _rows(path: Path, options: argparse.Namespace) -> int:
    from paramgolf.artifact.open import open_artifact
    from paramgolf.artifact.proof import fingerprint

    artifact = open_artifact(path)
    print(json.dumps(fingerprint(artifact) | {"digest": artifact.digest}))
    return 0


def _progress() -> Callable[[float], None]:
    """A line on stderr every few seconds: how much is done."""
    due = time.perf_counter() + PROGRESS_SECONDS

    def report(share: float) -> None:
        nonlocal due
        if time.perf_counter() >= due:
            due = time.perf_counter() + PROGRESS_SECONDS
            print(f"{share:.0%} done", file=sys.stderr, flush=True)

    return report


def _keep(options: argparse.Namespace, content: bytes, size: int, coded: int, seconds: float) -> int:
    partial = options.output.with_name(f"{options.output.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(options.output)
        partial.rename(options.output)
    finally:
        partial.unlink(missing_ok=True)
    share = f", {8 * coded / size:.4f} bits per byte" if size else ""
    _print_result(
        options.json,
        f"{options.output}: {len(content):,} bytes ({size:,} bytes of text, {coded:,} coded{share}) in {seconds:.1f} s",
        {"output": str(options.output), "bytes": size, "bytes_coded": coded, "seconds": seconds},
    )
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror}") from None


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already; choose another name, or move it away")


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least 1")
    return value


def _print_result(as_json: bool, says: str, record: dict[str, object]) -> None:
    if as_json:
        print(says, file=sys.stderr)
        print(json.dumps(record, allow_nan=False), flush=True)
    else:
        print(says)


def _fail(words: Sequence[str], message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    if "--json" in words:
        print(json.dumps({"error": message, "exit_status": status}), flush=True)
    return status
