"""From an artifact to a predictor: the model alone, or with what adapts while it reads.

Neither torch nor numba is imported before a predictor is built, so the names can be listed at once.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from paramgolf.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from paramgolf.artifact.artifact import Artifact
    from paramgolf.model.gpt import GPT
    from paramgolf.predict.cache_rules import Rule
    from paramgolf.predict.ngram import NgramPredictor
    from paramgolf.predict.ngram_counts import NgramCounts
    from paramgolf.predict.protocol import Predictor
    from paramgolf.predict.window import WindowPredictor
    from paramgolf.ranks import Ranks
    from paramgolf.recipe import ScoreRecipe


@dataclass(frozen=True)
class Adaptation:
    """What is wrapped around the model, from the inside out: training, a fitted delta, a mixture with counts."""

    says: str
    learns: Literal["", "ttt", "lora"] = ""  # all weights from chunks of the stream, or adapters from each document
    slot: bool = False
    counts: Literal[
        "", "escapes", "laplace", "normcache", "gated-normcache", "backoff", "learnt-backoff", "discounting"
    ] = ""
    tilt: bool = False  # toward the hint of a long context; around all else
    carried: bool = True  # whether the counts begin with the text that the artifact carries
    neural: bool = True

    def __str__(self) -> str:
        return self.says


ADAPTATIONS = {
    "none": Adaptation("the neural model alone"),
    "ttt": Adaptation("the model trains on each chunk once it is scored (#549)", learns="ttt"),
    "lora": Adaptation("low-rank adapters train on each document as it is scored (#2140, one order)", learns="lora"),
    "tilt": Adaptation("rows lean toward what followed the same 15 tokens before (#2140, token expert)", tilt=True),
    "lora-tilt": Adaptation("adapters and tilt, in one order (#2140, repaired)", learns="lora", tilt=True),
    "slot": Adaptation("a delta of states and logits, fitted to tokens already scored (#1430, repaired)", slot=True),
    "ttt-slot": Adaptation("both", learns="ttt", slot=True),
    "ngram": Adaptation("mixed with exact n-gram counts of the carried and the scored text", counts="escapes"),
    "ngram-fresh": Adaptation(
        "the same, but the counts start empty: carried text is left aside", counts="escapes", carried=False
    ),
    "ngram-only": Adaptation("the n-gram counts alone, without the model", counts="escapes", neural=False),
    "ttt-ngram": Adaptation("test-time training, mixed with n-gram counts", learns="ttt", counts="escapes"),
    "lora-ngram": Adaptation("low-rank adapters, mixed with n-gram counts", learns="lora", counts="escapes"),
    "slot-ngram": Adaptation("a fitted delta, mixed with n-gram counts", slot=True, counts="escapes"),
    "laplace": Adaptation("add-one on the longest known context, by entropy (#1185 as published)", counts="laplace"),
    "normcache": Adaptation("the model's row as the prior of long contexts (#1185, repaired)", counts="normcache"),
    "gated-normcache": Adaptation("the same behind a gate that is learnt", counts="gated-normcache"),
    "backoff": Adaptation("all orders back off to the next, by entropy (#1430, repaired)", counts="backoff"),
    "learnt-backoff": Adaptation("the same with shares that are learnt", counts="learnt-backoff"),
    "discounting": Adaptation("absolute discounting with shares that are learnt", counts="discounting"),
    "ttt-normcache": Adaptation("test-time training and normcache (#1185, repaired)", learns="ttt", counts="normcache"),
    "slot-backoff": Adaptation("a fitted delta and backoff", slot=True, counts="backoff"),
    "ttt-slot-backoff": Adaptation(
        "test-time training, a fitted delta and backoff (#1430, repaired)", learns="ttt", slot=True, counts="backoff"
    ),
}


FRAMES = 8  # of the neural window in one batch on a CPU: a chunk of the usual length is one
LONG_WINDOW = 1024  # from here on one frame keeps a CPU busy, and a batch of several only makes single rows dear
GPU_BATCH_TOKENS = 65_536
FEW_TOKENS = 1 << 14  # that a table of counts has room for at once


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
    if adapt not in ADAPTATIONS:
        raise RecipeError(f"no adaptation {adapt!r}; known: {', '.join(ADAPTATIONS)}")
    if incremental and lanes != 1:
        raise RecipeError(f"a file is coded in one lane, not in {lanes}")
    chosen = ADAPTATIONS[adapt]
    if not chosen.neural:
        return _escapes(artifact, lanes, carried=chosen.carried)
    neural: Predictor
    if chosen.learns:
        # A file is coded token by token: one frame at a time is all that a row needs. A GPU would train to other bits.
        window = _window(artifact, lanes, 1 if incremental else frames, ranks, on_cpu=incremental)
        neural = _learning(chosen, window, chunk=1 if incremental else None, tokens=tokens)
    elif incremental:
        neural = _stepwise(artifact)
    else:
        neural = _window(artifact, lanes, frames, ranks)
    if chosen.slot:
        from paramgolf.predict.slot import SlotPredictor

        neural = SlotPredictor(neural, artifact.recipe.score, lanes)
    mixed = _mixed(neural, artifact, chosen, lanes)
    return _tilted(mixed, artifact, lanes) if chosen.tilt else mixed


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


def _learning(chosen: Adaptation, window: WindowPredictor, *, chunk: int | None, tokens: int | None) -> Predictor:
    if chosen.learns == "ttt":
        from paramgolf.predict.ttt import TttPredictor

        return TttPredictor(window, chunk=chunk, tokens=tokens)
    from paramgolf.predict.lora import LoraPredictor

    return LoraPredictor(window, chunk=chunk, tokens=tokens)


def _tilted(inner: Predictor, artifact: Artifact, lanes: int) -> Predictor:
    from paramgolf.predict.tilt import TiltPredictor
    from paramgolf.predict.tilt_experts import token_expert

    tokenizer = artifact.tokenizer
    expert = token_expert(
        artifact.recipe.score, tokenizer.vocab_size, tokenizer.boundary_id, lanes, primer=artifact.primer
    )
    return TiltPredictor(inner, [expert])


def _mixed(neural: Predictor, artifact: Artifact, chosen: Adaptation, lanes: int) -> Predictor:
    """The model's rows, mixed with counts if that is wanted."""
    if not chosen.counts:
        return neural
    if chosen.counts == "escapes":
        from paramgolf.predict.mix import MixPredictor

        return MixPredictor(neural, _escapes(artifact, lanes, carried=chosen.carried))
    from paramgolf.predict.cache import CachePredictor

    return CachePredictor(neural, _counts(artifact, lanes), _rule(artifact, chosen.counts))


