"""What the clock does to rates, momentum, rounding and snapshots."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramgolf.optim.schedule import (
    lr_scale,
    muon_momentum,
    quantise_bits,
    settings_of,
    stages,
    takes_snapshot,
    warmdown_scale,
    warmdown_scale_by_steps,
)
from paramgolf.recipe import BudgetRecipe, OptimRecipe, Recipe, SqueezeRecipe

PUBLISHED = OptimRecipe(
    warmdown=0.0, warmdown_steps=3500, muon_momentum=0.99, muon_momentum_start=0.92, momentum_warmup_steps=1500
)

# (completed steps, milliseconds at the start of the step, scale): spec pr549.md 8.6.
SCALES = [
    (0, 0, 1),
    (1, 133, 1),
    (3000, 249938, 1),
    (3694, 308079.6, 1),
    (3700, 308580, 0.99835560),
    (5000, 417014, 0.62685802),
    (6499, 542220, 0.19787025),
    (6499, 541303, 0.20135108),
    (6662, 555840, 0.15122230),
    (7000, 584853, 0.05179763),
    (7178, 600044, 0),
]


@pytest.mark.parametrize("step,milliseconds,expected", SCALES)
def test_published_warmdown(step: int, milliseconds: float, expected: float) -> None:
    """Spec pr549.md 8.6: the scale from completed steps and elapsed time."""
    assert lr_scale(PUBLISHED, step, milliseconds / 1e3, 600.0) == pytest.approx(expected, abs=1e-8)


def test_published_warmdown_at_one_speed_is_a_share_of_the_clock() -> None:
    """Spec pr549.md 8.6: at 83.5 ms a step decay begins at step 3685.6 of 7185.6, as a share of 292.25 s does."""
    for step in range(0, 7186, 97):
        seconds = step * 0.0835
        share = warmdown_scale(seconds / 600, 292.25 / 600)
        assert warmdown_scale_by_steps(step, seconds, 600.0, 3500) == pytest.approx(share, abs=1e-9)
        assert (share < 1) == (step > 3685.6)


def test_warmdown_by_hand() -> None:
    """One until the last share, then straight to zero."""
    assert [warmdown_scale(f, 0.4) for f in (0.0, 0.6, 0.8, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0.25, 0])
    assert [warmdown_scale(f, 0.0) for f in (0.0, 0.99, 1.0)] == [1, 1, 1]
    assert warmdown_scale(0.5, 1.0) == 0.5
    assert lr_scale(OptimRecipe(warmdown=0.4), 3, 80.0, 100.0) == pytest.approx(0.5)


@given(st.floats(-1, 2), st.floats(-1, 2), st.floats(0, 1))
def test_warmdown_never_rises(one: float, other: float, warmdown: float) -> None:
    """The scale stays within 0..1 and does not rise with the fraction."""
    low, high = sorted((one, other))
    assert 0 <= warmdown_scale(high, warmdown) <= warmdown_scale(low, warmdown) <= 1


@given(st.integers(0, 10_000), st.floats(0, 1000), st.floats(0.001, 1000), st.integers(1, 10_000))
def test_published_warmdown_stays_in_its_range(step: int, seconds: float, limit: float, steps: int) -> None:
    """Whatever the speeds, the scale is within 0..1, and zero when the time is used up."""
    scale = warmdown_scale_by_steps(step, seconds, limit, steps)
    assert 0 <= scale <= 1
    if seconds >= limit:
        assert scale == 0


@pytest.mark.parametrize("step,expected", [(0, 0.92), (1, 0.920046667), (750, 0.955), (1499, 0.989953333)])
def test_published_momentum(step: int, expected: float) -> None:
    """Spec pr549.md 8.4: mu(t), whatever the clock."""
    assert muon_momentum(PUBLISHED, step, 0.9) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("step", [1500, 1501, 9000])
def test_published_momentum_stays_at_its_end(step: int) -> None:
    """Spec pr549.md 8.4: from step 1500 on it is 0.99."""
    assert muon_momentum(PUBLISHED, step, 0.0) == pytest.approx(0.99, abs=1e-12)


def test_momentum_by_the_clock() -> None:
    """With a share of the clock the step does not matter; without a warm-up the final value holds from the start."""
    recipe = OptimRecipe(muon_momentum=0.95, muon_momentum_start=0.85, momentum_warmup=0.2)
    fractions = (0.0, 0.1, 0.2, 0.7)
    assert [muon_momentum(recipe, 77, f) for f in fractions] == pytest.approx([0.85, 0.9, 0.95, 0.95])
    assert muon_momentum(OptimRecipe(), 0, 0.0) == pytest.approx(0.95, abs=1e-12)


def test_rounding_begins_below_its_scale() -> None:
    """The matrices' bits of the squeeze apply once the scale is below the threshold; without one, never."""
    recipe = Recipe("late", optim=OptimRecipe(qat_below=0.15), squeeze=SqueezeRecipe(matrix_bits=5))
    assert [quantise_bits(recipe, scale) for scale in (1.0, 0.15, 0.1499, 0.0)] == [0, 0, 5, 5]
    assert [stage.quantise_bits for stage in stages(recipe)] == [0, 5]
    never = dataclasses.replace(recipe, optim=OptimRecipe())
    assert quantise_bits(never, 0.0) == 0
    assert [stage.quantise_bits for stage in stages(never)] == [0]


def test_snapshots() -> None:
    """EMA takes every step; SWA every 50th once the scale is below 0.2 (spec pr549.md 3.10 k)."""
    assert all(takes_snapshot(OptimRecipe(), step, 1.0) for step in range(1, 4))
    swa = OptimRecipe(average="swa", swa_every=50, swa_below=0.2)
    # The first snapshots of the record's seeds 1337 and 2025 were made at steps 6500 and 6550 (spec pr549.md 6): the
    # step before each had these scales (8.6).
    assert takes_snapshot(swa, 6500, 0.19787025)
    assert not takes_snapshot(swa, 6500, 0.20135108)
    assert not takes_snapshot(swa, 6501, 0.19)


def test_a_step_has_all_its_settings() -> None:
    """Rates, momentum and rounding of one step come from the same reading of the clock."""
    optim = OptimRecipe(warmdown=0.5, qat_below=0.3, momentum_warmup=0.5, muon_momentum_start=0.85, muon_momentum=0.95)
    recipe = Recipe("all", optim=optim, budget=BudgetRecipe(train_seconds=100.0))
    early, late = settings_of(recipe, 0, 25.0), settings_of(recipe, 9, 90.0)
    assert (early.lr_scale, early.momentum, early.quantise_bits) == (1.0, pytest.approx(0.9), 0)
    assert (late.lr_scale, late.momentum, late.quantise_bits) == (pytest.approx(0.2), pytest.approx(0.95), 6)
