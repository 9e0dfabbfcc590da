"""Seconds to score a million tokens with the exact backoff mixer, neural rows given, against the 60 that are asked.

    python bench/cache_speed.py --data FOLDER_OF_SHARDS [--tokens N] [--order 22] [--rule backoff]

The ids are those of the folder's shards, held-out ones first. The neural rows come from a memory-mapped file of
4,096 different rows of V float32 log-probabilities, made here (softmax of Gaussian logits, sharp ones and flat ones)
and used over and over: which one depends on the token before and on the position. So the time is that of real rows;
the nats mean nothing. Timed is what `score` does without its audit: `predict`, `realised`, `observe`, chunk after
chunk, the row of each token read as float64 from the file. All of it runs in one thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paramgolf.predict.cache import CachePredictor
from paramgolf.predict.cache_rules import (
    Rule,
    backoff,
    discounting,
    gated_norm_cache,
    laplace,
    learnt_backoff,
    norm_cache,
)
from paramgolf.predict.ngram_counts import NgramCounts
from paramgolf.predict.protocol import Chunk, Float64
from paramgolf.recipe import ScoreRecipe
from paramgolf.text.shard_folder import ShardFolder

ASKED_SECONDS = 60.0
ROWS = 4096
RULES: dict[str, Callable[[ScoreRecipe, int], Rule]] = {
    "laplace": laplace,
    "norm_cache": lambda recipe, vocab: norm_cache(recipe),
    "gated_norm_cache": lambda recipe, vocab: gated_norm_cache(recipe),
    "backoff": backoff,
    "learnt_backoff": learnt_backoff,
    "discounting": discounting,
}


class FileRows:
    """Rows of a table on disk, by previous token and position."""

    def __init__(self, table: np.ndarray, index_T: np.ndarray, chunk: Chunk) -> None:
        self._table, self._index_T, self._chunk = table, index_T, chunk

    def realised(self) -> Float64:
        return self._table[self._index_T, self._chunk.tokens[0]].astype(np.float64)[None]

    def row(self, lane: int, position: int) -> Float64:
        return self._table[self._index_T[position]].astype(np.float64)

    def all_rows(self, lane: int) -> Float64:
        return self._table[self._index_T].astype(np.float64)


class FilePredictor:
    """Neural rows that were computed before; one lane."""

    def __init__(self, table: np.ndarray) -> None:
        self.vocab_size = table.shape[1]
        self._table, self._last, self._position = table, 0, 0

    def predict(self, chunk: Chunk) -> FileRows:
        previous = np.append(self._last, chunk.tokens[0, :-1])
        index = (previous * 40_503 + self._position + np.arange(len(previous))) % len(self._table)
        return FileRows(self._table, index, chunk)

    def observe(self, chunk: Chunk) -> None:
        self._last = int(chunk.tokens[0, -1])
        self._position += chunk.tokens.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of shards")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--order", type=int, default=22, help="as the field counts: contexts of one token less")
    parser.add_argument("--chunk", type=int, default=ScoreRecipe().chunk)
    parser.add_argument("--rule", choices=RULES, default="backoff")
    options = parser.parse_args()
    folder = ShardFolder.open(options.data, check_ids=False)
    tokens = read_tokens(folder, options.tokens)
    vocab = folder.tokenizer.vocab_size
    recipe = ScoreRecipe(ngram_order=options.order - 1)
    with tempfile.TemporaryDirectory() as scratch:
        table = write_rows(Path(scratch) / "rows.npy", vocab)
        # Compiled kernels are kept on disk; the first run on a machine compiles here.
        run(table, tokens[:5000], recipe, options.rule, folder.tokenizer.boundary_id, options.chunk)
        before = peak_bytes()
        begin, begin_busy = time.perf_counter(), time.process_time()
        nats, counts = run(table, tokens, recipe, options.rule, folder.tokenizer.boundary_id, options.chunk)
        seconds, busy = time.perf_counter() - begin, time.process_time() - begin_busy
    print(
        f"{len(tokens):,} tokens of {folder.path.name}, V {vocab}, rule {options.rule}, order {options.order}, "
        f"chunks of {options.chunk}; {nats / len(tokens):.3f} nats a token"
    )
    print(
        f"{seconds:.1f} s ({busy:.1f} s of one core), {len(tokens) / seconds:,.0f} tokens/s; "
        f"{seconds / ASKED_SECONDS:.2f} x the asked 60 s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"memory: counts {counts.bytes_in_memory() / 2**20:,.0f} MiB; peak of the process {peak_bytes() / 2**20:,.0f} "
        f"MiB, {before / 2**20:,.0f} before scoring"
    )


def read_tokens(folder: ShardFolder, wanted: int) -> np.ndarray:
    """The first `wanted` ids of the shards."""
    shards = [*(folder.held_out_shards() if folder.held_out_files else []), *folder.train_shards()]
    found = np.concatenate([shard[:wanted] for shard in shards])[:wanted].astype(np.int64)
    if len(found) < wanted:
        raise SystemExit(f"{folder.path} has {len(found):,} tokens, not {wanted:,}")
    return found


def write_rows(path: Path, vocab_size: int) -> np.ndarray:
    """A memory map of `ROWS` rows of log-probabilities, from nearly certain to nearly uniform."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS, vocab_size)) * rng.uniform(0.5, 5.0, (ROWS, 1))
    np.save(path, (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32))
    return np.load(path, mmap_mode="r")


def run(
    table: np.ndarray, tokens: np.ndarray, recipe: ScoreRecipe, rule: str, boundary_id: int, size: int
) -> tuple[float, NgramCounts]:
    """Nats of all tokens, and the counts at the end."""
    vocab = table.shape[1]
    counts = NgramCounts(recipe.ngram_order, vocab, boundary_id)
    predictor = CachePredictor(FilePredictor(table), counts, RULES[rule](recipe, vocab))
    nats = 0.0
    for first in range(0, len(tokens), size):
        part = tokens[None, first : first + size]
        chunk = Chunk(part, np.array([part.shape[1]]), np.array([first == 0]))
        nats -= float(predictor.predict(chunk).realised().sum())
        predictor.observe(chunk)
    return nats, counts


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
