"""Tokens a second of the n-gram counts on one core, beside the asked 1,000,000.

    python bench/ngram_speed.py [--order 8]

Text: the standard library of this interpreter, tokenised with a vocabulary of 1024 learnt from it. Two figures: look-up
and update alone (every order of every token is found and counted), and with the escape probabilities learnt as well.
Each is the median of five runs over fresh tables; the time of one plain NumPy pass over as many random 32-byte rows is
there for scale.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np

from paramgolf.predict.ngram import NgramPredictor
from paramgolf.predict.ngram_table import count_tokens
from paramgolf.text.sentencepiece_tokenizer import train_sentencepiece
from paramgolf.text.stdlib import standard_library

ASKED = 1_000_000
VOCABULARY = 1024
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    options = parser.parse_args()
    train, _ = standard_library()
    tokenizer = train_sentencepiece(train, VOCABULARY)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < options.tokens:
        document = train.documents[len(parts)]
        parts.append(np.append(tokenizer.encode(document), tokenizer.boundary_id))
    tokens = np.concatenate(parts)[: options.tokens].astype(np.int64)
    print(f"{len(tokens):,} tokens, order {options.order}, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    for name, run in (("look-up and update", plain), ("and learnt escapes", learning)):
        run(tokens[:1000], options.order, tokenizer.boundary_id)
        speeds = [len(tokens) / run(tokens, options.order, tokenizer.boundary_id) for _ in range(RUNS)]
        median = statistics.median(speeds)
        print(f"{name:<20} {median:>12,.0f} tokens/s  ratio to asked {median / ASKED:.2f}  best {max(speeds):,.0f}")
    rows = len(tokens) * (options.order + 1)
    print(f"{'random 32-byte reads':<20} {len(tokens) / random_reads(rows):>12,.0f} tokens/s  (NumPy, for scale)")


def plain(tokens: np.ndarray, order: int, boundary_id: int) -> float:
    """Seconds to find and count every n-gram of `tokens`."""
    predictor = NgramPredictor(order, VOCABULARY, boundary_id, expected_tokens=len(tokens))
    begin = time.perf_counter()
    count_tokens(predictor._table, predictor._used_1, predictor._contexts_BK[0], tokens)
    return time.perf_counter() - begin


def learning(tokens: np.ndarray, order: int, boundary_id: int) -> float:
    """The same with the escapes following the gradient."""
    predictor = NgramPredictor(order, VOCABULARY, boundary_id, expected_tokens=len(tokens))
    begin = time.perf_counter()
    predictor.prime([tokens.astype(np.int32)])
    return time.perf_counter() - begin


def random_reads(count: int) -> float:
    """Seconds to read `count` rows of 32 bytes in random order."""
    table = np.zeros((1 << 22, 8), dtype=np.int32)
    places = np.random.default_rng(0).integers(0, len(table), count)
    begin = time.perf_counter()
    table[places].sum()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
