"""What the three experts of the n-gram tilt are worth in their legal forms, beside the published ones (#2140, 6.3).

    python bench/tilt_experts.py ARTIFACT TEXT [--bytes N] [--chunk 512] [--json]

The model's rows are computed once; every line tilts the same rows, in one lane, with the published thresholds and
boosts. In the legal forms every hint is offered whatever the token is: the within-word hint wherever a word is open,
the word-start hint at every position. "gated" lines are as published: a hint is shown only to targets of its class, so
they are no code lengths, and are marked so. Columns: positions that lean, how often the hint was right there, bits per
byte, and the difference to the model alone (negative is better) with its standard error over documents.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from paramgolf.artifact.open import open_artifact
from paramgolf.exhibits.gated_tilt import GatedTilt
from paramgolf.predict.adapt import build_predictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Chunk, Float64, FullRows, Predictor, Rows
from paramgolf.predict.score_text import encode_documents, first_documents
from paramgolf.predict.tilt import Expert, TiltPredictor
from paramgolf.predict.tilt_counts import ContextHints
from paramgolf.predict.tilt_experts import AGREEMENT, Pieces, within_word_expert, word_start_expert
from paramgolf.referee.paired import paired
from paramgolf.text.documents import read_documents
from paramgolf.text.text import HeldOutText


class RowsOfAll:
    """The rows of one chunk, computed once for all lines."""

    def __init__(self, rows: Rows, chunk: Chunk, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        length = int(chunk.lengths[0])
        if isinstance(rows, FullRows):
            self._table_TV = rows.all_rows(0)
        else:
            self._table_TV = np.stack([rows.row(0, t) for t in range(length)])
        picked_T = self._table_TV[np.arange(length), chunk.tokens[0, :length]]
        self._credits_1T = np.zeros(chunk.tokens.shape)
        self._credits_1T[0, :length] = picked_T

    def realised(self) -> Float64:
        return self._credits_1T

    def row(self, lane: int, position: int) -> Float64:
        return self._table_TV[position]

    def all_rows(self, lane: int) -> Float64:
        return self._table_TV


class Shared:
    """The model as every line sees it."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.rows: RowsOfAll | None = None

    def predict(self, chunk: Chunk) -> RowsOfAll:
        assert self.rows is not None
        return self.rows

    def observe(self, chunk: Chunk) -> None:
        pass


@dataclass
class Line:
    """One predictor over the shared rows, and what it was credited."""

    name: str
    predictor: Predictor
    legal: bool = True
    leaning: int = 0
    right: int = 0


def lines_over(shared: Shared, pieces: Pieces, boundary: int, context: int) -> list[Line]:
    """Fresh experts for every line."""

    def token() -> Expert:
        return Expert(ContextHints(shared.vocab_size, boundary, exact=context), 0.8, 2.625)

    def within(every: bool = False) -> Expert:
        return within_word_expert(pieces, boundary, every=every)

    def start() -> Expert:
        return word_start_expert(pieces)

    def tilt(*makers: Callable[[], Expert]) -> TiltPredictor:
        return TiltPredictor(shared, [make() for make in makers], AGREEMENT)

    return [
        Line("the model alone", shared),
        Line(f"token, {context} tokens", tilt(token)),
        Line("within words, learns what goes on", tilt(within)),
        Line("within words, learns whatever follows", tilt(lambda: within(every=True))),
        Line("word starts", tilt(start)),
        Line("all three", tilt(token, within, start)),
        Line("all three, learns whatever follows", tilt(token, lambda: within(every=True), start)),
        Line("gated: within words", GatedTilt(shared, pieces, within=within()), legal=False),
        Line("gated: word starts", GatedTilt(shared, pieces, start=start()), legal=False),
        Line("gated: all three, as published", _published(shared, pieces, token(), within(), start()), legal=False),
    ]


def _published(shared: Shared, pieces: Pieces, token: Expert, within: Expert, start: Expert) -> GatedTilt:
    return GatedTilt(shared, pieces, token=token, within=within, start=start)


def main() -> None:
    """Walk the text once, print the table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=200_000)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    tokenizer, context = artifact.tokenizer, artifact.recipe.score.tilt_context
    text = first_documents(HeldOutText(options.text.name, read_documents([options.text])), options.bytes)
    tokens = encode_documents(tokenizer, text.documents)
    order = plan([len(ids) for ids in tokens], chunk=options.chunk)
    model, shared = build_predictor(artifact, "none"), Shared(tokenizer.vocab_size)
    lines = lines_over(shared, Pieces.of_tokenizer(tokenizer), tokenizer.boundary_id, context)
    bits: list[list[Float64]] = [[] for _ in lines]
    for chunk in order.chunks(tokens, tokenizer.boundary_id):
        shared.rows = RowsOfAll(model.predict(chunk), chunk, tokenizer.vocab_size)
        for line, spent in zip(lines, bits, strict=True):
            spent.append(-line.predictor.predict(chunk).realised()[chunk.real()] / np.log(2.0))
            if isinstance(line.predictor, TiltPredictor):
                leaning = line.predictor.leaning(chunk, 0)
                line.leaning += leaning.gated
                line.right += int((leaning.hint_T == chunk.tokens[0, : chunk.lengths[0]]).sum())
            line.predictor.observe(chunk)
        model.observe(chunk)
    found = [np.concatenate(spent) for spent in bits]
    show(lines, found, order.document_index(), text, options)


def show(
    lines: list[Line], found: list[Float64], document_N: np.ndarray, text: HeldOutText, options: argparse.Namespace
) -> None:
    """Print what was found."""
    sizes = np.array([len(document) for document in text.documents], dtype=np.int64)
    by_document = [np.bincount(document_N, weights=spent, minlength=len(sizes)) for spent in found]
    records = []
    for line, spent, costs in zip(lines, found, by_document, strict=True):
        gain = paired(costs, by_document[0], sizes)
        record = {"name": line.name, "legal": line.legal, "leaning": line.leaning, "right": line.right}
        records.append(record | {"bpb": float(spent.sum()) / text.size(), "paired": asdict(gain)})
    if options.json:
        print(json.dumps({"text": text.name, "bytes": text.size(), "tokens": len(found[0]), "lines": records}))
        return
    print(f"{text.name}: {text.size():,} bytes, {len(found[0]):,} tokens")
    print("| experts | leaning | right there | BPB | against the model alone | |")
    print("|---|---|---|---|---|---|")
    for one in records:
        leans = f"{one['leaning'] / len(found[0]):.2%}" if one["leaning"] else "-"
        right = f"{one['right'] / one['leaning']:.3f}" if one["leaning"] else "-"
        gain = f"{one['paired']['difference']:+.5f} ± {one['paired']['standard_error']:.5f}"
        print(
            f"| {one['name']} | {leans} | {right} | {one['bpb']:.5f} | {gain} | {'' if one['legal'] else 'no code'} |"
        )


if __name__ == "__main__":
    main()
