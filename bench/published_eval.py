"""Our bits per byte beside the published form of the evaluation of PR #549, for one artifact and one text.

    python bench/published_eval.py RUN_OR_ARTIFACT TEXT [--limit BYTES] [--json]

The published rule scores one stream `BOS doc BOS doc ...` of which the first token is no target, counts the last
`stride` targets of the text `window / stride` times, and divides by the bytes of a look-up table; ours credits every
token once and divides by the bytes of the raw text. Rows: plain (sequences side by side), sliding as published, sliding
with every target once, test-time training by the published rule with 0 epochs and with the recipe's, and the scores of
this project, `none` and `ttt`. Spec pr549.md 5.1, 5.3, 5.4, 7-B6, 7-B7.

Expectation: the tail moves the contest's 62 million tokens in the fifth digit, and a text of a few thousand tokens in
the second; what test-time training gains has the same sign in both forms.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.cli.arguments import byte_count
from paramgolf.cli.held_out import held_out_text
from paramgolf.model.gpt import GPT
from paramgolf.predict.contest import contest_bpb
from paramgolf.predict.contest_eval import ContestFigure, plain_evaluation, sliding_evaluation, ttt_evaluation
from paramgolf.predict.score_text import encode_documents, first_documents, score_text
from paramgolf.ranks import pick_device
from paramgolf.text.byte_table import contest_byte_table
from paramgolf.text.text import HeldOutText


def published(artifact: Artifact, text: HeldOutText) -> dict[str, ContestFigure]:
    """The figures by the published rules."""
    recipe, tokenizer = artifact.recipe, artifact.tokenizer
    settings, table = recipe.score, contest_byte_table(tokenizer)
    boundary = np.array([tokenizer.boundary_id])
    documents = encode_documents(tokenizer, text.documents)
    tokens = np.concatenate([part for ids in documents for part in (boundary, ids)]).astype(np.int64)
    model = GPT(recipe.model, tokenizer.vocab_size, boundary_id=tokenizer.boundary_id)
    model.load_exported(artifact.weights)
    model = model.to(pick_device(0)).eval()
    window, stride = settings.window, settings.stride
    return {
        "plain": plain_evaluation(model, tokens, table, window),
        "sliding": sliding_evaluation(model, tokens, table, window, stride),
        "sliding, every target once": sliding_evaluation(model, tokens, table, window, stride, exact=True),
        "ttt, 0 epochs": ttt_evaluation(model, tokens, table, settings, epochs=0),
        f"ttt, {settings.ttt_epochs} epochs": ttt_evaluation(
            model, tokens, table, settings, epochs=settings.ttt_epochs
        ),
    }


def main() -> None:
    """Measure both forms and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, metavar="RUN_OR_ARTIFACT")
    parser.add_argument("text", type=Path)
    parser.add_argument("--limit", type=byte_count)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = options.artifact / "model.pyz" if options.artifact.is_dir() else options.artifact
    artifact = open_artifact(path)
    text = held_out_text(options.text, artifact.tokenizer)
    text = text if options.limit is None else first_documents(text, options.limit)
    rows = {
        f"published: {name}": dataclasses.asdict(figure) | {"bpb": figure.bpb}
        for name, figure in published(artifact, text).items()
    }
    table, documents = contest_byte_table(artifact.tokenizer), encode_documents(artifact.tokenizer, text.documents)
    for adapt in ("none", "ttt"):
        found = score_text(artifact, text, adapt)
        contest = contest_bpb(found, documents, table, artifact.tokenizer.boundary_id)
        loss = {"loss": found.nats_per_token, "positions": found.tokens}
        rows[f"ours: {adapt}"] = {**loss, "bytes": found.bytes, "bpb": found.bpb}
        rows[f"ours: {adapt}, contest's bytes"] = {**loss, "bytes": contest.bytes, "bpb": contest.bpb}
    if options.json:
        print(json.dumps({"artifact": str(path), "text": text.name, "rows": rows}))
        return
    print(f"{path}, {text.name}: {text.size():,} bytes, window {artifact.recipe.score.window}")
    for name, row in rows.items():
        print(f"{name:40} {row['bpb']:.6f} bpb  {row['loss']:.6f} nats/token  {row['positions']:,} / {row['bytes']:,}")


if __name__ == "__main__":
    main()
