"""What each step of a system is worth on one run: from the last weights to the score with test-time training.

    python bench/system_table.py RUN TEXT [--bytes N] [--json]

RUN is a folder that `paramgolf train` has finished. Every line is scored on the first whole documents of TEXT (at most
N bytes), each token once, audited:

    plain      the averaged weights in float32, windows that do not overlap; "live" before averaging
    sliding    the same weights with the recipe's stride
    squeezed   the weights of model.pyz
    ttt        those, learning from each chunk once it is scored

With the last line goes a paired comparison over documents with the one before it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.cli.life import ARTIFACT, averaged_weights
from paramgolf.model.banks import unbank
from paramgolf.predict.score_text import score_text
from paramgolf.referee.paired import paired_scores
from paramgolf.run_folder import RunFolder
from paramgolf.text.documents import read_documents
from paramgolf.text.text import HeldOutText
from paramgolf.train.checkpoint import CHECKPOINT, load_checkpoint


def lines_of(run: Path) -> list[tuple[str, Artifact, str]]:
    """Name, artifact and adaptation of each line."""
    folder = RunFolder.resume(run)
    packed = open_artifact(folder.path / ARTIFACT)
    tensors = load_checkpoint(folder.path / CHECKPOINT)[0]
    live = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    last = {name: value.float().numpy() for name, value in unbank(live).items()}
    score = packed.recipe.score
    chunk = max(1, score.chunk // score.window) * score.window
    apart = dataclasses.replace(packed.recipe, score=dataclasses.replace(score, stride=score.window, chunk=chunk))
    averaged = averaged_weights(tensors)
    return [
        ("plain, live weights", dataclasses.replace(packed, recipe=apart, weights=last), "none"),
        ("plain", dataclasses.replace(packed, recipe=apart, weights=averaged), "none"),
        (f"sliding, stride {score.stride}", dataclasses.replace(packed, weights=averaged), "none"),
        ("squeezed, plain", dataclasses.replace(packed, recipe=apart), "none"),
        (f"squeezed, stride {score.stride}", packed, "none"),
        ("squeezed, test-time training", packed, "ttt"),
    ]


def main() -> None:
    """Score every line, print the table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    text = HeldOutText(options.text.name, read_documents([options.text]))
    scores = []
    for name, artifact, adapt in lines_of(options.run):
        found = score_text(artifact, text, adapt, limit=options.bytes, audit_positions=8)
        if not found.audit.passed():
            raise SystemExit(f"the audit of {name!r} failed")
        scores.append((name, found))
        print(f"{name:<32}{found.bpb:>9.4f} bits per byte{found.seconds:>9.1f} s", file=sys.stderr, flush=True)
    size = (options.run / ARTIFACT).stat().st_size
    gain = paired_scores([scores[-1][1]], [scores[-2][1]])
    first = scores[0][1]
    record = {
        "text": first.text_name,
        "bytes": first.bytes,
        "tokens": first.tokens,
        "artifact_bytes": size,
        "lines": [{"name": name, "bpb": found.bpb, "seconds": found.seconds} for name, found in scores],
        "ttt": dataclasses.asdict(gain),
    }
    if options.json:
        print(json.dumps(record))
        return
    print(f"{first.text_name}: {first.bytes:,} bytes, {first.tokens:,} tokens; artifact {size:,} bytes")
    for name, found in scores:
        print(f"| {name} | {found.bpb:.4f} | {found.seconds:.0f} |")
    print(
        f"test-time training saves {-gain.difference:.4f} bits per byte, standard error {gain.standard_error:.4f}, "
        f"better on {gain.better} of {gain.documents} documents, p {gain.p:.2g}"
    )


if __name__ == "__main__":
    main()
