"""The live part of a check: the installed code opens the artifact, scores a sample again and probes a predictor."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.artifact.open import open_artifact
from paramgolf.errors import ParamgolfError, RunError
from paramgolf.predict.adapt import ADAPTATIONS, build_predictor
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Int64, Predictor
from paramgolf.predict.score import score
from paramgolf.predict.score_text import encode_documents, first_documents
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding
from paramgolf.referee.probes import probe_predictor
from paramgolf.text.text import HeldOutText, digest_documents

SAMPLE_BYTES = 20_000  # scored again and compared with the recorded bits
PROBE_TOKENS = 1_500
PROBE_CHUNK = 128
BITS_TOLERANCE = 1e-3  # bits a token between two runs of one artifact, on other hardware too


def live_findings(found: Evidence, text: HeldOutText, *, seed: int | None = None) -> tuple[Finding, ...]:
    """Findings of running the artifact on `text`; none if there is no artifact to run.

    Raises `RunError` if a score is recorded and `text` is not what was scored (nor begins with it).
    """
    path = found.artifact_path()
    if path is None or "model.pyz" in found.problems:
        return ()
    scored = _scored_text(found, text)
    try:
        artifact = open_artifact(path)
    except ParamgolfError as error:
        return (Finding("reproducible", "FAIL", f"the artifact does not open: {error}."),)
    adapt = str((found.score or {}).get("adapt") or artifact.recipe.score.adapt)
    if adapt not in ADAPTATIONS:
        says = f"the score was made with {adapt!r}, which is no honest adaptation ({', '.join(ADAPTATIONS)})."
        return (Finding("reproducible", "FAIL", says),)
    seed = int.from_bytes(os.urandom(6), "little") if seed is None else seed
    return (
        *_denominator(found, scored),
        *_scored_again(found, artifact, adapt, scored, seed),
        *probe_artifact(artifact, adapt, scored.documents, seed),
    )


def probe_artifact(artifact: Artifact, adapt: str, documents: Sequence[bytes], seed: int) -> list[Finding]:
    """The live probes on a fresh predictor of the artifact, over the first tokens of the documents."""
    lanes = artifact.recipe.score.lanes
    tokens, left = [], PROBE_TOKENS
    for ids in encode_documents(artifact.tokenizer, documents[: PROBE_TOKENS + 1]):
        tokens.append(np.asarray(ids[:left], dtype=np.int64))
        left -= len(tokens[-1])
        if left <= 0:
            break

    def make(_: Sequence[Int64]) -> Predictor:
        return build_predictor(artifact, adapt, lanes=lanes)

    return probe_predictor(
        make, tokens, lanes=lanes, chunk=PROBE_CHUNK, boundary_id=artifact.tokenizer.boundary_id, seed=seed
    )


def _scored_text(found: Evidence, text: HeldOutText) -> HeldOutText:
    """The part of `text` that was scored: all of it, or its first documents."""
    digest = found.text_digest()
    if not digest or digest == text.digest:
        return text
    count = len(found.arrays["lengths"]) if found.arrays is not None else 0
    if 0 < count < len(text.documents) and digest_documents(text.documents[:count]) == digest:
        return HeldOutText(f"{text.name} (first {count} documents)", list(text.documents[:count]), digest)
    raise RunError(f"the recorded score is of a text {digest[:12]}..., not of {text.name!r} ({text.digest[:12]}...)")


def _denominator(found: Evidence, text: HeldOutText) -> tuple[Finding, ...]:
    claimed = (found.score or {}).get("bytes")
    if claimed is None:
        return ()
    numbers = {"bytes": str(claimed)[:40], "text_bytes": text.size()}
    if claimed != text.size():
        says = f"score.json divides by {claimed} bytes, the text that was given has {text.size():,}."
        return (Finding("bytes", "FAIL", says, numbers),)
    return (Finding("bytes", "PASS", "The text that was given has as many.", numbers),)


def _scored_again(found: Evidence, artifact: Artifact, adapt: str, text: HeldOutText, seed: int) -> tuple[Finding, ...]:
    """Bits of the first documents once more; nothing for several lanes, where a sample takes another order."""
    if found.arrays is None or found.plan is None or found.plan.lanes != 1:
        return ()
    try:
        sample = first_documents(text, SAMPLE_BYTES)
    except ParamgolfError:
        sample = HeldOutText(f"{text.name} (beginning)", [text.documents[0]])
    tokens = encode_documents(artifact.tokenizer, sample.documents)
    lengths = [len(ids) for ids in tokens]
    if lengths != found.plan.lengths[: len(lengths)].tolist():
        says = "the artifact's tokenizer cuts the text into other tokens than those that were scored."
        return (Finding("reproducible", "FAIL", says),)
    again = score(
        build_predictor(artifact, adapt, lanes=1),
        tokens,
        plan(lengths, chunk=found.plan.chunk),
        artifact.tokenizer.boundary_id,
        raw_bytes=sample.size(),
        text_digest=sample.digest,
        audit_positions=2,
        seed=seed,
    )
    recorded = found.arrays["bits"][: again.tokens]
    worst = float(np.abs(again.bits - recorded).max(initial=0.0))
    numbers: dict[str, float | int | str] = {"tokens_again": again.tokens, "max_bits_difference": worst}
    if not worst <= BITS_TOLERANCE:
        says = (
            f"scored again, the first {again.tokens:,} tokens cost up to {worst:.3g} bits more or less than recorded."
        )
        return (Finding("reproducible", "FAIL", says, numbers),)
    says = f"Scored again, the first {again.tokens:,} tokens cost what was recorded (to {worst:.1g} bits)."
    return (Finding("reproducible", "PASS", says, numbers),)
