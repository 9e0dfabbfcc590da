"""The mass that hashed n-gram caches give to a vocabulary: a distribution has 1.

    python bench/hashed_mass.py [--tokens N] [--fills 0.001,0.01,0.05] [--family NAME] [--corpus FILE.jsonl] [--json]
    python bench/hashed_mass.py --tables order5

Each published family (primes, orders, rule; 2^22 buckets an order) counts a stream, and is then asked for all V tokens
after contexts that the stream does not hold, with a model that knows nothing. Printed: buckets of the highest order in
use, the mean order that answers, mean and largest sum of the ratios, the sum of the mixture, and the mean cost of
a uniform random token, of which none can cost less than ln V on average if the sum were one.

The stream is uniform random tokens, N of them at fill 1 (7,752,704 is one rank's share of the contest's validation
text), or with --corpus the published token ids of documents. --tables order5 is another question: one order, ids with
Zipf's frequencies, 15.3 events a bucket (spec pr1185.md 4.7).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from paramgolf.exhibits.hashed_tables import FIVE, PR727, PR887, PR1430, HashedFamily, HashedTables

VOCAB = 1024
RANK = 7_752_704
FAMILIES = {
    "#727": PR727,
    "#887": PR887,
    "#727, add-one": dataclasses.replace(PR727, add_one=True),
    "#1430": PR1430,
}


def counted(family: HashedFamily, tokens: np.ndarray) -> HashedTables:
    """Tables that counted a stream."""
    tables = HashedTables(family, VOCAB)
    size = max(family.orders) - 1
    before = np.full(size, -1)
    tables.count(np.concatenate([before, tokens])[None, :], np.ones((1, len(tokens)), dtype=np.bool_))
    return tables


def measured(tables: HashedTables, contexts: np.ndarray) -> dict[str, float]:
    """Sums over the vocabulary after `contexts` [N, K], with a uniform model."""
    family = tables.family
    size = max(family.orders) - 1
    alpha = float(family.alpha(np.array(np.log(VOCAB))))
    sums, mixed, cost, orders = [], [], [], []
    for context in contexts:
        said, order = tables.ratios(np.concatenate([context[-size:], [0]])[None, :], size)
        weight = alpha if order[0, 0] > 0 else 0.0
        row = np.maximum((1 - weight) / VOCAB + weight * said[0, 0], 1e-12)
        sums.append(said[0, 0].sum())
        mixed.append(row.sum())
        cost.append(-np.log(row).mean())
        orders.append(order[0, 0])
    return {
        "occupied": float((tables.context[-1] > 0).mean()),
        "order": float(np.mean(orders)),
        "sum_mean": float(np.mean(sums)),
        "sum_max": float(np.max(sums)),
        "mixture_mean": float(np.mean(mixed)),
        "nats": float(np.mean(cost)),
    }


def order_five(buckets: int, contexts: int, load: float) -> list[dict[str, object]]:
    """One table of order 5 under Zipf's ids: sums of ratios and of add-one after seen contexts."""
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, VOCAB + 1)
    ids = rng.choice(VOCAB, size=int(load * buckets), p=weights / weights.sum())
    lines = []
    for name, add_one in (("ratio", False), ("add-one", True)):
        family = HashedFamily((5,), FIVE, buckets, min_count=1, add_one=add_one)
        begins = rng.integers(0, len(ids) - 4, contexts)
        found = measured(counted(family, ids), ids[begins[:, None] + np.arange(4)])
        lines.append({"family": f"order 5, {name}", "stream": f"Zipf, load {load:g}", "tokens": len(ids), **found})
    return lines


def by_fill(families: list[str], streams: dict[str, np.ndarray], asked: int) -> list[dict[str, object]]:
    """A line for each family and stream."""
    lines = []
    contexts = np.random.default_rng(1).integers(0, VOCAB, (asked, 21))
    for family_name in families:
        for stream_name, tokens in streams.items():
            begin = time.perf_counter()
            found = measured(counted(FAMILIES[family_name], tokens), contexts)
            seconds = time.perf_counter() - begin
            lines.append(
                {"family": family_name, "stream": stream_name, "tokens": len(tokens), **found, "seconds": seconds}
            )
    return lines


def corpus_tokens(path: Path) -> np.ndarray:
    """The published token ids of the documents, one after the other."""
    from paramgolf.text.tokenizer import load_tokenizer

    model = path.parent.parent / "tokenizers" / "fineweb_1024_bpe.model"
    tokenizer = load_tokenizer(model)
    texts = [json.loads(line)["text"].encode() for line in path.read_text(encoding="utf-8").splitlines()]
    return np.concatenate([np.asarray(tokenizer.encode(text)) for text in texts])


def main() -> None:
    """Count, ask, print one table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=RANK)
    parser.add_argument("--fills", default="0.001,0.01,0.05")
    parser.add_argument("--family", choices=list(FAMILIES), help="one alone, such as '#1430'")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--tables", choices=["families", "order5"], default="families")
    parser.add_argument("--buckets", type=int, default=1 << 18, help="of --tables order5")
    parser.add_argument("--load", type=float, default=15.3, help="events a bucket of --tables order5")
    parser.add_argument("--contexts", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.tables == "order5":
        lines = order_five(options.buckets, options.contexts, options.load)
    else:
        noise = np.random.default_rng(1234).integers(0, VOCAB, options.tokens)
        fills = [float(word) for word in options.fills.split(",") if word]
        streams = {f"uniform, {fill:g}": noise[: int(fill * options.tokens)] for fill in fills}
        if options.corpus is not None:
            streams["corpus"] = corpus_tokens(options.corpus)
        lines = by_fill([options.family] if options.family else list(FAMILIES), streams, options.contexts)
    if options.json:
        print(json.dumps({"vocab_size": VOCAB, "floor": float(np.log(VOCAB)), "lines": lines}))
        return
    print("| family | stream | tokens | buckets in use | order | sum | largest sum | mixture | nats (floor 6.931) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            "| {family} | {stream} | {tokens:,} | {occupied:.1%} | {order:.2f} | {sum_mean:.2f} | {sum_max:.1f} "
            "| {mixture_mean:.2f} | {nats:.3f} |".format(**line)
        )


if __name__ == "__main__":
    main()
