"""What the clock changes in a run of PR #2140: context, re-warm-up, the floor under the rates, looping."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.errors import RecipeError
from paramgolf.optim.schedule import (
    Stage,
    context_index,
    loops,
    lr_scale,
    muon_momentum,
    rewarm_scale,
    settings_of,
    stage_at,
    stages,
)
from paramgolf.recipe import BudgetRecipe, Recipe, TrainRecipe
from paramgolf.recipes.pr2140 import pr2140

# The published clock: 600 s without the 4 that are kept for GPTQ.
RECORD = dataclasses.replace(pr2140(), budget=BudgetRecipe(train_seconds=596_000.0))


@pytest.mark.parametrize(
    "milliseconds,context",
    [(0, 1024), (59_600.0, 1024), (59_600.0001, 2048), (417_200, 2048), (417_201, 3072), (596_000, 3072)],
)
def test_published_contexts(milliseconds: float, context: int) -> None:
    """Spec pr2140.md 3.2: 1024@0.1, 2048@0.7, 3072@1, the first stage whose threshold is not passed."""
    assert settings_of(RECORD, 10, milliseconds).context == context


@pytest.mark.parametrize(
    "fraction,scale",
    [
        (0.0, 1),
        (0.1499, 1),
        (0.2, 0.941176),
        (0.35, 0.764706),
        (0.5, 0.588235),
        (0.7, 0.352941),
        (0.9, 0.117647),
        (0.915, 0.1),
        (1.0, 0.1),
    ],
)
def test_published_rates(fraction: float, scale: float) -> None:
    """Spec pr2140.md 3.2: one, then (1 - f) / .85, and never below a tenth."""
    assert lr_scale(RECORD.optim, 9, fraction * 596.0, 596.0) == pytest.approx(scale, abs=1e-6)


@pytest.mark.parametrize("step,momentum", [(0, 0.92), (750, 0.945), (1500, 0.97), (4000, 0.97)])
def test_published_momentum(step: int, momentum: float) -> None:
    """Spec pr2140.md 3.2: .92 to .97 in a straight line over 1500 steps."""
    assert muon_momentum(RECORD.optim, step, 0.5) == pytest.approx(momentum, abs=1e-12)


def test_published_rewarm() -> None:
    """Spec pr2140.md 3.2: after a change the k-th of 32 steps has k / 32 of its rate; the first context has none."""
    train, stage = RECORD.train, Stage(1, 593)
    assert [rewarm_scale(train, 593 + k - 1, stage) for k in (1, 2, 31, 32, 33)] == [1 / 32, 2 / 32, 31 / 32, 1, 1]
    assert rewarm_scale(train, 0, Stage()) == 1
    settings = settings_of(RECORD, 593, 0.35 * 596_000, stage)
    assert settings.rate() == pytest.approx(0.764706 / 32, abs=1e-6)
    assert settings.lr_scale == pytest.approx(0.764706, abs=1e-6)  # thresholds and snapshots go by this one
    assert rewarm_scale(dataclasses.replace(train, rewarm_steps=0), 593, stage) == 1


def test_looping_begins_at_its_share() -> None:
    """Spec pr2140.md 2.2: from the first reading of at least .35; a model without looped layers has one form."""
    assert [loops(RECORD, f) for f in (0.0, 0.3499, 0.35, 1.0)] == [False, False, True, True]
    assert loops(Recipe("plain", train=TrainRecipe(loop_from=0.5)), 0.0)


def test_stages_of_the_record() -> None:
    """Spec pr2140.md 3.4: 1024, 2048, 2048 looping, 3072 looping, in this order."""
    forms = [(s.context, s.looping) for s in stages(RECORD)]
    assert forms == [(1024, False), (2048, False), (2048, True), (3072, True)]
    assert all((s.lr_scale, s.rewarm) == (1, 1) for s in stages(RECORD))


@given(
    st.lists(st.floats(0.01, 0.99), unique=True, max_size=4),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.lists(st.floats(0, 1.2), min_size=1, max_size=30),
)
def test_every_form_of_a_run_is_a_stage(
    ends: list[float], loop_from: float, least: float, readings: list[float]
) -> None:
    """Whatever the schedule and the clock's readings, contexts only grow and each step's form was listed."""
    contexts = tuple(2 ** (k + 1) for k in range(len(ends) + 1))
    train = TrainRecipe(
        sequence=contexts[-1],
        batch_tokens=64,
        contexts=contexts,
        contexts_until=tuple(sorted(ends)),
        loop_from=loop_from,
        rewarm_steps=3,
        crown_weight=0.1,
    )
    recipe = dataclasses.replace(RECORD, train=train, optim=dataclasses.replace(RECORD.optim, least_lr=least))
    known = {(s.context, s.looping, s.crown) for s in stages(recipe)}
    stage, last = Stage(), 0
    for step, fraction in enumerate(sorted(readings)):
        seconds = fraction * 596_000
        stage = stage_at(recipe, step, seconds, stage)
        settings = settings_of(recipe, step, seconds, stage)
        assert (settings.context, settings.looping, settings.crown) in known
        assert settings.context >= last
        assert 0 < settings.rewarm <= 1
        assert settings.lr_scale >= least
        if settings.context > last > 0:
            assert settings.rewarm == pytest.approx(1 / 3)
        last = settings.context


def test_a_stage_is_held_from_its_first_step() -> None:
    """`stage_at` moves once for each end that the clock passed, over several at once too, and never back."""
    stage = stage_at(RECORD, 5, 0.05 * 596_000, Stage())
    assert stage == Stage(0, 0)
    stage = stage_at(RECORD, 6, 0.2 * 596_000, stage)
    assert stage == Stage(1, 6)
    assert stage_at(RECORD, 7, 0.3 * 596_000, stage) == Stage(1, 6)
    assert stage_at(RECORD, 7, 0.05 * 596_000, stage) == Stage(1, 6)
    assert stage_at(RECORD, 9, 0.9 * 596_000, Stage()) == Stage(2, 9)


def test_an_implicit_last_stage() -> None:
    """Spec pr2140.md 9.5: without a list there is one stage to the end, of a whole sequence."""
    recipe = TrainRecipe(sequence=1024, batch_tokens=8192)
    assert recipe.stages() == (1024,)
    assert {context_index(recipe, f) for f in (0.0, 0.5, 1.0, math.inf)} == {0}


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"contexts": (48, 64), "contexts_until": (0.5,)}, r"names 48, which must divide train\.batch_tokens=64"),
        ({"contexts": (32, 16), "contexts_until": (0.5,)}, r"ends with 16, train\.sequence=64 must be the same"),
        ({"contexts": (32, 64), "contexts_until": ()}, r"must ascend and name the end of every stage"),
        ({"contexts": (16, 32, 64), "contexts_until": (0.5, 0.4)}, r"contexts_until=0\.5,0\.4 must ascend"),
        ({"contexts": (32, 64), "contexts_until": (1.0,)}, r"must lie within 0\.\.1"),
        ({"packed": True}, r"packed=True needs train\.order='stream'"),
    ],
)
def test_impossible_schedules_are_refused(changes: dict, says: str) -> None:
    """A context that does not divide the batch, ends out of order or outside the clock: the recipe says which."""
    with pytest.raises(RecipeError, match=says):
        TrainRecipe(sequence=64, batch_tokens=64, **changes)
