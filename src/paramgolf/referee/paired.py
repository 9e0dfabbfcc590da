"""Two scores of one text, document by document: the noise that both share drops out. D documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import RunError
from paramgolf.predict.score import Score
from paramgolf.referee.statistics import sign_tail, student_quantile, student_tail

Float64 = npt.NDArray[np.float64]

FLIPS = 9_999
_BATCH_BITS = 1 << 22


@dataclass(frozen=True)
class Paired:
    """What `new` costs more than `old`, in bits per byte; negative where `new` is better.

    `difference` weights documents by their bytes (it is the difference of the two scores, side bits left out);
    `standard_error`, and `low` to `high` at 95 %, are those of that ratio over documents. `p` flips the sign of whole
    documents at random (two-sided; all flips where they are few, else `FLIPS` of a fixed seed), `p_student` takes the
    standard error, and `p_sign` only counts `better` and `worse` documents. NaN where one document leaves it open.
    """

    documents: int
    bytes: int
    difference: float
    standard_error: float
    low: float
    high: float
    better: int
    worse: int
    p: float
    p_student: float
    p_sign: float


def paired(new_D: Float64, old_D: Float64, bytes_D: npt.NDArray[np.int64]) -> Paired:
    """Compare bits per document [D]; raises `ValueError` for other shapes or a text without bytes."""
    if not new_D.shape == old_D.shape == bytes_D.shape or bytes_D.sum() < 1:
        raise ValueError(f"bits {new_D.shape} and {old_D.shape} of documents of {int(bytes_D.sum())} bytes")
    cost_D, total, count = new_D - old_D, int(bytes_D.sum()), len(bytes_D)
    difference = float(cost_D.sum() / total)
    better, worse = int((cost_D < 0).sum()), int((cost_D > 0).sum())
    error, low, high, p_student = math.nan, math.nan, math.nan, math.nan
    if count > 1:
        # The error of a ratio of sums: what is left after each document's share by bytes.
        residual_D = cost_D - difference * bytes_D
        error = math.sqrt(count / (count - 1) * float(np.square(residual_D).sum())) / total
        half = student_quantile(0.975, count - 1) * error
        low, high = difference - half, difference + half
        if error > 0:
            p_student = 2 * student_tail(abs(difference) / error, count - 1)
    p = flip_tail(cost_D) if count > 1 else math.nan
    return Paired(count, total, difference, error, low, high, better, worse, p, p_student, sign_tail(better, worse))


def flip_tail(cost_D: Float64) -> float:
    """Share of sign flips of whole documents whose sum is as far from zero as the sum itself, or farther."""
    nonzero_D = cost_D[cost_D != 0]
    observed = abs(float(nonzero_D.sum())) - 1e-12 * float(np.abs(nonzero_D).sum())
    if len(nonzero_D) <= 13:
        codes = np.arange(1 << len(nonzero_D))
        signs = 1 - 2 * ((codes[:, None] >> np.arange(len(nonzero_D))) & 1)
        return float((np.abs(signs @ nonzero_D) >= observed).mean())
    rng, left, extreme = np.random.default_rng(0), FLIPS, 1  # the text as it is counts as one of the flips
    while left:
        rows = min(left, max(1, _BATCH_BITS // len(nonzero_D)))
        drawn = np.frombuffer(rng.bytes(rows * ((len(nonzero_D) + 7) // 8)), dtype=np.uint8).reshape(rows, -1)
        flipped = np.unpackbits(drawn, axis=1, count=len(nonzero_D)).astype(np.float64) @ nonzero_D
        extreme += int((np.abs(nonzero_D.sum() - 2 * flipped) >= observed).sum())
        left -= rows
    return extreme / (FLIPS + 1)


def paired_scores(new: Sequence[Score], old: Sequence[Score]) -> Paired:
    """Compare the scores of one text, seeds averaged document by document; `RunError` for scores of several texts."""
    first = new[0]
    for score in (*new, *old):
        if score.text_digest != first.text_digest:
            raise RunError(
                f"text {first.text_name} ({first.text_digest[:12]}) and {score.text_name} ({score.text_digest[:12]}) "
                "have no documents in common to compare one by one; score both runs on one text"
            )
        if score.document_bytes is None or first.document_bytes is None:
            raise RunError("a score does not list the bytes of its documents; score the artifact again")
        if not np.array_equal(score.document_bytes, first.document_bytes):
            raise RunError(f"two scores of text {first.text_name} list documents of other sizes; score both again")
    assert first.document_bytes is not None
    return paired(_mean_bits(new), _mean_bits(old), first.document_bytes)


def bits_by_document(score: Score) -> Float64:
    """Bits of each document [D], its boundary token included, side bits not."""
    documents = len(score.plan.lengths)
    return np.bincount(score.plan.document_index(), weights=score.bits, minlength=documents).astype(np.float64)


def _mean_bits(scores: Sequence[Score]) -> Float64:
    return np.asarray(np.mean([bits_by_document(score) for score in scores], axis=0), dtype=np.float64)
