"""The live part of a check: the installed code opens the artifact, scores a sample again and probes a predictor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgolf.errors import ParamgolfError, RunError
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Int64, Predictor
from paramgolf.predict.score import score
from paramgolf.predict.score_text import document_hashes, encode_documents, first_documents
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.probes import probe_predictor
from paramgolf.referee.rules_artifact import unlike_artifact
from paramgolf.text.text import HeldOutText, digest_documents
from paramgolf.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact

SAMPLE_BYTES = 20_000  # scored again and compared with the recorded bits
PROBE_TOKENS = 1_500
PROBE_CHUNK = 128
PROBE_FRAMES = 2  # a chunk of 128 tokens touches no more, and every ask computes them all
# Some 400 asks are some ten seconds on one core.
PROBE_POSITIONS = 24
PROBE_COUNTERFACTUALS = 2
PROBE_DECODED = 64
BITS_TOLERANCE = 1e-3  # bits a token between two runs of one artifact, on other hardware too


@dataclass(frozen=True)
class Subject:
    """What is probed: a tokenizer, the lanes it was scored in, how a fresh predictor is made, and fed in probes."""

    tokenizer: Tokenizer
    lanes: int
    fresh: Callable[[], Predictor]
    probe_chunk: int = PROBE_CHUNK


def live_findings(found: Evidence, text: HeldOutText) -> tuple[Finding, ...]:
    """Findings of running the artifact on `text`; none if there is no artifact to run.

    Raises `RunError` if a score is recorded and `text` is not what was scored (nor begins with it).
    """
    from paramgolf.artifact.open import open_artifact

    path = found.artifact_path()
    if path is None or "model.pyz" in found.problems:
        return ()
    try:
        artifact = open_artifact(path)
    except ParamgolfError as error:
        return (Finding("reproducible", "FAIL", f"the artifact does not open: {error}."),)
    settings = artifact.recipe.score
    unlike = unlike_artifact(found, settings)
    if unlike:
        return (Finding("reproducible", "FAIL", unlike),)
    adapt = str((found.score or {}).get("adapt") or settings.adapt)
    return judge_live(found, subject_of(artifact, adapt), text, int.from_bytes(os.urandom(6), "little"))


def subject_of(artifact: Artifact, adapt: str) -> Subject:
    """An artifact with an honest adaptation, ready to be probed in the lanes of its recipe."""
    from paramgolf.predict.adapt import predictor_maker

    settings = artifact.recipe.score
    fresh = predictor_maker(artifact, adapt, lanes=settings.lanes, frames=PROBE_FRAMES)
    # With one lane no chunk may straddle an update of the weights.
    chunk = math.gcd(PROBE_CHUNK, settings.ttt_chunk) if adapt.startswith("ttt") else PROBE_CHUNK
    return Subject(artifact.tokenizer, settings.lanes, fresh, chunk)


def judge_live(found: Evidence, subject: Subject, text: HeldOutText, seed: int) -> tuple[Finding, ...]:
    """The denominator, a sample scored again, and the probes; `seed` must be unknown to the predictor."""
    scored = _scored_text(found, text)
    return (
        *_denominator(found, scored),
        *_separation(found, scored),
        *_scored_again(found, subject, scored, seed),
        *probe_subject(subject, scored.documents, seed),
    )


def probe_subject(subject: Subject, documents: Sequence[bytes], seed: int) -> list[Finding]:
    """The live probes on fresh predictors, over the first tokens of the documents."""
    tokens, left = [], PROBE_TOKENS
    for document in documents:
        tokens.append(np.asarray(encode_documents(subject.tokenizer, [document])[0][:left], dtype=np.int64))
        left -= len(tokens[-1])
        if left <= 0:
            break

    def make(_: Sequence[Int64]) -> Predictor:
        return subject.fresh()

    return probe_predictor(
        make,
        tokens,
        lanes=subject.lanes,
        chunk=subject.probe_chunk,
        boundary_id=subject.tokenizer.boundary_id,
        seed=seed,
        positions=PROBE_POSITIONS,
        counterfactuals=PROBE_COUNTERFACTUALS,
        decoded_tokens=PROBE_DECODED,
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
    numbers: Numbers = {"bytes": str(claimed)[:40], "text_bytes": text.size()}
    if claimed != text.size():
        says = f"score.json divides by {claimed} bytes, the text that was given has {text.size():,}."
        return (Finding("bytes", "FAIL", says, numbers),)
    return (Finding("bytes", "PASS", "The text that was given has as many.", numbers),)


def _separation(found: Evidence, text: HeldOutText) -> tuple[Finding, ...]:
    """The documents that were given, not their recorded hashes, against those of the training documents."""
    if found.train_hashes is None:
        return ()
    hashes = document_hashes(text.documents)
    shared = int((np.isin(hashes, found.train_hashes) & (hashes != 0)).sum())
    if not shared:
        return ()
    says = f"{shared:,} of the {len(hashes):,} documents that were given were trained on."
    return (Finding("data-separation", "FAIL", says, {"shared_documents": shared}),)


def _scored_again(found: Evidence, subject: Subject, text: HeldOutText, seed: int) -> tuple[Finding, ...]:
    """Bits of the first documents once more; nothing for several lanes, where a sample takes another order."""
    if found.arrays is None or found.plan is None or found.plan.lanes * subject.lanes != 1:
        return ()
    try:
        sample = first_documents(text, SAMPLE_BYTES)
    except ParamgolfError:
        sample = HeldOutText(f"{text.name} (beginning)", [text.documents[0]])
    tokens = encode_documents(subject.tokenizer, sample.documents)
    lengths = [len(ids) for ids in tokens]
    if lengths != found.plan.lengths[: len(lengths)].tolist():
        says = "the artifact's tokenizer cuts the text into other tokens than those that were scored."
        return (Finding("reproducible", "FAIL", says),)
    again = score(
        subject.fresh(),
        tokens,
        plan(lengths, chunk=found.plan.chunk),
        subject.tokenizer.boundary_id,
        raw_bytes=sample.size(),
        text_digest=sample.digest,
        audit_positions=2,
        seed=seed,
    )
    recorded = found.arrays["bits"][: again.tokens]
    worst = float(np.abs(again.bits - recorded).max(initial=0.0))
    numbers: Numbers = {"tokens_again": again.tokens, "max_bits_difference": worst}
    if not worst <= BITS_TOLERANCE:
        says = (
            f"scored again, the first {again.tokens:,} tokens cost up to {worst:.3g} bits more or less than recorded."
        )
        return (Finding("reproducible", "FAIL", says, numbers),)
    says = f"Scored again, the first {again.tokens:,} tokens cost what was recorded (to {worst:.1g} bits)."
    return (Finding("reproducible", "PASS", says, numbers),)
