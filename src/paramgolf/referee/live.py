"""The live part of a check: the installed code opens the artifact, scores a sample again and probes a predictor."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgolf.errors import ParamgolfError, RunError
from paramgolf.predict.audit_record import GPU_TOLERANCE, TOLERANCE, Tolerance
from paramgolf.predict.audit_time import SLOW_ROW
from paramgolf.predict.orders import processing_order
from paramgolf.predict.plan import Plan, plan
from paramgolf.predict.protocol import Chunk, Int64, Predictor, single_token
from paramgolf.predict.score import score
from paramgolf.predict.score_text import document_hashes, encode_documents
from paramgolf.referee.evidence import Evidence
from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.probe_size import PROBE, SMALL_PROBE, ProbeSize, beginning
from paramgolf.referee.probes import probe_predictor
from paramgolf.referee.rules_artifact import unlike_artifact
from paramgolf.text.text import HeldOutText, digest_documents
from paramgolf.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact

SAMPLE_BYTES = 20_000  # scored again and compared with the recorded bits
SLOW_SAMPLE_BYTES = 4_000  # where a row takes `SLOW_ROW` seconds
BITS_TOLERANCE = 1e-3  # bits a token between two runs of one artifact, on other hardware too
PROBE_ASKS, PROBE_SECONDS = 400, 20.0  # asks of a probe of usual size, and what they may take


@dataclass(frozen=True)
class Subject:
    """What is judged: a tokenizer, lanes, and how predictors for a text of so many tokens are made.

    `fresh` makes one as it scored, `probed` one whose readout is of the probe's `size` (None: `fresh` serves both).
    """

    tokenizer: Tokenizer
    lanes: int
    fresh: Callable[[int], Predictor]
    probed: Callable[[int], Predictor] | None = None
    size: ProbeSize = PROBE
    tolerance: Tolerance = TOLERANCE


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
    """An artifact with an honest adaptation, ready to be probed in the lanes of its recipe; small probes if it is slow.

    The probes shorten the window and the chunks between updates of the weights: they ask hundreds of times, and must
    see what comes after an update.
    """
    from paramgolf.predict.adapt import predictor_maker

    lanes, tokenizer = artifact.recipe.score.lanes, artifact.tokenizer
    size, tolerance = PROBE, TOLERANCE
    if adapt != "ngram-only":
        from paramgolf.ranks import pick_device

        tolerance = GPU_TOLERANCE if pick_device(0).type == "cuda" else TOLERANCE
        alone = predictor_maker(_read_out(artifact, PROBE), "none", lanes=lanes, frames=PROBE.frames)
        size = probe_size(alone(0), lanes)
    return Subject(
        tokenizer,
        lanes,
        predictor_maker(artifact, adapt, lanes=lanes),
        predictor_maker(_read_out(artifact, size), adapt, lanes=lanes, frames=size.frames),
        size,
        tolerance,
    )


def probe_size(predictor: Predictor, lanes: int) -> ProbeSize:
    """The usual probes, or small ones for a predictor that takes long to answer."""
    return SMALL_PROBE if PROBE_ASKS * _seconds_of_an_ask(predictor, lanes, PROBE.chunk) > PROBE_SECONDS else PROBE


def _read_out(artifact: Artifact, size: ProbeSize) -> Artifact:
    recipe = artifact.recipe
    recipe = dataclasses.replace(recipe, score=size.settings(recipe.score))
    return dataclasses.replace(artifact, recipe=recipe)


def _seconds_of_a_row(predictor: Predictor) -> float:
    begin = time.perf_counter()
    predictor.predict(single_token(0, start=True)).row(0, 0)
    return time.perf_counter() - begin


def _seconds_of_an_ask(predictor: Predictor, lanes: int, length: int) -> float:
    """The faster of two: the first may have to warm up."""
    tokens = np.zeros((lanes, length), dtype=np.int64)
    chunk = Chunk(tokens, np.full(lanes, length), np.ones(lanes, dtype=np.bool_))
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        predictor.predict(chunk).realised()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


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
    size = subject.size
    encoded = (encode_documents(subject.tokenizer, [document])[0] for document in documents)
    tokens = beginning(encoded, size.tokens, subject.lanes, len(documents))
    lengths = [len(ids) for ids in tokens]
    count = plan(lengths, lanes=subject.lanes, chunk=size.chunk).token_count

    def make(_: Sequence[Int64]) -> Predictor:
        return (subject.probed or subject.fresh)(count)

    return probe_predictor(
        make,
        tokens,
        lanes=subject.lanes,
        chunk=size.chunk,
        boundary_id=subject.tokenizer.boundary_id,
        seed=seed,
        positions=size.positions,
        counterfactuals=size.counterfactuals,
        candidates=size.candidates,
        decoded_tokens=size.decoded,
        tolerance=subject.tolerance,
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
    """Bits of the documents that were scored first, once more; nothing for several lanes."""
    if found.arrays is None or found.plan is None or found.plan.lanes * subject.lanes != 1:
        return ()
    predictor = subject.fresh(found.plan.token_count)
    most = SLOW_SAMPLE_BYTES if _seconds_of_a_row(predictor) > SLOW_ROW else SAMPLE_BYTES
    chosen = _scored_first(found.plan, text, most)
    documents = [text.documents[index] for index in chosen]
    tokens = encode_documents(subject.tokenizer, documents)
    if [len(ids) for ids in tokens] != [int(found.plan.lengths[index]) for index in chosen]:
        says = "the artifact's tokenizer cuts the text into other tokens than those that were scored."
        return (Finding("reproducible", "FAIL", says),)
    size = sum(map(len, documents))
    if size > most:
        tokens = [tokens[0][: max(1, len(tokens[0]) * most // size)]]  # one document, longer than the sample
    # In their own order these documents come as the plan has them; what follows the cut has no part in their bits.
    again = score(
        predictor,
        tokens,
        plan([len(ids) for ids in tokens], chunk=found.plan.chunk),
        subject.tokenizer.boundary_id,
        raw_bytes=max(size, 1),
        text_digest=text.digest,
        audit_positions=2,
        seed=seed,
    )
    count = again.tokens - int(size > most)  # a cut document has no end to compare
    worst = float(np.abs(again.bits[:count] - found.arrays["bits"][:count]).max(initial=0.0))
    numbers: Numbers = {"tokens_again": count, "max_bits_difference": worst}
    if not worst <= BITS_TOLERANCE:
        says = f"scored again, the first {count:,} tokens cost up to {worst:.3g} bits more or less than recorded."
        return (Finding("reproducible", "FAIL", says, numbers),)
    says = f"Scored again, the first {count:,} tokens cost what was recorded (to {worst:.1g} bits)."
    return (Finding("reproducible", "PASS", says, numbers),)


def _scored_first(order: Plan, text: HeldOutText, most: int) -> list[int]:
    """The documents that one lane scored first, at most `most` bytes of them, or one."""
    chosen: list[int] = []
    for index in processing_order(order.order, order.lengths).tolist():
        most -= len(text.documents[index])
        if chosen and most < 0:
            break
        chosen.append(index)
    return chosen
