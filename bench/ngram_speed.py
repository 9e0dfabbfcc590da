"""Tokens a second of the exact n-gram counts on one core, beside the asked 3,000,000 of issue #4 (order 16).

    python bench/ngram_speed.py DOCUMENTS.jsonl TOKENIZER.model [--orders 8,16,22]
    python bench/ngram_speed.py SHARD.bin [--tokens 4194304]

"Look-up and update": for each token the total, the variety and the token's count of every context of 0..order tokens
are written down, then the token is counted; public calls with chunks of 4096 tokens, in one walk and as two calls. For
scale: the same number of independent reads of random rows of a table of that size, and counting with dictionaries.
Each figure is the best and the median of the runs; "CPU" is the thread's own time, which other work on the machine
lengthens less. The evidence is compared with the dictionaries' on the first tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk
from paramgolf.text.shards import read_shard
from paramgolf.text.tokenizer import load_tokenizer

ASKED = 3_000_000
CHUNK = 4096
VOCABULARY = 1024
BOUNDARY = 1
DICT_TOKENS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("tokenizer", type=Path, nargs="?")
    parser.add_argument("--orders", default="8,16,22")
    parser.add_argument("--tokens", type=int, default=1 << 22)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    tokens = read_tokens(options.text, options.tokenizer)[: options.tokens]
    print(f"{len(tokens):,} tokens, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for order in map(int, options.orders.split(",")):
        measure(tokens, order, options.runs)


def read_tokens(text: Path, tokenizer_path: Path | None) -> np.ndarray:
    """The documents' tokens joined by the boundary, or a shard's."""
    if text.suffix == ".bin":
        return read_shard(text, VOCABULARY).astype(np.int64)
    if tokenizer_path is None:
        raise SystemExit("documents need a tokenizer: python bench/ngram_speed.py DOCUMENTS.jsonl TOKENIZER.model")
    tokenizer = load_tokenizer(tokenizer_path)
    lines = text.read_text(encoding="utf-8").splitlines()
    documents = [tokenizer.encode(json.loads(line)["text"].encode()) for line in lines]
    return np.concatenate([np.append(document, tokenizer.boundary_id) for document in documents]).astype(np.int64)


def measure(tokens: np.ndarray, order: int, runs: int) -> None:
    """Print one order's figures."""
    chunks = [
        Chunk(piece[None], np.array([len(piece)]), np.array([False]))
        for piece in np.split(tokens, range(CHUNK, len(tokens), CHUNK))
    ]
    counts = NgramCounts(order, VOCABULARY, BOUNDARY, expected_tokens=len(tokens))
    check(chunks[0], counts)
    nodes, taken = 0, 0

    def one_walk() -> None:
        nonlocal nodes, taken
        counts = NgramCounts(order, VOCABULARY, BOUNDARY, expected_tokens=len(tokens))
        for chunk in chunks:
            counts.look_up_and_observe(chunk)
        nodes, taken = counts.nodes_in_use(), counts.bytes_in_use()

    def two_calls() -> None:
        counts = NgramCounts(order, VOCABULARY, BOUNDARY, expected_tokens=len(tokens))
        for chunk in chunks:
            counts.look_up(chunk, 0)
            counts.observe(chunk)

    def update() -> None:
        counts = NgramCounts(order, VOCABULARY, BOUNDARY, expected_tokens=len(tokens))
        for chunk in chunks:
            counts.observe(chunk)

    print(f"order {order}")
    report("look-up and update, one walk", len(tokens), runs, one_walk)
    report("look-up, then update", len(tokens), runs, two_calls)
    report("update alone", len(tokens), runs, update)
    print(f"  {nodes / len(tokens):.2f} nodes and {taken / len(tokens):.0f} bytes a token")
    table, slots = np.zeros((nodes, 8), dtype=np.int32), np.zeros(2 * nodes, dtype=np.uint64)
    places = np.random.default_rng(0).integers(0, nodes, 4 * len(tokens)).astype(np.uint32)
    read_rows(table, slots, places[:10])
    report("4 random slots and rows each", len(tokens), runs, lambda: read_rows(table, slots, places))
    report("dictionaries", DICT_TOKENS, 1, lambda: dict_counts(tokens[:DICT_TOKENS], order))


def report(name: str, tokens: int, runs: int, work: Callable[[], object]) -> None:
    """Tokens a second by the wall's clock and by the thread's."""
    wall, cpu = [], []
    for _ in range(runs):
        begin = time.perf_counter(), time.thread_time()
        work()
        wall.append(tokens / (time.perf_counter() - begin[0]))
        cpu.append(tokens / (time.thread_time() - begin[1]))
    print(
        f"  {name:<30} best {max(wall):>11,.0f}  median {np.median(wall):>11,.0f}  CPU best {max(cpu):>11,.0f}"
        f"  median {np.median(cpu):>11,.0f}  best to asked {max(wall) / ASKED:.2f}"
    )


@njit(cache=False)
def read_rows(table: np.ndarray, slots: np.ndarray, places: np.ndarray) -> int:
    """Read a random slot and a random row for each place: what memory alone allows."""
    total = 0
    for place in places:
        total += table[place, 0] + np.int64(slots[2 * place])
    return total


def dict_counts(tokens: np.ndarray, order: int) -> list[list[tuple[int, int, int]]]:
    """Total, count and variety before each token, for each known context: the plain way."""
    counts: dict[tuple[int, ...], dict[int, int]] = {}
    text, found = [BOUNDARY, *tokens.tolist()], []
    for at in range(1, len(text)):
        known: list[tuple[int, int, int]] = []
        for k in range(min(order, at) + 1):
            followers = counts.setdefault(tuple(text[at - k : at]), {})
            if followers:
                known.append((sum(followers.values()), followers.get(text[at], 0), len(followers)))
            followers[text[at]] = followers.get(text[at], 0) + 1
        found.append(known)
    return found


def check(chunk: Chunk, counts: NgramCounts) -> None:
    """Compare the evidence of a first chunk with the dictionaries'."""
    (evidence,) = counts.look_up_and_observe(chunk)
    for t, known in enumerate(dict_counts(chunk.tokens[0], counts.order)):
        got = np.stack([part[t, : len(known)] for part in evidence], axis=1).tolist() if known else []
        assert [tuple(row) for row in got] == known and not evidence.total_TK[t, len(known) :].any()


if __name__ == "__main__":
    main()
