"""Score an artifact on held-out text: tokenise, plan, build the predictor, score.

torch is imported with the predictor only, so the helpers here are cheap.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from paramgolf.errors import LeakError, TextError
from paramgolf.predict.plan import plan
from paramgolf.predict.score import Progress, Score, score
from paramgolf.text.losslessness import check_losslessness
from paramgolf.text.text import HeldOutText, Text
from paramgolf.text.tokenizer import TokenIds, Tokenizer

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact
    from paramgolf.predict.evaluation import Evaluation

SHORT_DOCUMENT = 64  # bytes; shorter documents (licence lines, empty files) coincide without a leak


def score_text(
    artifact: Artifact,
    text: HeldOutText,
    adapt: str | None = None,
    *,
    limit: int | None = None,
    order: str | None = None,
    audit_positions: int = 32,
    seed: int | None = None,
    progress: Progress | None = None,
    evaluation: Evaluation | None = None,
) -> Score:
    """Score `text`, or its first whole documents of at least one and at most `limit` bytes, with the artifact.

    Lanes and chunk come from the artifact's recipe; `adapt` None means the recipe's own, and so does `order` of the
    documents (`orders.py`). `evaluation` is the clock, and the ranks that share the work (all of them call this and
    return the same score); None is one rank without a limit. Raises `LeakError` unless the text is held out,
    `RecipeError` for an order that is not known, else as `score` does.
    """
    from paramgolf.predict.adapt import build_predictor
    from paramgolf.predict.evaluation import Evaluation

    if not isinstance(text, HeldOutText):
        raise LeakError(f"a score is of HeldOutText, not of {type(text).__name__} {text.name!r}")
    evaluation = evaluation or Evaluation()
    settings, tokenizer = artifact.recipe.score, artifact.tokenizer
    chosen = adapt if adapt is not None else settings.adapt
    with evaluation.phase("tokenise"):
        part = text if limit is None else first_documents(text, limit)
        tokens = encode_documents(tokenizer, part.documents)
        lengths = [len(ids) for ids in tokens]
        processed = settings.order if order is None else order
        placed = plan(lengths, lanes=settings.lanes, chunk=settings.chunk, order=processed)
    with evaluation.phase("build predictor"):
        ranks = evaluation.ranks if evaluation.ranks.world > 1 else None
        predictor = build_predictor(artifact, chosen, lanes=settings.lanes, tokens=placed.token_count, ranks=ranks)
    with evaluation.phase("score") as phase:
        found = score(
            predictor,
            tokens,
            placed,
            tokenizer.boundary_id,
            raw_bytes=part.size(),
            text_digest=part.digest,
            audit_positions=audit_positions,
            seed=int(evaluation.ranks.agree(fresh_seed())) if seed is None else seed,
            progress=progress,
            phase=phase,
        )
    return dataclasses.replace(
        found,
        text_name=part.name,
        artifact_digest=artifact.digest,
        adapt=chosen,
        documents_not_lossless=0 if tokenizer.lossless else check_losslessness(tokenizer, part.documents).differ,
        document_bytes=np.array([len(document) for document in part.documents], dtype=np.int64),
        document_hashes=document_hashes(_as_decoded(tokenizer, part.documents, tokens)),
        ledger=evaluation.entries(),
    )


def _as_decoded(tokenizer: Tokenizer, documents: Sequence[bytes], tokens: Sequence[TokenIds]) -> Sequence[bytes]:
    """What training shards of these documents decode to: an overlap must show, though the tokenizer loses some."""
    return documents if tokenizer.lossless else [tokenizer.decode(ids) for ids in tokens]


def fresh_seed() -> int:
    """48 random bits that nobody could foresee; a float64 holds them exactly."""
    return int.from_bytes(os.urandom(6), "little")


def encode_documents(tokenizer: Tokenizer, documents: Sequence[bytes]) -> list[TokenIds]:
    """The ids that are scored: those that give the bytes back if the tokenizer can, else those of its model."""
    encode = tokenizer.encode_exact if tokenizer.lossless else tokenizer.encode
    return [encode(document) for document in documents]


def first_documents(text: HeldOutText, limit: int) -> HeldOutText:
    """The longest run of whole documents from the start that has at most `limit` bytes, itself a text with a digest.

    Raises `TextError` if the first document with text is longer than that.
    """
    sizes = np.cumsum([len(document) for document in text.documents])
    count = int(np.searchsorted(sizes, limit, side="right"))
    if count == 0 or sizes[count - 1] == 0:
        first = next(len(document) for document in text.documents if document)
        raise TextError(f"limit {limit:,} bytes is below the first document of {text.name!r} ({first:,} bytes)")
    if count == len(text.documents):
        return text
    return HeldOutText(f"{text.name} (first {count} documents)", list(text.documents[:count]))


def document_hashes(documents: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """64 bits of the SHA-256 of each document [D]; 0 for those too short to tell a leak from chance."""
    return np.array([_hash(document) for document in documents], dtype=np.uint64)


def text_record(text: Text) -> dict[str, str | int]:
    """What env.json says of the training text under `train_text`."""
    return {"name": text.name, "digest": text.digest, "documents": len(text.documents), "bytes": text.size()}


def _hash(document: bytes) -> int:
    if len(document) < SHORT_DOCUMENT:
        return 0
    return int.from_bytes(hashlib.sha256(document).digest()[:8], "little")
