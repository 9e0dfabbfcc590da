"""From an artifact to a predictor: the model alone, or with what adapts while it reads.

Neither torch nor numba is imported before a predictor is built, so the names can be listed at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from paramgolf.errors import RecipeError

if TYPE_CHECKING:
    from paramgolf.artifact.artifact import Artifact
    from paramgolf.model.gpt import GPT
    from paramgolf.predict.ngram import NgramPredictor
    from paramgolf.predict.protocol import Predictor

ADAPTATIONS = {
    "none": "the neural model alone",
    "ttt": "the model trains on each chunk once it is scored (#549)",
    "ngram": "mixed with exact n-gram counts of the carried and the scored text",
    "ngram-fresh": "the same, but the counts start empty: carried text is left aside",
    "ngram-only": "the n-gram counts alone, without the model",
    "ttt-ngram": "both: test-time training, mixed with n-gram counts",
}


FRAMES = 8  # of the neural window in one batch: a chunk of the usual length is one


def build_predictor(
    artifact: Artifact, adapt: str, *, incremental: bool = False, lanes: int = 1, frames: int = FRAMES
) -> Predictor:
    """A fresh predictor of `artifact`; `adapt` is a key of `ADAPTATIONS`.

    `incremental` builds the one that codes files: one lane, a token at a time, with rows that are the same bits in both
    directions. Fewer `frames` a batch answer short chunks sooner. Raises `RecipeError` for an unknown name.
    """
    from paramgolf.predict.mix import MixPredictor

    if adapt not in ADAPTATIONS:
        raise RecipeError(f"no adaptation {adapt!r}; known: {', '.join(ADAPTATIONS)}")
    if incremental and lanes != 1:
        raise RecipeError(f"a file is coded in one lane, not in {lanes}")
    if adapt == "ngram-only":
        return _ngram(artifact, lanes, primed=True)
    neural = (_training if adapt.startswith("ttt") else _frozen)(artifact, lanes, frames, incremental)
    if "ngram" not in adapt:
        return neural
    return MixPredictor(neural, _ngram(artifact, lanes, primed=adapt != "ngram-fresh"))


def predictor_maker(artifact: Artifact, adapt: str, *, lanes: int, frames: int = FRAMES) -> Callable[[], Predictor]:
    """A function that gives fresh predictors, each a copy of one that was built once and never used.

    Priming counts with a whole carried text takes seconds, copying them a fraction of one.
    """
    pristine = build_predictor(artifact, adapt, lanes=lanes, frames=frames)
    return lambda: copy.deepcopy(pristine)


def _frozen(artifact: Artifact, lanes: int, frames: int, incremental: bool) -> Predictor:
    recipe, tokenizer = artifact.recipe, artifact.tokenizer
    if incremental:
        from paramgolf.predict.step import StepPredictor

        return StepPredictor(artifact.weights, recipe.model, recipe.score, tokenizer.vocab_size, tokenizer.boundary_id)
    from paramgolf.predict.window import WindowPredictor

    return WindowPredictor(_model(artifact), recipe.score, tokenizer.vocab_size, tokenizer.boundary_id, lanes, frames)


def _training(artifact: Artifact, lanes: int, frames: int, incremental: bool) -> Predictor:
    from paramgolf.predict.ttt import TttPredictor

    settings, tokenizer = artifact.recipe.score, artifact.tokenizer
    # A file is coded token by token: one frame at a time is all that a row needs. A GPU would train to other bits.
    frames, chunk = (1, 1) if incremental else (frames, settings.chunk)
    model = _model(artifact, on_cpu=incremental)
    return TttPredictor(model, settings, tokenizer.vocab_size, tokenizer.boundary_id, lanes, frames, chunk)


def _ngram(artifact: Artifact, lanes: int, *, primed: bool) -> NgramPredictor:
    from paramgolf.predict.ngram import NgramPredictor

    documents = artifact.primer if primed else ()
    predictor = NgramPredictor(
        artifact.recipe.score.ngram_order,
        artifact.tokenizer.vocab_size,
        artifact.tokenizer.boundary_id,
        lanes,
        expected_tokens=sum(len(document) + 1 for document in documents) + (1 << 14),
    )
    predictor.prime(documents)
    return predictor


def _model(artifact: Artifact, *, on_cpu: bool = False) -> GPT:
    import torch

    from paramgolf.model.gpt import GPT

    model = GPT(artifact.recipe.model, artifact.tokenizer.vocab_size, boundary_id=artifact.tokenizer.boundary_id)
    model.load_exported(artifact.weights)
    return model.to("cuda" if torch.cuda.is_available() and not on_cpu else "cpu").eval()
