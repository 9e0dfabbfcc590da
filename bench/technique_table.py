"""What each way of adapting is worth on one artifact: published and strict, with the audit's verdict.

    python bench/technique_table.py ARTIFACT TEXT [--bytes N] [--only NAME,NAME] [--json FILE] [--score.FIELD VALUE...]

Every name that `paramgolf score --help` lists is scored on the first whole documents of TEXT (at most N bytes), audited
and probed as `score` does it. Honest scores are compared with the plain window over pairs of documents (mean of the
saved bits per byte weighted by bytes, its standard error, the p of a permutation). Exhibits run in two lanes around the
plain window; what they print is not a score, and no test can make it one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.cli.adapt_names import adapt_names
from paramgolf.cli.judge import EXHIBIT, Judged, judge
from paramgolf.cli.overrides import add_recipe_flags, override
from paramgolf.predict.evaluation import Evaluation
from paramgolf.predict.score import Score
from paramgolf.predict.score_text import first_documents
from paramgolf.recipe import ScoreRecipe
from paramgolf.referee.paired import paired_scores
from paramgolf.text.documents import read_documents
from paramgolf.text.text import HeldOutText

PLAIN = "none"
# The published settings of one technique each, beside the recipe's.
TTT_1430 = {"ttt_optimizer": "adamw", "ttt_lr": 1e-3, "ttt_least_lr": 1e-4}
PUBLISHED: dict[str, dict[str, Any]] = {
    "ttt": TTT_1430,
    "ttt-slot": TTT_1430,
    "ttt-ngram": TTT_1430,
    "ttt-normcache": {**TTT_1430, "ngram_order": 8},
    "ttt-slot-backoff": {**TTT_1430, "ngram_order": 21},
    "slot-backoff": {"ngram_order": 21},
    "laplace": {"ngram_order": 8, "ngram_lag": 32_768, "alpha_base": 0.08, "alpha_range": 0.65, "alpha_centre": 3.5},
    "normcache": {"ngram_order": 8},
    "gated-normcache": {"ngram_order": 8},
    "backoff": {"ngram_order": 21},
    "learnt-backoff": {"ngram_order": 21},
    "discounting": {"ngram_order": 21},
}


def settings(artifact: Artifact, name: str) -> Artifact:
    """The artifact with the published numbers of one technique."""
    score: ScoreRecipe = dataclasses.replace(artifact.recipe.score, **PUBLISHED.get(name, {}))
    return dataclasses.replace(artifact, recipe=dataclasses.replace(artifact.recipe, score=score))


def line_of(name: str, judged: Judged, plain: Score, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    broken = [finding.rule for finding in judged.verdict.findings if finding.status == "FAIL"]
    unproven = [finding.rule for finding in judged.verdict.findings if finding.status == "UNPROVEN"]
    record: dict[str, Any] = {"name": name, "seconds": seconds, "broken": broken, "unproven": unproven}
    found = judged.score
    record["bpb"] = None if found is None else found.bpb
    record["bpb_change"] = None if found is None else found.bpb - plain.bpb
    if found is not None and name != PLAIN and not name.startswith(EXHIBIT):
        record["paired"] = dataclasses.asdict(paired_scores([found], [plain]))
    return record


def markdown(record: dict[str, Any]) -> str:
    """The line as a row: name, bits per byte, change, test, verdict, seconds."""
    pair = record.get("paired")
    bpb = "refused" if record["bpb"] is None else f"{record['bpb']:.4f}"
    change = "" if record["bpb"] is None else f"{record['bpb_change']:+.4f}"
    test = ""
    if pair is not None:
        test = f"± {pair['standard_error']:.4f}, better on {pair['better']} of {pair['documents']}, p = {pair['p']:.2g}"
    verdict = "legal" if not record["broken"] + record["unproven"] else f"breaks {', '.join(record['broken'])}"
    if not record["broken"] and record["unproven"]:
        verdict = f"unproven: {', '.join(record['unproven'])}"
    return f"| {record['name']} | {bpb} | {change} | {test} | {verdict} | {record['seconds']:.0f} |"


def main() -> None:
    """Score every name, print the table as it grows, keep the numbers if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=150_000)
    parser.add_argument("--only", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    add_recipe_flags(parser, ("score",))
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    artifact = dataclasses.replace(artifact, recipe=override(artifact.recipe, options))
    text = first_documents(HeldOutText(options.text.name, read_documents([options.text])), options.bytes)
    names = [PLAIN, *(name for name in options.only.split(",") if name and name != PLAIN)]
    if not options.only:
        names = [PLAIN, *(name for name in adapt_names() if name != PLAIN)]
    size = options.artifact.stat().st_size
    print(f"{text.name}: {len(text.documents)} documents, {text.size():,} bytes; artifact {size:,} bytes")
    print("| adaptation | bits per byte | against none | paired over documents | audit | seconds |")
    print("|---|---|---|---|---|---|")
    plain: Score | None = None
    lines = []
    for name in names:
        begin = time.perf_counter()
        judged = judge(settings(artifact, name), text, name, evaluation=None if ":" in name else Evaluation())
        if plain is None:
            plain = judged.score
            if plain is None:
                sys.exit("the plain window was refused")
        lines.append(line_of(name, judged, plain, time.perf_counter() - begin))
        print(markdown(lines[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"bytes": text.size(), "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
