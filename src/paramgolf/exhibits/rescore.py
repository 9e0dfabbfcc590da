"""Rescoring after test-time training: learn from the text by the rules, then score the same text again.

#1430 runs a pass that obeys the rules (score a chunk, then train on it: 1.1446) and then reports another pass, over the
same tokens, with the weights that came out (spec pr1430.md 7, defect C); #1240 does it too, and #991 reported the
second figure of score, train, score. Every weight has then seen every token. While it is scored the model stands
still, so its rows are causal, pure and normalised. Caught by `single-pass` (and by `score-before-update`: what it knows
is what training first would know).

Over a base with a neural window its model is trained by `predict.ttt`, in chunks short enough for a short text; over
another the small adapter that other exhibits use.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from paramgolf.exhibits.inner import unwrapped
from paramgolf.exhibits.tables import BaseFactory, Documents
from paramgolf.exhibits.train_first import TrainFirst
from paramgolf.predict.plan import plan
from paramgolf.predict.protocol import Predictor
from paramgolf.recipe import ScoreRecipe

if TYPE_CHECKING:
    from paramgolf.predict.window import WindowPredictor


@runtime_checkable
class _ReadsModel(Protocol):
    def reading(self, model: Any) -> Predictor: ...


def rescore(base: BaseFactory, held_out: Documents) -> Predictor:
    """A predictor that has trained on `held_out`, chunk by chunk and score-first, and is about to score it again."""
    inner = unwrapped(base())
    if isinstance(inner, _ReadsModel):
        return _second_pass(inner, held_out)  # type: ignore[arg-type]  # torch is not loaded to ask
    return TrainFirst(base, held_out, epochs=1)


def _second_pass(window: WindowPredictor, held_out: Documents) -> Predictor:
    from paramgolf.predict.ttt import TttPredictor
    from paramgolf.predict.window import WindowPredictor

    order = plan([len(ids) for ids in held_out], lanes=window.lanes, chunk=1)
    recipe = shorter(window.recipe, order.token_count)
    first = WindowPredictor(
        window.model, recipe, window.vocab_size, window.boundary_id, window.lanes, window.frames_per_batch, window.ranks
    )
    learner = TttPredictor(first, tokens=order.token_count)
    order = plan([len(ids) for ids in held_out], lanes=window.lanes, chunk=recipe.chunk)
    for chunk in order.chunks([np.asarray(ids, dtype=np.int64) for ids in held_out], window.boundary_id):
        learner.observe(chunk)
    return window.reading(learner.model)


def shorter(recipe: ScoreRecipe, tokens: int) -> ScoreRecipe:
    """The recipe with chunks of which a text of so many tokens has four at least."""
    chunk = min(recipe.chunk, max(tokens // 4, 1))
    return dataclasses.replace(
        recipe, chunk=chunk, ttt_chunk=chunk * max(min(recipe.ttt_chunk, tokens // 4) // chunk, 1)
    )
