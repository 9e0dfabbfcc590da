"""What the order of documents is worth, and what telling it costs: one artifact, one text, several orders.

    python bench/document_orders.py ARTIFACT TEXT [--bytes N] [--adapt tilt] [--lanes 8] [--json]

Every line scores the first whole documents of TEXT (at most N bytes) in the same lanes. Classes are those of the
contest's dispute (V12 of the notes on its rules): "stream" as the text has them, "permuted-stateless" where no credit
depends on the documents before, "permuted-stateful" where it does. Columns: bits of the tokens; bits that tell a
decoder the lengths, and with them the order; what naming the permutation alone would take (at most log2 D!), which the
contest does not charge; bits per byte with everything charged, and as the contest counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.predict.orders import ORDERS, carries, order_class
from paramgolf.predict.score import Score
from paramgolf.predict.score_text import score_text
from paramgolf.referee.paired import paired_scores
from paramgolf.text.documents import read_documents
from paramgolf.text.text import HeldOutText


def line_of(artifact: Artifact, text: HeldOutText, adapt: str, order: str, options: argparse.Namespace) -> Score:
    """One line's score; an audit that fails ends the bench."""
    settings = dataclasses.replace(artifact.recipe.score, order=order, lanes=options.lanes, adapt=adapt)
    changed = dataclasses.replace(artifact, recipe=dataclasses.replace(artifact.recipe, score=settings))
    found = score_text(changed, text, adapt, limit=options.bytes, audit_positions=8)
    if not found.audit.passed():
        raise SystemExit(f"the audit of {adapt!r}, {order}, failed")
    return found


def record_of(found: Score, artifact: Artifact, order: str) -> dict[str, Any]:
    """What a line shows."""
    carried = carries(found.adapt, artifact.recipe.score, found.plan.lanes)
    bits = float(found.bits.sum())
    return {
        "order": order,
        "class": order_class(order, carries=carried),
        "adapt": found.adapt,
        "token_bits": bits,
        "side_bits": found.side_bits,
        "permutation_bits": found.plan.permutation_bits,
        "bpb": found.bpb,
        "contest_bpb": bits / found.bytes,
        "seconds": found.seconds,
    }


def main() -> None:
    """Score every line, print the table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--adapt", default="tilt", help="what carries state from document to document")
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    text = HeldOutText(options.text.name, read_documents([options.text]))
    scores, lines = [], []
    for adapt in ("none", options.adapt):
        for order in ORDERS:
            scores.append(line_of(artifact, text, adapt, order, options))
            lines.append(record_of(scores[-1], artifact, order))
            print(f"{adapt:<12} {order:<14} {scores[-1].bpb:.5f}", file=sys.stderr, flush=True)
    first, gain = scores[0], paired_scores([scores[-1]], [scores[-2]])
    if options.json:
        print(json.dumps({"text": first.text_name, "bytes": first.bytes, "lanes": options.lanes, "lines": lines}))
        return
    print(f"{first.text_name}: {len(first.plan.lengths):,} documents, {first.bytes:,} bytes, {options.lanes} lanes")
    print("| adapt | order | class | bits of tokens | side bits | naming the order | BPB | contest's BPB | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in lines:
        print(
            f"| {one['adapt']} | {one['order']} | {one['class']} | {one['token_bits']:,.0f} | {one['side_bits']:,} | "
            f"{one['permutation_bits']:,.0f} | {one['bpb']:.5f} | {one['contest_bpb']:.5f} | {one['seconds']:.0f} |"
        )
    print(
        f"{options.adapt}, longest first against the stream's order: {gain.difference:+.5f} bits per byte, standard "
        f"error {gain.standard_error:.5f}, p {gain.p:.2g}"
    )


if __name__ == "__main__":
    main()
