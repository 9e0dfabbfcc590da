"""MB of raw text a second: CaseOps and its byte sidecar on one core, beside the plain reference of each.

    python bench/caseops_speed.py [TEXT ...] [--tokenizer FILE.model] [--rounds N]

TEXT is anything that data prepare reads (default: Python's own sources). The sidecar's time is that of the bytes of
all tokens, given the tokens and the transform; SentencePiece's own encoding is printed for comparison. Without a model
a lossless and a normalising one are trained. The shortest of some rounds counts: other work only ever adds.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from paramgolf.text.caseops import decode_bytes, encode_bytes
from paramgolf.text.caseops_plain import count_bytes_plain, decode_plain, encode_plain
from paramgolf.text.caseops_tokenizer import CaseOpsTokenizer
from paramgolf.text.caseops_training import train_caseops, train_contest_caseops
from paramgolf.text.documents import read_documents
from paramgolf.text.split import split_documents
from paramgolf.text.stdlib import standard_library
from paramgolf.text.text import TrainText

MOST_BYTES = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    train = split_documents(read_documents(options.text), "text")[0] if options.text else standard_library()[0]
    documents = sample(train)
    megabytes = sum(map(len, documents)) / 1e6
    print(f"{len(documents):,} documents, {megabytes:.2f} MB")
    measure_transform(documents, megabytes, options.rounds)
    if options.tokenizer is not None:
        models = {options.tokenizer.name: CaseOpsTokenizer(options.tokenizer.read_bytes())}
    else:
        models = {"lossless": train_caseops(train, 1024), "normalising": train_contest_caseops(train, 1024)}
    for name, model in models.items():
        measure_sidecar(name, model, documents, megabytes, options.rounds)


def sample(train: TrainText) -> list[bytes]:
    """The first documents, as UTF-8, so that the plain functions can read them too."""
    documents: list[bytes] = []
    for document in train.documents:
        if sum(map(len, documents)) >= MOST_BYTES:
            break
        documents.append(document.decode("utf-8", "replace").encode())
    return documents


def measure_transform(documents: list[bytes], megabytes: float, rounds: int) -> None:
    """Both directions; the plain functions take text."""
    texts = [document.decode() for document in documents]
    streams = [encode_bytes(document) for document in documents]
    spelled = [stream.decode() for stream in streams]
    fast = shortest(lambda: [encode_bytes(document) for document in documents], rounds)
    plain = shortest(lambda: [encode_plain(text) for text in texts], 1)
    show("encode", megabytes, fast, plain)
    fast = shortest(lambda: [decode_bytes(stream) for stream in streams], rounds)
    plain = shortest(lambda: [decode_plain(stream) for stream in spelled], 1)
    show("decode", megabytes, fast, plain)


def measure_sidecar(name: str, model: CaseOpsTokenizer, documents: list[bytes], megabytes: float, rounds: int) -> None:
    """Bytes of every token; the plain counter walks the pieces of the streams that the tokens cover."""
    streams = [encode_bytes(document) for document in documents]
    ids = [model.encode(document) for document in documents]
    encoding = shortest(lambda: [model.encode(document) for document in documents], 1)
    ends = [model.surface_ends(stream, tokens).tolist() for stream, tokens in zip(streams, ids)]
    surfaces = [
        [stream[first:last].decode("utf-8", "surrogateescape") for first, last in itertools.pairwise(places)]
        for stream, places in zip(streams, ends)
    ]
    fast = shortest(lambda: [model.count_bytes(*pair) for pair in zip(streams, ids)], rounds)
    plain = shortest(lambda: [count_bytes_plain(parts) for parts in surfaces], 1)
    show(f"sidecar, {name}", megabytes, fast, plain)
    changed = sum(model.stream(tokens) != stream for stream, tokens in zip(streams, ids))
    print(f"  its encoding {megabytes / encoding:.1f} MB/s; {changed:,} documents were changed by normalisation")


def shortest(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one that compiles."""
    work()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def show(what: str, megabytes: float, fast: float, plain: float) -> None:
    """One line."""
    print(f"{what}: {megabytes / fast:.1f} MB/s, plain {megabytes / plain:.2f} MB/s ({plain / fast:.0f} x)")


if __name__ == "__main__":
    main()
