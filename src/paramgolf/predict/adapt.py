"""From an artifact to a predictor: the model alone, or with what adapts while it reads.

Neither torch nor numba is imported before a predictor is built, so the names can be listed at once.
"""

from __future__ import annotations

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


def build_predictor(artifact: Artifact, adapt: str, *, incremental: bool = False, lanes: int = 1) -> Predictor:
    """A fresh predictor of `artifact`; `adapt` is a key of `ADAPTATIONS`.

    `incremental` builds the one that codes files: one lane, a token at a time, with rows that are the same bits in both
    directions. Raises `RecipeError` for an unknown name.
    """
    from paramgolf.predict.mix import MixPredictor

    if adapt not in ADAPTATIONS:
        raise RecipeError(f"no adaptation {adapt!r}; known: {', '.join(ADAPTATIONS)}")
    if incremental and lanes != 1:
        raise RecipeError(f"a file is coded in one lane, not in {lanes}")
    if adapt == "ngram-only":
        return _ngram(artifact, lanes, primed=True)
    trains = adapt.startswith("ttt")
    neural = _training(artifact, lanes, incremental) if trains else _frozen(artifact, lanes, incremental)
    if "ngram" not in adapt:
        return neural
    return MixPredictor(neural, _ngram(artifact, lanes, primed=adapt != "ngram-fresh"))


def _frozen(artifact: Artifact, lanes: int, incremental: bool) -> Predictor:
    recipe, tokenizer = artifact.recipe, artifact.tokenizer
    if incremental:
        from paramgolf.predict.step import StepPredictor

        return StepPredictor(artifact.weights, recipe.model, recipe.score, tokenizer.vocab_size, tokenizer.boundary_id)
    from paramgolf.predict.window import WindowPredictor

    return WindowPredictor(_model(artifact), recipe.score, tokenizer.vocab_size, tokenizer.boundary_id, lanes)


def _training(artifact: Artifact, lanes: int, incremental: bool) -> Predictor:
    from paramgolf.predict.ttt import TttPredictor

    settings, tokenizer = artifact.recipe.score, artifact.tokenizer
    # A file is coded token by token: one frame at a time is all that a row needs.
    frames, chunk = (1, 1) if incremental else (8, settings.chunk)
    return TttPredictor(_model(artifact), settings, tokenizer.vocab_size, tokenizer.boundary_id, lanes, frames, chunk)


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


def _model(artifact: Artifact) -> GPT:
    import torch

    from paramgolf.model.gpt import GPT

    model = GPT(artifact.recipe.model, artifact.tokenizer.vocab_size)
    model.load_state_dict({name: torch.from_numpy(weight.copy()) for name, weight in artifact.weights.items()})
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