def _rule(artifact: Artifact, name: str) -> Rule:
    from paramgolf.predict import cache_rules

    recipe, vocab_size = artifact.recipe.score, artifact.tokenizer.vocab_size
    if name == "normcache":
        return cache_rules.norm_cache(recipe)
    if name == "gated-normcache":
        return cache_rules.gated_norm_cache(recipe)
    rules = {
        "laplace": cache_rules.laplace,
        "backoff": cache_rules.backoff,
        "learnt-backoff": cache_rules.learnt_backoff,
        "discounting": cache_rules.discounting,
    }
    return rules[name](recipe, vocab_size)


def _counts(artifact: Artifact, lanes: int) -> NgramCounts:
    from paramgolf.predict.ngram_counts import NgramCounts

    recipe, tokenizer = artifact.recipe.score, artifact.tokenizer
    counts = NgramCounts(
        recipe.ngram_order,
        tokenizer.vocab_size,
        tokenizer.boundary_id,
        lanes,
        lag=recipe.ngram_lag,
        most_bytes=recipe.ngram_bytes,
        expected_tokens=_carried_tokens(artifact),
    )
    counts.prime(artifact.primer)
    return counts


def _escapes(artifact: Artifact, lanes: int, *, carried: bool) -> NgramPredictor:
    from paramgolf.predict.ngram import NgramPredictor

    predictor = NgramPredictor(
        artifact.recipe.score.ngram_order,
        artifact.tokenizer.vocab_size,
        artifact.tokenizer.boundary_id,
        lanes,
        expected_tokens=_carried_tokens(artifact) if carried else FEW_TOKENS,
        most_bytes=artifact.recipe.score.ngram_bytes,
    )
    predictor.prime(artifact.primer if carried else ())
    return predictor


def _carried_tokens(artifact: Artifact) -> int:
    """Tokens that counts begin with, and some more."""
    return sum(len(document) + 1 for document in artifact.primer) + FEW_TOKENS


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
