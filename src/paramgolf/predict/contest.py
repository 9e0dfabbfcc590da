"""The contest's own convention beside the definition: look-up-table bytes below, boundaries charged as it charges them.

The definition (bits of everything a decoder needs, over the raw bytes) is `Score.bpb`; this profile exists so that a
number can be put beside the field's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paramgolf.errors import TextError
from paramgolf.predict.score import Score
from paramgolf.text.byte_table import ByteTable


@dataclass(frozen=True)
class ContestScore:
    """Bits per look-up-table byte, that denominator, and one sentence on what the convention leaves out."""

    bpb: float
    bytes: int
    says: str


def contest_bpb(
    score: Score, tokens_by_document: Sequence[npt.ArrayLike], table: ByteTable, boundary_id: int
) -> ContestScore:
    """The score as the contest would print it: no bits for the order, none for the boundary after the last document.

    Raises `TextError` if the tokens are not those that were scored.
    """
    found = [len(np.asarray(ids)) for ids in tokens_by_document]
    if found != score.plan.lengths.tolist():
        raise TextError(f"{len(found)} documents of {sum(found)} tokens are not those of the score")
    size = sum(table.bytes_of_document(ids, boundary_id) for ids in tokens_by_document)
    if size < 1:
        raise TextError("the look-up tables charge no byte for this text")
    in_stream = score.plan.boundaries
    bits = float(score.bits[: len(score.bits) - in_stream].sum())
    order = "boundary tokens between documents are charged" if in_stream else "boundaries and order are not charged"
    changed = score.documents_not_lossless
    lossless = (
        "losslessness unknown" if changed is None else f"not lossless: {changed} of {len(found)} documents differ"
    )
    return ContestScore(
        bits / size, size, f"{order}; {'lossless' if changed == 0 else lossless}; raw bytes {score.bytes}"
    )
