"""What two processes compare to know that they hold the same model: digests of its parts and of rows it predicts."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from paramgolf.artifact.artifact import Artifact
from paramgolf.kernels.threads import torch_threads

PROBE_TOKENS = 64


def fingerprint(artifact: Artifact) -> dict[str, str]:
    """SHA-256 (hex) of recipe, tokenizer, weights, primer, and of rows for fixed tokens, all bit for bit."""
    return {
        "recipe": hashlib.sha256(artifact.recipe.to_json().encode()).hexdigest(),
        "tokenizer": artifact.tokenizer.digest,
        "weights": _digest_weights(artifact),
        "primer": _digest_primer(artifact),
        "rows": _digest_rows(artifact),
    }


def _digest_weights(artifact: Artifact) -> str:
    hasher = hashlib.sha256()
    for name, values in artifact.weights.items():
        hasher.update(f"{name} {values.shape}\n".encode())
        hasher.update(values.astype("<f4").tobytes())
    return hasher.hexdigest()


def _digest_primer(artifact: Artifact) -> str:
    hasher = hashlib.sha256()
    for document in artifact.primer:
        hasher.update(len(document).to_bytes(8, "little"))
        hasher.update(document.astype("<i4").tobytes())
    return hasher.hexdigest()


def _digest_rows(artifact: Artifact) -> str:
    """Rows of the model without adaptation, on one thread: the number of threads may change their last bits.

    Frames are no longer than the tokens asked about: a batch of the contest's frames would take half a minute.
    """
    from paramgolf.predict.adapt import build_predictor
    from paramgolf.predict.protocol import Chunk

    vocab_size = artifact.tokenizer.vocab_size
    tokens = np.arange(PROBE_TOKENS, dtype=np.int64)[None, :] * 7919 % vocab_size
    chunk = Chunk(tokens, np.array([PROBE_TOKENS], dtype=np.int64), np.array([True]))
    score = artifact.recipe.score
    short = dataclasses.replace(score, window=min(score.window, PROBE_TOKENS), stride=min(score.stride, PROBE_TOKENS))
    recipe = dataclasses.replace(artifact.recipe, score=short)
    predictor = build_predictor(dataclasses.replace(artifact, recipe=recipe), "none")
    with torch_threads(1):
        rows = predictor.predict(chunk)
        realised = np.asarray(rows.realised(), dtype="<f8")
        last = np.asarray(rows.row(0, PROBE_TOKENS - 1), dtype="<f8")
    return hashlib.sha256(realised.tobytes() + last.tobytes()).hexdigest()
