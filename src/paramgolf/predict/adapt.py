"""From an artifact to a predictor: the model alone, or with what adapts while it reads.

Neither torch nor numba is imported before a predictor is built, so the names can be listed at once.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from paramgolf.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from paramgolf.artifact.artifact import Artifact
    from paramgolf.model.gpt import GPT
    from paramgolf.predict.ngram import NgramPredictor
    from paramgolf.predict.protocol import Predictor
    from paramgolf.predict.window import WindowPredictor
    from paramgolf.ranks import Ranks
    from paramgolf.recipe import ScoreRecipe

ADAPTATIONS = {
    "none": "the neural model alone",
    "ttt": "the model trains on each chunk once it is scored (#549)",
    "ngram": "mixed with exact n-gram counts of the carried and the scored text",
    "ngram-fresh": "the same, but the counts start empty: carried text is left aside",
    "ngram-only": "the n-gram counts alone, without the model",
    "ttt-ngram": "both: test-time training, mixed with n-gram counts",
}


FRAMES = 8  # of the neural window in one batch on a CPU: a chunk of the usual length is one
LONG_WINDOW = 1024  # from here on one frame keeps a CPU busy, and a batch of several only makes single rows dear
GPU_BATCH_TOKENS = 65_536


def build_predictor(
    artifact: Artifact,
    adapt: str,
    *,
    incremental: bool = False,
    lanes: int = 1,
    frames: int | None = None,
    tokens: int | None = None,
    ranks: Ranks | None = None,
) -> Predictor:
    """A fresh predictor of `artifact`; `adapt` is a key of `ADAPTATIONS`.

    `incremental` builds the one that codes files: one lane, a token at a time, with rows that are the same bits in both
    directions. `tokens` is how many the text has, boundaries included: a schedule over the text needs it. With several
    `ranks` each computes its part of the neural rows and all get the same ones. Fewer `frames` a batch answer short
    chunks sooner. Raises `RecipeError` for an unknown name, and where something in the recipe needs `tokens`.
    """
    from paramgolf.predict.mix import MixPredictor

    if adapt not in ADAPTATIONS:
        raise RecipeError(f"no adaptation {adapt!r}; known: {', '.join(ADAPTATIONS)}")
    if incremental and lanes != 1:
        raise RecipeError(f"a file is coded in one lane, not in {lanes}")
    if adapt == "ngram-only":
        return _ngram(artifact, lanes, primed=True)
    neural: Predictor
    if adapt.startswith("ttt"):
        from paramgolf.predict.ttt import TttPredictor

        # A file is coded token by token: one frame at a time is all that a row needs. A GPU would train to other bits.
        window = _window(artifact, lanes, 1 if incremental else frames, ranks, on_cpu=incremental)
        neural = TttPredictor(window, chunk=1 if incremental else None, tokens=tokens)
    elif incremental:
        neural = _stepwise(artifact)
    else:
        neural = _window(artifact, lanes, frames, ranks)
    if "ngram" not in adapt:
        return neural
    return MixPredictor(neural, _ngram(artifact, lanes, primed=adapt != "ngram-fresh"))


def predictor_maker(
    artifact: Artifact, adapt: str, *, lanes: int, frames: int | None = None
) -> Callable[[int], Predictor]:
    """A function that gives fresh predictors for a text of so many tokens, copies of one that was never used.

    Priming counts with a whole carried text takes seconds, copying them a fraction of one.
    """

    @functools.cache
    def pristine(tokens: int) -> Predictor:
        return build_predictor(artifact, adapt, lanes=lanes, frames=frames, tokens=tokens)

    return lambda tokens: copy.deepcopy(pristine(tokens))


def _window(
    artifact: Artifact, lanes: int, frames: int | None, ranks: Ranks | None, *, on_cpu: bool = False
) -> WindowPredictor:
    import torch

    from paramgolf.predict.window import WindowPredictor
    from paramgolf.ranks import Ranks, pick_device

    ranks = ranks or Ranks(device=torch.device("cpu") if on_cpu else pick_device(0))
    model = _model(artifact, ranks.device)
    settings, tokenizer = artifact.recipe.score, artifact.tokenizer
    if frames is None:
        frames = _frames_per_batch(settings, lanes, ranks.world, on_gpu=model.embedding.weight.is_cuda)
    return WindowPredictor(model, settings, tokenizer.vocab_size, tokenizer.boundary_id, lanes, frames, ranks)


def _frames_per_batch(settings: ScoreRecipe, lanes: int, world: int, *, on_gpu: bool) -> int:
    if not on_gpu:
        return FRAMES if settings.window < LONG_WINDOW else 1
    in_chunk = lanes * math.ceil(settings.chunk / settings.stride)
    return max(1, min(GPU_BATCH_TOKENS // settings.window, math.ceil(in_chunk / world)))


def _stepwise(artifact: Artifact) -> Predictor:
    from paramgolf.predict.step import StepPredictor

    recipe, tokenizer = artifact.recipe, artifact.tokenizer
    return StepPredictor(artifact.weights, recipe.model, recipe.score, tokenizer.vocab_size, tokenizer.boundary_id)


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


def _model(artifact: Artifact, device: torch.device) -> GPT:
    import torch

    from paramgolf.model.gpt import GPT

    model = GPT(
        artifact.recipe.model, artifact.tokenizer.vocab_size, seed=None, boundary_id=artifact.tokenizer.boundary_id
    )
    model.load_exported(artifact.weights)
    if device.type == "cuda" and artifact.recipe.train.dtype == "bfloat16":
        model.activation_dtype = torch.bfloat16
    return model.to(device).eval()
