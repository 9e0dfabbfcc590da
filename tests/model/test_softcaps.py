"""Caps that are learnt stay where every loss and kernel takes them, in training and out of any artifact."""

import math

import numpy as np
import pytest
import torch

from paramgolf.errors import ArtifactError, RecipeError
from paramgolf.kernels.loss import MAX_SOFTCAP
from paramgolf.model.gpt import GPT
from paramgolf.optim.schedule import StepSettings
from paramgolf.predict.step_weights import gather_weights
from paramgolf.ranks import Ranks
from paramgolf.recipe import LEARNT_SOFTCAPS, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from paramgolf.train.compiled import TrainingLoss
from paramgolf.train.objective import Losses
from paramgolf.train.state import TrainState
from paramgolf.train.step import Work, one_step

VOCAB = 12
MODEL = ModelRecipe(layers=1, width=8, heads=2, kv_heads=1, softcap=4.0, asymmetric_softcap=True)
RECIPE = Recipe(
    name="caps",
    model=MODEL,
    optim=OptimRecipe(scalar_lr=3.0),
    train=TrainRecipe(sequence=4, batch_tokens=8, warmup_steps=0),
)


class Counting:
    def batch(self, step: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
        rows = (np.arange(sequences)[:, None] + np.arange(5)) % VOCAB
        return rows[:, :-1].copy(), rows[:, 1:].copy()


@pytest.mark.parametrize("sign,end", [(1.0, LEARNT_SOFTCAPS[0]), (-1.0, LEARNT_SOFTCAPS[1])])
def test_a_pull_ends_at_the_bound(monkeypatch: pytest.MonkeyPatch, sign: float, end: float) -> None:
    """Gradients that pull both caps one way at a rate of 3 a step leave them at the bound, and the loss a number."""
    state = TrainState.fresh(RECIPE, VOCAB)
    caps = state.model.softcaps
    assert caps is not None
    plain = TrainingLoss.__call__

    def pulled(self, piece, form):  # type: ignore[no-untyped-def]  # as its base
        losses = plain(self, piece, form)
        return Losses(losses.total + sign * 10.0 * caps.sum(), losses.next_token)

    monkeypatch.setattr(TrainingLoss, "__call__", pulled)
    work = Work(RECIPE, Counting(), TrainingLoss(state.objective), Ranks())
    for _ in range(30):
        assert math.isfinite(one_step(state, work, StepSettings(1.0, 0.9)).loss)
        assert LEARNT_SOFTCAPS[0] <= min(caps.tolist()) <= max(caps.tolist()) <= LEARNT_SOFTCAPS[1]
    assert caps.tolist() == [end, end]


def test_the_bounds_are_those_of_the_fast_loss() -> None:
    """What training may learn is what the piecewise loss takes."""
    assert 0 < LEARNT_SOFTCAPS[0] < LEARNT_SOFTCAPS[1] <= MAX_SOFTCAP


@pytest.mark.parametrize("softcap", [0.5, 61.0])
def test_a_start_outside_is_refused(softcap: float) -> None:
    """A recipe whose learnt caps begin where they may not be names the value; one fixed cap may be any."""
    with pytest.raises(RecipeError, match=rf"between 1 and 60, found model\.softcap={softcap:g}"):
        ModelRecipe(softcap=softcap, asymmetric_softcap=True)
    ModelRecipe(softcap=softcap)


@pytest.mark.parametrize("caps", [(0.0, 4.0), (4.0, -2.0), (math.nan, 4.0), (4.0, math.inf)])
def test_a_hostile_artifact_is_refused(caps: tuple[float, float]) -> None:
    """A cap that is not positive, or no finite number, is refused with both values, before a weight is copied."""
    model = GPT(MODEL, VOCAB)
    weights = {name: value.detach().numpy().copy() for name, value in model.exported_weights().items()}
    weights["softcaps"] = np.array(caps, dtype=np.float32)
    says = rf"softcaps of {caps[0]:g} and {caps[1]:g}: both must be positive"
    with pytest.raises(ArtifactError, match=says):
        gather_weights(weights, MODEL, 8, VOCAB, 1)
    weights["embedding.weight"] = weights["embedding.weight"] + 1
    before = model.embedding.weight.detach().clone()
    with pytest.raises(ArtifactError, match=says):
        model.load_exported(weights)
    assert torch.equal(model.embedding.weight, before)
